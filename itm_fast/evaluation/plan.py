"""What an evaluation ranks, and what its caller said: the plan and the request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from itm_fast.evaluation.beside_recall import Extra, RankedSets, RetrievedSets
from itm_fast.evaluation.protocols import ProtocolName
from itm_fast.evaluation.protocols._protocol import Headline
from itm_fast.evaluation.protocols.relevant_pairs import RelevantPairs
from itm_fast.files.ids import IdsLike
from itm_fast.files.owners import OwnersLike
from itm_fast.metrics.graded_ranks import Ties
from itm_fast.metrics.judgements import Judgements
from itm_fast.metrics.positives import Positives
from itm_fast.metrics.query_positives import QueryPositives
from itm_fast.similarities.scorers import TileScorer
from itm_fast.similarities.selection import Order

Annotations: TypeAlias = str | Path | RelevantPairs
QueryColumn: TypeAlias = Literal[0, 1]

NO_SELF = -float("inf")


@dataclass(frozen=True, eq=False)
class Plan:
    """What an evaluation ranks.

    Attributes:
        scorer: the similarities, in the order of the protocol.
        positives: captions of images; or any positives of image and of caption queries.
        folds: in that order, or None.
        headline: which figures are quoted.
        extras: what is reported beside them.
        judged: graded relevance for image and for caption queries, where nDCG, MAP, MRR, mAP@R and R-Precision are
            reported.
        order: which of the images and captions given these are; None for all of them, in the order given.
        notes: what was left out.
        says_chance: whether the level of a random order is reported beside.
    """

    scorer: TileScorer
    positives: Positives | tuple[QueryPositives, QueryPositives]
    folds: int | None = None
    headline: Headline = "full"
    extras: Sequence[Extra] = ()
    judged: tuple[Judgements, Judgements] | None = None
    order: Order = (None, None)
    notes: Sequence[str] = ()
    says_chance: bool = False

    @property
    def moved(self) -> bool:
        """Whether nothing else may be read by position."""
        return any(part is not None for part in self.order)

    @property
    def annotated(self) -> list[tuple[QueryPositives, QueryPositives]]:
        """Positives beside a caption's own image: ECCV Caption's and CxC's; or all, where a query may have any."""
        found = [(more.image, more.caption) for more in self.extras if isinstance(more, (RankedSets, RetrievedSets))]
        return found if isinstance(self.positives, Positives) else [*found, self.positives]


@dataclass(frozen=True, eq=False)
class Request:
    """What the caller of ``evaluate`` said about the test set; its docstring has the meaning."""

    ks: Sequence[int]
    captions_per_image: int | None
    caption_to_image: OwnersLike | None
    folds: int | None
    protocol: ProtocolName | None
    annotations: Annotations | None
    ids: IdsLike | None
    self_score: float
    query_column: QueryColumn
    ties: Ties = "index"

    def annotations_folder(self) -> str | Path | None:
        """The folder of annotations, if one was given."""
        if isinstance(self.annotations, RelevantPairs):
            raise TypeError(f"annotations is a RelevantPairs, but protocol {self.protocol} reads a folder of files")
        return self.annotations
