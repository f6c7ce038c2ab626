"""Numbers and options as people write them, for reprs and messages."""

from __future__ import annotations

import numpy as np


def plain(value: object) -> str:
    """A value as text; a number in the fewest digits that mean it, also one that was a float32.

    Args:
        value: anything.

    Returns:
        For a float that a float32 can hold, the shortest text that this float32 is read from; else what `repr` gives.

    Example:
        >>> plain(0.1), plain(0.10000000149011612), plain(10), plain("mean")
        ('0.1', '0.1', '10', "'mean'")
    """
    if not isinstance(value, float):
        return repr(value)
    with np.errstate(over="ignore"):
        single = np.float32(value)
    return str(single) if float(single) == value else repr(float(value))


def named_options(owner: object, *names: str) -> str:
    """Attributes as keyword arguments are written.

    Args:
        owner: has them.
        names: of the attributes.

    Example:
        >>> named_options(range(2, 8, 3), "start", "step")
        'start=2, step=3'
    """
    return ", ".join(f"{name}={plain(getattr(owner, name))}" for name in names)
