"""Errors that speak of files, and the warning; arguments of functions raise plain ValueError and TypeError."""

import sys
import warnings


class DataError(ValueError):
    """A file on disk does not hold what it should; the message names the file, the place and what was expected."""


class DataWarning(UserWarning):
    """What was handed in is read and computed as asked, but the result says nothing, or something else than it seems.

    The message has the figure that shows it, and the way out.
    """


def warn(message: str) -> None:
    """Warn with a `DataWarning` that points at the code which called the package.

    Args:
        message: One line.
    """
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, DataWarning, stacklevel=level)
