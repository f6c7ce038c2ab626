"""The semantic adaptive margin (SAM) loss as a module: a scored corpus, the options, a generator of its own."""

from typing import Protocol

import torch
from torch import Tensor, nn

from itm_fast.errors import warn
from itm_fast.ops import _checks
from itm_fast.ops.semantic_margin import (
    Sampling,
    T2IMargin,
    Variant,
    check_margins,
    check_options,
    semantic_margin_loss,
)
from itm_fast.ops.triplet import Reduction, triplet_loss
from itm_fast.shown import named_options


class ScoredCorpus(Protocol):
    """What the loss asks of an encoded corpus; `itm_fast.Cider.encode` returns one."""

    @property
    def caption_to_image(self) -> Tensor:
        """(n_captions,) int64, the image that each caption was written for."""

    def pairs(self, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
        """phi(references of image_ids[k], caption caption_ids[k]): int64 (n,) each -> (n,) float32 or float64."""

    def relevance(self, image_ids: Tensor, caption_ids: Tensor) -> Tensor:
        """Phi of all pairs: int64 (n,) and (m,) -> (n, m) float32 or float64."""


class SemanticMarginLoss(nn.Module):
    """weight * SAM + triplet_weight * triplet over a batch's score matrix; see `itm_fast.semantic_margin_loss`.

    Only the pairs that were chosen are scored. The generator of the random choices is part of the state.

    Source:
        Biten et al., Is An Image Worth Five Sentences?, WACV 2022; AndresPMD/semantic_adaptive_margin, which has the
        default weights on CVSE's fused embeddings.

    Example:
        >>> from itm_fast import Cider
        >>> captions = [["a dog runs", "a brown dog"], ["a red bus", "the red bus stops"], ["two cats", "cats sleep"]]
        >>> criterion = SemanticMarginLoss(Cider().fit(captions).encode(captions), temperature=3.0)
        >>> sims = (0.5 * torch.eye(3)).requires_grad_()
        >>> criterion(sims, torch.tensor([0, 2, 5])).backward()  # of the pairs (image 0, caption 0), (1, 2), (2, 5)
        >>> sims.grad.diagonal() < 0
        tensor([True, True, True])
    """

    def __init__(
        self,
        relevance: ScoredCorpus,
        *,
        temperature: float = 10.0,
        sampling: Sampling = "hardest",
        variant: Variant = "fixed",
        margin_max: float | None = 1.0,
        margin_min: float | None = None,
        t2i_margin: T2IMargin = "row",
        weight: float = 5.0,
        triplet_weight: float = 3.0,
        margin: float = 0.2,
        max_violation: bool = True,
        mask_same_image: bool = True,
        triplet_mask_same_image: bool = False,
        reduction: Reduction = "sum",
        seed: int = 0,
    ) -> None:
        """Keep corpus and options.

        Args:
            relevance: The corpus, which knows phi of any image and caption.
            temperature: SAM's margin is the difference of relevance divided by it.
            sampling: How SAM's negatives are chosen, as in `itm_fast.semantic_margin_loss`.
            variant: "fixed", "literal" or "released".
            margin_max: Upper bound of SAM's margins, or None.
            margin_min: Lower bound of SAM's margins, or None.
            t2i_margin: "row" or "column".
            weight: Of SAM.
            triplet_weight: Of the triplet loss; 0 drops it.
            margin: Of the triplet loss, in units of the similarities.
            max_violation: Only the hardest negative of each query counts in the triplet loss; may be changed while
                training (warm-up).
            mask_same_image: Captions of one image are no negatives of each other for SAM.
            triplet_mask_same_image: Nor for the triplet loss.
            reduction: "sum" or "mean" over the batch, of both.
            seed: Of the random choices.

        Raises:
            ValueError: An option is unknown or out of range, or the options do not fit each other.
            TypeError: A number is none, or `relevance` no corpus.

        Warns:
            DataWarning: Phi of the corpus is 0 everywhere, so that there is no margin.
        """
        super().__init__()
        if not hasattr(relevance, "pairs"):
            raise TypeError(
                f"relevance must be a corpus, Cider().fit(captions).encode(captions), got {type(relevance).__name__}; "
                "a matrix is for itm_fast.semantic_margin_loss"
            )
        if getattr(relevance, "is_zero", False):
            warn(
                "SAM's margins are all 0, for φ of this corpus is 0 everywhere: the loss only keeps positives above "
                "negatives; fit the Cider on captions that differ from image to image"
            )
        check_options(sampling, variant, t2i_margin)
        check_margins(temperature, margin_max, margin_min)
        _checks.check_choice("reduction", reduction, Reduction)
        for name, value in (("weight", weight), ("triplet_weight", triplet_weight), ("margin", margin)):
            _checks.check_finite(name, value, positive=False)
        self.corpus, self.temperature = relevance, temperature
        self.sampling, self.variant, self.t2i_margin = sampling, variant, t2i_margin
        self.margin_max, self.margin_min = margin_max, margin_min
        self.weight, self.triplet_weight = weight, triplet_weight
        self.margin, self.max_violation = margin, max_violation
        self.mask_same_image, self.triplet_mask_same_image = mask_same_image, triplet_mask_same_image
        self.reduction = reduction
        self.generator = torch.Generator().manual_seed(seed)

    def forward(self, sims: Tensor, caption_ids: Tensor, image_ids: Tensor | None = None) -> Tensor:
        """The loss of a batch of pairs.

        Args:
            sims: (n, n), pair i on the diagonal.
            caption_ids: (n,) int64, the corpus' number of each pair's caption.
            image_ids: (n,) int64, the corpus' number of each pair's image; None: the image of the caption.

        Returns:
            Scalar, as the operators return it.

        Raises:
            ValueError: Shapes or devices do not fit.
            TypeError: An argument has the wrong type or dtype.
        """
        _checks.check_sims(sims)
        _checks.check_pair_indices("caption_ids", caption_ids, sims)
        if image_ids is None:
            owners = self.corpus.caption_to_image.to(sims.device)
            try:
                image_ids = owners[caption_ids]
            except IndexError as error:
                odd = int(caption_ids[(caption_ids < 0) | (caption_ids >= len(owners))][0])
                raise ValueError(f"caption_ids holds {odd}, expected 0 ... {len(owners) - 1}") from error
        _checks.check_pair_indices("image_ids", image_ids, sims)

        def pairs(rows: Tensor, columns: Tensor) -> Tensor:
            return self.corpus.pairs(image_ids[rows], caption_ids[columns]).to(sims.device)

        every = self.sampling == "all"
        loss = self.weight * semantic_margin_loss(
            sims,
            self.corpus.relevance(image_ids, caption_ids).to(sims.device) if every else pairs,
            temperature=self.temperature,
            sampling=self.sampling,
            variant=self.variant,
            margin_max=self.margin_max,
            margin_min=self.margin_min,
            t2i_margin=self.t2i_margin,
            image_ids=image_ids if self.mask_same_image else None,
            generator=self.generator,
            reduction=self.reduction,
        )
        if self.triplet_weight == 0:
            return loss
        return loss + self.triplet_weight * triplet_loss(
            sims,
            margin=self.margin,
            max_violation=self.max_violation,
            image_ids=image_ids if self.triplet_mask_same_image else None,
            reduction=self.reduction,
        )

    def get_extra_state(self) -> Tensor:
        """The generator's state, (k,) uint8: a resumed run draws what the first one would have drawn."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Continues with a state of `get_extra_state`."""
        self.generator.set_state(state.cpu())

    def extra_repr(self) -> str:
        """The options that decide what is computed."""
        of_sam = ("margin_max", "margin_min", "t2i_margin", "mask_same_image")
        names = ("temperature", "weight", "triplet_weight", "margin", "max_violation", *of_sam)
        options = named_options(self, *names, "triplet_mask_same_image", "reduction")
        return f"{self.variant}, {self.sampling}, {options}"
