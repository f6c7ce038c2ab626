"""Drop-in for furkanbiten/ncs_metric's metric.py: same class, arguments and dictionary of results.

from metric import Metric  ->  from itm_fast.compat.ncs_metric import Metric
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from itm_fast.choices import Query, in_order, perhaps
from itm_fast.metrics import ncs_at_k, semantic_recall_at_k

_SCORES = ("hard", "soft", "NCS")
_DIRECTIONS: tuple[tuple[str, Query], ...] = (("i2t", "image"), ("t2i", "caption"))


class Metric:
    """Semantic Recall ("hard"), its weighted form ("soft") and NCS, of both directions.

    Where the original leaves equal similarities to an unstable sort, the lower index comes first here. An image that is
    in none of its captions' lists is no error here.

    Source:
        furkanbiten/ncs_metric, metric.py.
    """

    def __init__(
        self,
        metric: npt.ArrayLike,
        sims: npt.ArrayLike,
        recall_type: str,
        score: Sequence[str],
        metric_name: str,
        recall_thresholds: Sequence[int] = (1, 5, 10),
        threshold: int = 1,
        dataset: str = "coco",
        include_anns: bool = False,
        model_name: str = "None",
        text_per_image: int = 5,
    ) -> None:
        """Keep the arguments.

        Args:
            metric: (captions, n_images) φ, captions as rows; there may be more captions than ``sims`` has.
            sims: (n_images, n_images · text_per_image) similarities, array or nested lists.
            recall_type: "recall" or "vse_recall" (any relevant item among the first k), for "hard".
            score: any of "hard", "soft", "NCS".
            metric_name: for the printed heading.
            recall_thresholds: cut-offs k; the last is taken as the largest, as in the original.
            threshold: related images of a query.
            dataset: for the printed heading.
            include_anns: keep the query's own captions or image.
            model_name: for the printed heading.
            text_per_image: captions of every image.

        Raises:
            ValueError: an unknown score or recall_type, thresholds that do not ascend, shapes that do not fit.
        """
        unknown = [name for name in score if name not in _SCORES]
        if isinstance(score, str) or unknown:
            near = perhaps(unknown[0], _SCORES) if unknown else ""
            raise ValueError(f"score is {score!r}, expected a list of {', '.join(in_order(_SCORES))}{near}")
        if recall_type not in ("recall", "vse_recall"):
            raise ValueError(f'recall_type is {recall_type!r}, expected "recall" or "vse_recall"')
        if list(recall_thresholds) != sorted(recall_thresholds):
            raise ValueError(f"recall_thresholds is {list(recall_thresholds)}, expected ascending numbers")
        self._phi = torch.as_tensor(np.asarray(metric, dtype=np.float64)).T
        self._recall_type, self._score, self._m = recall_type, list(score), int(threshold)
        self._ks, self._include_anns, self._per_image = (
            [int(k) for k in recall_thresholds],
            include_anns,
            text_per_image,
        )
        self._heading = f"Model name:{model_name}, Dataset: {dataset}, Recall Type: {recall_type}, Metric:{metric_name}"
        self.set_sims(sims)

    def set_sims(self, sims: npt.ArrayLike) -> None:
        """Take the similarities of another model, of the same shape."""
        self._sims = torch.as_tensor(np.asarray(sims, dtype=np.float64))
        if self._sims.ndim != 2 or self._sims.shape[1] > self._phi.shape[1] or len(self._sims) != len(self._phi):
            raise ValueError(
                f"sims has shape {tuple(self._sims.shape)} and metric {tuple(self._phi.T.shape)}, expected "
                f"(n_images, n_images * {self._per_image}) and at least as many rows of metric as sims has columns"
            )

    def compute_metrics(self) -> dict[str, dict[str, dict[int, float]]]:
        """The scores, which are also printed.

        Returns:
            {"i2t": {"NCS": {1: percent, 5: ..., 10: ...}, ...}, "t2i": {...}}.
        """
        print(f"\n{self._heading}")
        results: dict[str, dict[str, dict[int, float]]] = {}
        for direction, query in _DIRECTIONS:
            print(f"#### {direction.upper()} ####")
            results[direction] = {}
            for name in self._score:
                percent = dict(zip(self._ks, self._scores(name, query).tolist(), strict=True))
                results[direction][name] = percent
                print(f"{name} score with {self._recall_type}", *(f"R@{k}: {p}" for k, p in percent.items()), sep=", ")
        return results

    def _scores(self, name: str, query: Query) -> torch.Tensor:
        options: dict[str, Any] = {
            "query": query,
            "remove_gt": not self._include_anns,
            "captions_per_image": self._per_image,
        }
        if name == "NCS":
            return ncs_at_k(self._sims, self._phi, self._ks, uncut_captions=True, **options)
        cut = self._phi[:, : self._sims.shape[1]]
        if name == "soft":
            return ncs_at_k(self._sims, cut, self._ks, variant="soft", m=self._m, **options)
        options["positives"] = "all" if self._recall_type == "recall" else "any"
        return semantic_recall_at_k(self._sims, cut, self._ks, m=self._m, variant="released", **options)
