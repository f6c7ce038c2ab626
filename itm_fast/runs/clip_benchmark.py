"""The file that CLIP_benchmark writes of a zero-shot retrieval, from a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_DATASETS = {"coco-5k": "mscoco_captions", "flickr30k-1k": "flickr30k"}


def clip_benchmark_result(report: Mapping[str, Any], model: str, dataset: str) -> dict[str, Any]:
    """What `clip_benchmark eval` writes: hit rates as fractions, of the whole gallery.

    Args:
        report: ``Report`` or what its JSON holds.
        model: stands for the architecture; "pretrained" is left empty.
        dataset: where the protocol has no data set of CLIP_benchmark.

    Source: LAION-AI/CLIP_benchmark, clip_benchmark/cli.py and metrics/zeroshot_retrieval.py.

    Example:
        >>> report = {"i2t": {"R@5": 50.0}, "t2i": {"R@5": 25.0}, "conditions": {"ks": [5], "protocol": "coco-5k"}}
        >>> clip_benchmark_result(report, "mine", "")["metrics"]
        {'image_retrieval_recall@5': 0.25, 'text_retrieval_recall@5': 0.5}
    """
    conditions, full = report["conditions"], report.get("full", report)
    sides = {"image": full["t2i"], "text": full["i2t"]}
    return {
        "dataset": _DATASETS.get(str(conditions["protocol"]), dataset),
        "model": model,
        "pretrained": "",
        "task": "zeroshot_retrieval",
        "metrics": {
            f"{retrieved}_retrieval_recall@{k}": figures[f"R@{k}"] / 100
            for k in conditions["ks"]
            for retrieved, figures in sides.items()
        },
        "language": "en",
    }
