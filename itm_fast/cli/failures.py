"""What an error comes to: one line and an exit code."""

from __future__ import annotations

import traceback
from pathlib import Path

UNEXPECTED, BAD_INPUT = 1, 2


def explained(error: Exception) -> tuple[str, int]:
    """The line to print of an error, and the exit code.

    Args:
        error: What a command raised.

    Returns:
        Code 2 of input that was refused, a file that could not be read or written, and a library that is not
        installed; 1 of too little memory, and of what should not happen: then the line says where it did.

    Example:
        >>> explained(FileNotFoundError(2, "No such file or directory", "sims.npy"))
        ('sims.npy: No such file or directory', 2)
    """
    message = str(error) or type(error).__name__
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return f"out of memory: {message}" if str(error) else "out of memory", UNEXPECTED
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror, BAD_INPUT
    if isinstance(error, (ValueError, TypeError, OSError, ImportError)):  # DataError is a ValueError
        return message, BAD_INPUT
    return (
        f"unexpected {type(error).__name__}{_place(error)}: {message}; this is a mistake in itm-fast, not in what it "
        "was given: set ITM_FAST_DEBUG=1 for the traceback",
        UNEXPECTED,
    )


def _is_out_of_memory(error: Exception) -> bool:
    """Whether torch says so: torch.OutOfMemoryError on a device, a RuntimeError on the CPU."""
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _place(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    ours = [frame for frame in frames if Path(__file__).parents[1] in Path(frame.filename).parents]
    frame = (ours or frames)[-1]
    return f" in {Path(frame.filename).name}, line {frame.lineno}"
