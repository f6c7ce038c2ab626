"""Files of torch.save, read by torch's restricted unpickler: tensors, and what lies beside them as plain data."""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from itm_fast.errors import DataError
from itm_fast.files.pickled_arrays import PickledArray, PickledDType
from itm_fast.files.plain_text import check_itself

_ASKS = re.compile(r"GLOBAL ([\w.]+)")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
# Classes that hold options, under whatever module: their items and attributes are read, nothing of them is run.
_CLASSES = """
Args Arguments AttrDict AttributeDict Bunch CfgNode Config ConfigDict Configuration Dict DotDict EasyDict HParams Munch
Namespace Options Opts Params SimpleNamespace dotdict edict
"""
_OPTION_CLASSES = frozenset(_CLASSES.split())
_MAX_CLASSES = 20  # that one file may name


class SkippedArray(PickledArray):
    """A NumPy array of a file of torch.save: that it is there is all that is known of it."""


def load_weights_only(path: Path, *, mapped: bool = False, **options: Any) -> Any:
    """torch.load with weights_only, onto the CPU, of a file that does not promise more than it holds.

    Args:
        path: the file, as torch.save wrote it under any version.
        mapped: leave the numbers in the file, which that of torch before 1.6 cannot.
        options: of torch.load.

    Raises:
        Exception: of nearly every kind; `why_unread` has a line for it.
    """
    check_itself(path)
    with path.open("rb") as file:
        head = file.read(16)
    file_size = path.stat().st_size
    if head[:2] == b"PK":
        try:
            with zipfile.ZipFile(path) as archive:
                entries = archive.infolist()
        except zipfile.BadZipFile as error:
            raise ValueError(f"cut short: of {file_size} bytes that begin as torch.save writes them") from error
        if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size > file_size for entry in entries):
            raise ValueError("its entries are packed, or larger than the file, which torch.save writes never")
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped, **options)
    elif head[:1] != b"\x80" or head[8:9] == b"{":  # of a pickle the first; of safetensors both may be
        raise ValueError(f"torch.save writes no such file: {_beginning(head)}")
    else:
        content = path.read_bytes()  # of a file, unlike of bytes, torch would take memory for any length it names
        _check_old(content)
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True, **options)
    _check_sizes(found)
    return found


def _beginning(head: bytes) -> str:
    if head[8:9] == b"{":
        return "it is safetensors, which holds no options"
    return f"it begins with {head[:8]!r}" if head else "it is empty"


def _check_old(content: bytes) -> None:
    """Refuse a file of torch before 1.6 with a storage that has more numbers than the file has bytes."""
    pickles, size = io.BytesIO(content), len(content)
    for _ in range(4):  # a magic number, the version, the machine, and what was saved
        last = 0
        for opcode, argument, _ in pickletools.genops(pickles):
            if isinstance(argument, int):
                last = argument
            if opcode.name == "BINPERSID" and last > size:
                raise ValueError(f"cut short: a tensor of {last} numbers in a file of {size} bytes")


def _check_sizes(content: object) -> None:
    """Refuse a tensor that has more numbers than are stored for it, which would be made room for later."""
    waiting, seen = [content], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, Tensor):
            if item.layout == torch.strided and item.numel() * item.element_size() > item.untyped_storage().nbytes():
                raise ValueError(f"a tensor {tuple(item.shape)} of fewer numbers, repeated; save it with .contiguous()")
        elif isinstance(item, (Mapping, list, tuple)) and id(item) not in seen:
            seen.add(id(item))
            waiting += item.values() if isinstance(item, Mapping) else item


def read_torch(path: Path) -> Any:
    """The content of a file of torch.save, from Python 2 as well.

    Beside tensors and Python's own types there may be NumPy's numbers, which become Python's; NumPy's arrays, each a
    `SkippedArray`; paths, which become strings; and objects that hold options (argparse.Namespace, EasyDict and the
    like), which become Namespaces or OrderedDicts.

    Args:
        path: the file, as torch.save wrote it under any version.

    Raises:
        DataError: it is damaged, or asks for another class.
    """
    allowed = list(_ALLOWED)
    while True:
        try:
            with torch.serialization.safe_globals(allowed), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that encoding, or a pickle protocol, is rarely used
                return load_weights_only(path, encoding="latin1")
        except Exception as error:  # garbage raises nearly every kind of exception
            asks = _ASKS.search(str(error))
            name = asks[1] if asks is not None else ""
            if name.rpartition(".")[2] not in _OPTION_CLASSES or len(allowed) > len(_ALLOWED) + _MAX_CLASSES:
                raise DataError(f"{path}: not a checkpoint that can be read safely: {why_unread(error)}") from error
            allowed.append((OrderedDict, name))


def why_unread(error: Exception) -> str:
    """Why torch.load with weights_only could not read a file, in a line of our own."""
    asks = _ASKS.search(str(error))
    if asks is not None:
        return (
            f"it asks for {asks[1]}, which was not run; only tensors, numbers, texts, lists, dicts and options "
            "(argparse.Namespace, EasyDict) are read. Where you trust the file, load it with the code that wrote it, "
            "turn what is of that class into such, and save it again"
        )
    text = _ESCAPES.sub("", str(error)).strip()
    if "Weights" in text:  # torch's advice goes before its reason
        text = text.rpartition("WeightsUnpickler error:")[2].strip()
    reason = text.partition("\n")[0].removeprefix("Weights only load failed.").strip()
    if reason.startswith("Unsupported operand"):
        return f"it is damaged, or was pickled by another protocol than torch.save's own, 2 ({reason})"
    return reason or type(error).__name__


def _number(dtype: PickledDType, content: bytes | str) -> object:
    """A number of NumPy as one of Python."""
    content = content.encode("latin1") if isinstance(content, str) else content  # of Python 2
    if dtype.name not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
        raise ValueError(f"a NumPy number of type {dtype.name!s:.20}; expected floats, integers or booleans")
    order = dtype.order if dtype.order in ("<", ">") else "<"
    return np.frombuffer(content, dtype=f"{order}{dtype.name}", count=1)[0].item()


def _path(*parts: str) -> str:
    return str(Path(*parts))


def _allowed() -> list[Any]:
    """Names of old and new versions, and what stands for them; nothing of NumPy's is built or called."""
    allowed: list[Any] = [Namespace]
    for module in ("numpy.core", "numpy._core"):
        allowed += [(_number, f"{module}.multiarray.scalar"), (SkippedArray, f"{module}.multiarray._reconstruct")]
    allowed += [(SkippedArray, "numpy.ndarray"), (PickledDType, "numpy.dtype")]
    for module in ("pathlib", "pathlib._local"):
        allowed += [(_path, f"{module}.{kind}Path") for kind in ("", "Posix", "Windows", "PurePosix", "PureWindows")]
    return allowed


_ALLOWED = _allowed()
