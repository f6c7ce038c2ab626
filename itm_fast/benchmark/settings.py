"""What to time: an operator, a shape, its options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import torch

from itm_fast import choices
from itm_fast.ops import semantic_margin

Operator: TypeAlias = Literal["cross-attention", "late-interaction", "triplet", "semantic-margin", "ranking"]
Dtype: TypeAlias = Literal["float32", "bfloat16", "float16"]

OPERATORS: tuple[Operator, ...] = get_args(Operator)
_SETS = {"max_regions": 36, "max_words": 20, "mean_words": 12.0}
# Options of every operator and their defaults; None: that of n_images.
OPTIONS: dict[str, dict[str, Any]] = {
    "cross-attention": {
        **_SETS,
        "cross_attn": "t2i",
        "raw_feature_norm": "clipped_l2norm",
        "agg_func": "LogSumExp",
        "lambda_softmax": 9.0,
        "lambda_lse": 6.0,
    },
    "late-interaction": {**_SETS, "cross_attn": "t2i", "agg_func": "Sum", "lambda_lse": 10.0},
    "triplet": {"margin": 0.2},
    "semantic-margin": {"temperature": 10.0, "sampling": "hardest", "variant": "fixed"},
    "ranking": {"k": 10},
}


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """An operator at a shape. None: the default of the operator; what it does not have must be None.

    Attributes:
        operator: one of OPERATORS.
        n_images: images.
        n_captions: captions; None: n_images, for ranking five times as many. The losses take as many as images.
        dim: of a vector.
        dtype: of the vectors, of the losses' similarities.
        backward: forward and backward instead of forward alone.
        repeats: timed calls of each function.
        threads: of torch on the CPU; None: as they are.
        device: "cpu", "cuda", "cuda:1".
        seed: of the batch.
        max_regions: regions of every image.
        max_words: longest caption.
        mean_words: about how many words a caption has.
        cross_attn: who attends, "t2i" or "i2t".
        raw_feature_norm: of cross-attention.
        agg_func: over the queries.
        lambda_softmax: of cross-attention.
        lambda_lse: of agg_func "LogSumExp".
        margin: of triplet.
        temperature: of semantic-margin.
        sampling: of semantic-margin.
        variant: of semantic-margin.
        k: of ranking: items listed for every query.

    Raises:
        ValueError: a size below 1, an option that the operator does not have, no such device.
    """

    operator: Operator
    n_images: int = 128
    n_captions: int | None = None
    dim: int = 1024
    dtype: Dtype = "float32"
    backward: bool = False
    repeats: int = 5
    threads: int | None = None
    device: str = "cpu"
    seed: int = 0
    max_regions: int | None = None
    max_words: int | None = None
    mean_words: float | None = None
    cross_attn: choices.CrossAttn | None = None
    raw_feature_norm: choices.RawFeatureNorm | None = None
    agg_func: choices.AggFunc | None = None
    lambda_softmax: float | None = None
    lambda_lse: float | None = None
    margin: float | None = None
    temperature: float | None = None
    sampling: semantic_margin.Sampling | None = None
    variant: semantic_margin.Variant | None = None
    k: int | None = None

    def __post_init__(self) -> None:
        """Fill in the operator's defaults and check what does not depend on the batch."""
        if self.operator not in OPTIONS:
            near, names = choices.perhaps(self.operator, OPERATORS), ", ".join(choices.in_order(OPERATORS))
            raise ValueError(f"operator is {self.operator!r}{near}; expected one of {names}")
        own = OPTIONS[self.operator]
        for name in sorted({name for options in OPTIONS.values() for name in options}):
            if getattr(self, name) is None:
                object.__setattr__(self, name, own.get(name))
            elif name not in own:
                raise ValueError(f"{name} is no option of {self.operator}, which has {', '.join(sorted(own))}")
        if self.n_captions is None:
            object.__setattr__(self, "n_captions", self.n_images * (5 if self.operator == "ranking" else 1))
        for name in ("n_images", "n_captions", "dim", "repeats", "threads", "max_regions", "max_words", "k"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}, expected at least 1")
        if self.mean_words is not None and not 0 < self.mean_words < float("inf"):
            raise ValueError(f"mean_words is {self.mean_words}, expected a number above 0")
        self._check_operator()
        self._check_device()

    @property
    def captions(self) -> int:
        """Number of captions."""
        assert self.n_captions is not None
        return self.n_captions

    def options(self, *names: str) -> dict[str, Any]:
        """Those of the named options that the operator has."""
        return {name: getattr(self, name) for name in names if name in OPTIONS[self.operator]}

    def _check_operator(self) -> None:
        n_images, n_captions = self.n_images, self.captions
        if self.operator in ("triplet", "semantic-margin"):
            if n_images != n_captions or n_images < 2:
                raise ValueError(
                    f"n_images is {n_images} and n_captions is {n_captions}; {self.operator} takes as many captions as "
                    "images, at least 2"
                )
        elif self.operator == "ranking":
            if n_captions % n_images:
                raise ValueError(f"n_captions is {n_captions}, expected a multiple of the {n_images} images")
            if self.backward:
                raise ValueError("ranking has no gradient: leave backward out")
            if self.k is not None and self.k > min(n_images, n_captions):
                raise ValueError(f"k is {self.k}, but there are only {min(n_images, n_captions)} items to list")

    def _check_device(self) -> None:
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise ValueError(f'device is {self.device!r}, expected "cpu", "cuda" or "cuda:1"') from error
        if device.type not in ("cpu", "cuda"):
            raise ValueError(f'device is {self.device!r}, expected "cpu" or "cuda": there are kernels for these')
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise ValueError(f"device is {self.device!r}, but torch sees {torch.cuda.device_count()} CUDA devices")
