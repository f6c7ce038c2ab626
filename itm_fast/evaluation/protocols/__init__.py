"""Protocols by name: the sizes a test set must have, its folds, and which figure is quoted."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from itm_fast.evaluation.protocols._protocol import Protocol
from itm_fast.evaluation.protocols.coco import COCO_1K, COCO_5K
from itm_fast.evaluation.protocols.flickr30k import FLICKR30K_1K

ProtocolName: TypeAlias = Literal["flickr30k-1k", "coco-1k", "coco-5k"]

_PROTOCOLS = {protocol.name: protocol for protocol in (FLICKR30K_1K, COCO_1K, COCO_5K)}


def find_protocol(name: str) -> Protocol:
    """The protocol of that name.

    Args:
        name: "flickr30k-1k", "coco-1k" or "coco-5k".

    Returns:
        Its sizes and folds.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> find_protocol("coco-1k").folds
        5
    """
    if name not in _PROTOCOLS:
        raise ValueError(f"protocol is {name!r}, expected one of {', '.join(get_args(ProtocolName))}")
    return _PROTOCOLS[name]


__all__ = ["Protocol", "ProtocolName", "find_protocol"]
