"""Protocols by name: the sizes a test set must have, its folds, which figure is quoted, and its annotations."""

from __future__ import annotations

from typing import get_args

from itm_fast.choices import ProtocolName, in_order, perhaps
from itm_fast.evaluation.protocols._protocol import Protocol
from itm_fast.evaluation.protocols.captioned_sets import SETS
from itm_fast.evaluation.protocols.coco import COCO_1K, COCO_5K, COCO_ALL, CXC, CXC_IMAGE_TEXT, ECCV
from itm_fast.evaluation.protocols.flickr30k import FLICKR30K_1K
from itm_fast.evaluation.protocols.pair_choices import CHOICES

RELEASES = (*SETS, *CHOICES, "vidore")
"""Protocols whose images and captions are those of a public release's own files, by their ids or in their order."""
_OF_FIXED_SIZE = {
    protocol.name: protocol for protocol in (FLICKR30K_1K, COCO_1K, COCO_5K, COCO_ALL, ECCV, CXC, CXC_IMAGE_TEXT)
}


def check_protocol(name: str) -> None:
    """Raise ValueError unless there is a protocol of that name."""
    names = get_args(ProtocolName)
    if name not in names:
        raise ValueError(
            f"protocol is {name!r}{perhaps(name, names)}; expected one of {', '.join(in_order(names))} "
            "(itm-fast protocols says what each is)"
        )


def find_protocol(name: str) -> Protocol:
    """The sizes and folds of a protocol that knows them without a file.

    Args:
        name: of a protocol of Flickr30K or MSCOCO.

    Returns:
        Its sizes and folds.

    Raises:
        ValueError: an unknown name, or one whose sizes its annotations say.

    Example:
        >>> find_protocol("coco-1k").folds
        5
    """
    check_protocol(name)
    if name not in _OF_FIXED_SIZE:
        raise ValueError(f"protocol {name} takes its sizes from its annotations")
    return _OF_FIXED_SIZE[name]


__all__ = ["RELEASES", "Protocol", "ProtocolName", "check_protocol", "find_protocol"]
