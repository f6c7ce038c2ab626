"""Writing files so that no reader ever sees half of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary name in the same folder, renamed to `path` only if all went well.

    Args:
        path: the file to write or to replace.

    Yields:
        The name to write to.

    Raises:
        FileNotFoundError: the folder of `path` does not exist.
        OSError: what went wrong while writing, such as a full disk, with `path` as its file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with written_aside(Path(folder) / "greeting.txt") as aside:
        ...         _ = aside.write_text("hello")
        ...     (Path(folder) / "greeting.txt").read_text()
        'hello'
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise FileNotFoundError(f"{target.parent}: no such folder to write {target.name} into")
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield aside
        os.replace(aside, target)
    except OSError as error:
        if error.errno is not None and (
            error.filename is None or Path(error.filename) == aside
        ):  # people know the file by its own name only
            error.filename = str(target)
        raise
    except Exception as error:
        from safetensors import SafetensorError  # here, so that it costs no command's help its import

        if isinstance(error, SafetensorError):  # of a full disk too
            raise OSError(f"{target}: could not be written: {error}") from error
        raise
    finally:
        aside.unlink(missing_ok=True)
