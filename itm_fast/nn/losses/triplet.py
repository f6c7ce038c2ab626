"""VSE++'s triplet loss as a module."""

from torch import Tensor, nn

from itm_fast.ops.triplet import triplet_loss
from itm_fast.shown import named_options


class TripletLoss(nn.Module):
    """Bidirectional hinge over a batch's score matrix; see `itm_fast.triplet_loss`."""

    def __init__(self, margin: float = 0.2, max_violation: bool = True) -> None:
        """Set the margin.

        Args:
            margin: In units of the similarities.
            max_violation: Only the hardest negative of each query counts; may be changed while training (warm-up).
        """
        super().__init__()
        self.margin, self.max_violation = margin, max_violation

    def forward(self, sims: Tensor, image_ids: Tensor | None = None) -> Tensor:
        """Sims (n, n), pair i on the diagonal; image_ids (n,) int64 or None -> scalar, summed over queries."""
        return triplet_loss(sims, margin=self.margin, max_violation=self.max_violation, image_ids=image_ids)

    def extra_repr(self) -> str:
        """The options, for print(model)."""
        return named_options(self, "margin", "max_violation")
