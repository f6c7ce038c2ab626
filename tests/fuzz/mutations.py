"""Damage to files: bytes of any, and what only one format has: values of JSON, headers, opcodes, chunks."""

import io
import json
import math
import pickletools
import struct
import zipfile
import zlib
from pathlib import PurePath

import numpy as np

DEEP, DIGITS = "<deep>", "<digits>"  # stand for what json.dumps cannot write
_SIZES = (0, 1, -1, 7, 127, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 10**9, 2**62, 2**63 - 1, 2**63, 10**40)
_ODD = (None, True, False, 0.5, -0.0, 1e308, math.inf, math.nan, "", " ", "x", "\0", "\ud800", "../x", "1_0", "٣", "07")
_ODD += ([], {}, [[]], [None], {"": None}, [1, [2]], [1.5], ["a"], DEEP, DIGITS, *_SIZES)
_TOKENS = (b"\xff\xfe", b"\0", b"{", b"}", b"[", b"]", b'"', b"\\", b"null", b"1e999", b"-1", b"NaN", b"Infinity")
_TOKENS += (b"\r", b"\n", b"\r\n", b"9" * 40, b"true", b"\xef\xbb\xbf", b",", b":", b"\t", b"#", b"|", b" ", b"0.5")
_TOKENS += (b"\xe2\x80\xa8", b"\xe9", b"\xed\xa0\x80", b'"image"', b"\x80\x04", b"PK\x03\x04", b"9" * 5000, b"\xc2\x85")
_OPCODES = (b"cos\nsystem\n", b"cbuiltins\neval\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"ctorch\nfloat32\n")
_OPCODES += (b"cargparse\nNamespace\n", b"ccollections\nOrderedDict\n", b"cvocab\nVocabulary\n", b"(", b"t", b"l", b"d")
_OPCODES += (
    b"R",
    b"b",
    b".",
    b"}",
    b"]",
    b")",
    b"0",
    b"2",
    b"N",
    b"\x85",
    b"\x86",
    b"\x87",
    b"\x88",
    b"\x81",
    b"s",
    b"u",
)
_OPCODES += (b"a", b"e", b"Q", b"P0\n", b"J\xff\xff\xff\x7f", b"K\x05", b"r\xff\xff\xff\x7f", b"j\xff\xff\xff\x7f")
_OPCODES += (
    b"X\xff\xff\xff\x7f",
    b"B\xff\xff\xff\xff",
    b"\x8e" + b"\xff" * 7 + b"\x3f",
    b"G" + b"\x7f\xf8" + b"\0" * 6,
)
_OPCODES += (
    b"\x8a\x09" + b"\xff" * 8 + b"\x00",
    b"X\x01\0\0\0a",
    b"C\x01\xff",
    b"i__builtin__\neval\n",
    b"o",
    b"h\x00",
)
_DTYPES = ("<f4", ">f4", "<f8", "<f2", "<i4", ">i8", "|u1", "|i1", "|b1", "|O", "<U9", "|S4", "<M8[s]", "<c8", "|V2")
_DTYPES += (
    "<f16",
    "<U0",
    "|V0",
    "<U2147483647",
    "x",
    "",
    [("a", "<f4")],
    [("a", "<i8", (1000000,))],
    ("<f4", (3,)),
    7,
    None,
)

_TAR_SIZES = (b"0" * 11 + b"\0", b"7" * 11 + b"\0", b"\x80" + bytes(3) + b"\xff" * 8, b"\xff" * 12, b"-1".ljust(12))
_TAR_KINDS = (b"0", b"1", b"2", b"5", b"L", b"K", b"x", b"g", b"S", b"X", b"\0", b"9")
_TAR_NAMES = (b"../x.jpg", b"/a.jpg", b"\xff.txt", b"b.txt", b"", b".", b"a.")


def mutated(content: bytes, name: str, random) -> bytes:
    """A file's content with one to three changes, of its format or of its bytes."""
    of_format = _OF_FORMAT.get(PurePath(name.removesuffix(".part")).suffix)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        change = of_format if of_format is not None and random.random() < 0.7 else changed_bytes
        try:
            content = change(content, random)
        except Exception:  # no longer of its format
            content = changed_bytes(content, random)
    return content


def changed_bytes(content, random):
    """Bytes flipped, cut, put in, doubled; numbers of 2 to 8 bytes; other encodings."""
    kind, place = random.randrange(9), random.randint(0, len(content))
    if kind == 0 and content:
        place %= len(content)
        return content[:place] + bytes([random.randrange(256)]) + content[place + 1 :]
    if kind == 1:
        return content[:place] + random.choice(_TOKENS) + content[place:]
    if kind == 2:
        return content[:place] + content[place + random.randint(1, 8) :]
    if kind == 3:
        return content[:place]
    if kind == 4:
        start = random.randint(0, len(content))
        return content[:place] + content[start : start + random.randint(1, 200)] + content[place:]
    if kind == 5:
        token = random.choice(_TOKENS)
        return content[:place] + token + content[place + len(token) :]
    if kind == 6:
        size, order = random.choice((2, 4, 8)), random.choice(("little", "big"))
        number = (random.choice(_SIZES) % 2 ** (8 * size)).to_bytes(size, order)
        return content[:place] + number + content[place + size :]
    if kind == 7:
        encoding = random.choice(("utf-16", "latin-1", "utf-16-le", "utf-8-sig"))
        return content.decode("utf-8", "replace").encode(encoding, "replace")
    return random.choice((b"", b"\n", content + content, content + b"\n\n", content.replace(b"\n", b"\r")))


def changed_json(content, random):
    """Values of other kinds, keys gone, named otherwise or twice, in deep lists, too large."""
    lines = content.decode().splitlines() if content[:1] == b"{" and b"}\n{" in content else [content.decode()]
    number = random.randrange(len(lines))
    lines[number] = json.dumps(changed_value(json.loads(lines[number]), random))
    text = "\n".join(lines)
    if random.randrange(8) == 0 and text[:1] == "{":  # the first key once more
        text = text[:1] + text[1 : text.find(",")] + ", " + text[1:]
    text = text.replace(f'"{DEEP}"', "[" * 3000 + "]" * 3000).replace(f'"{DIGITS}"', "9" * 5000)
    return text.encode()


def changed_value(value, random):
    """A JSON value with one of the values in it replaced, taken away, doubled or wrapped."""
    inside = isinstance(value, (dict, list)) and len(value) > 0
    if not inside or random.randrange(6) == 0:
        kind = random.randrange(4)
        if kind == 0:
            return [value]
        if kind == 1:
            return str(value)
        return random.choice(_ODD)
    key = random.choice(list(value)) if isinstance(value, dict) else random.randrange(len(value))
    value = value.copy()
    kind = random.randrange(8)
    if kind == 0:
        del value[key]
    elif kind == 1 and isinstance(value, list):
        value.append(value[key])
    elif kind == 1:
        value[random.choice(("x", "", "0", "1.0", "\ud800", f"{key} ", f"0{key}"))] = value.pop(key)
    else:
        value[key] = changed_value(value[key], random)
    return value


def changed_npy(content, random):
    """Another shape, dtype or order in the header, the numbers as they were."""
    file = io.BytesIO(content)
    np.lib.format.read_magic(file)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
    descr, data = np.lib.format.dtype_to_descr(dtype), content[file.tell() :]
    kind = random.randrange(5)
    if kind == 0:
        descr = random.choice(_DTYPES)
    elif kind == 1:
        is_fortran = random.choice((True, 1, None, "no"))
    else:
        sizes = list(shape)
        odd = random.choice((*_SIZES, True, 1.0, "3", None, (2,)))
        if sizes and random.random() < 0.7:
            place = random.randrange(len(sizes))
            sizes[place] = random.choice((odd, sizes[place] + 1))
        else:
            sizes.append(odd)
        shape = random.choice((tuple(sizes), tuple(reversed(shape)), shape[:-1], (*shape, 1), sizes, odd))
    header = repr({"descr": descr, "fortran_order": is_fortran, "shape": shape})
    if random.randrange(10) == 0:
        header = random.choice(("(" * 3000, header * 2, header[:-1], "{}", "[0] * 10**9", header + " " * 20000))
    return npy_of(header, data)


def npy_of(header: str, data: bytes) -> bytes:
    """A .npy file of version 1.0 with a header of any text."""
    text = header.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", min(len(text), 2**16 - 1)) + text + data


def changed_zip(content, random):
    """Members damaged, gone, under other names, packed; sizes that the directory has wrong."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    place = random.randrange(len(members))
    name, held = members[place]
    kind = random.randrange(10)
    if kind == 0:
        del members[place]
    elif kind == 1:
        members[place] = random.choice((f"x{name}", "data.pkl", "../a.npy", "a/", "x")), held
    elif kind == 2:
        members.insert(place, (name + random.choice(("2", ".npy", " ")), held))
    else:
        suffix = ".pkl" if name.endswith(".pkl") else ".npy"
        members[place] = name, mutated(held, f"x{suffix}", random)
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w", random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, held in members:
            archive.writestr(name, held)
    packed = written.getvalue()
    if random.randrange(6) == 0:  # what an entry of the directory says of its size
        at = packed.find(b"PK\x01\x02") + 24
        packed = packed[:at] + struct.pack("<I", random.choice((2**20, 2**31, 2**32 - 2))) + packed[at + 4 :]
    return packed


def changed_tar(content, random):
    """Names, sizes and kinds in a header, its check sum right again; blocks gone or doubled; an end before the end."""
    if content[:2] == b"PK":  # .pth.tar
        return changed_zip(content, random)
    blocks = [content[start : start + 512] for start in range(0, len(content), 512)]
    headers = [place for place, block in enumerate(blocks) if block[257:262] == b"ustar"]
    if not headers:
        raise ValueError("no headers")
    place, kind = random.choice(headers), random.randrange(6)
    if kind == 0:
        del blocks[place]
    elif kind == 1:
        blocks.insert(place, blocks[random.choice(headers)])
    elif kind == 2:
        blocks.insert(place, bytes(512))
    else:
        header = bytearray(blocks[place])
        if kind == 3:
            header[124:136] = random.choice(_TAR_SIZES)
        elif kind == 4:
            header[156:157] = random.choice(_TAR_KINDS)
        else:
            header[0:100] = random.choice(_TAR_NAMES).ljust(100, b"\0")
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        blocks[place] = bytes(header)
    return b"".join(blocks)


def changed_pickle(content, random):
    """Opcodes gone, doubled, swapped, put in."""
    starts = [position for _, _, position in pickletools.genops(content)]
    parts = [content[start:stop] for start, stop in zip(starts, [*starts[1:], len(content)], strict=True)]
    place, other = random.randrange(len(parts)), random.randrange(len(parts))
    kind = random.randrange(5)
    if kind == 0:
        del parts[place]
    elif kind == 1:
        parts.insert(other, parts[place])
    elif kind == 2:
        parts[place], parts[other] = parts[other], parts[place]
    elif kind == 3:
        parts.insert(place, random.choice(_OPCODES))
    else:
        parts[place] = random.choice(_OPCODES)
    return b"".join(parts)


def changed_safetensors(content, random):
    """Another header, the numbers as they were."""
    size = struct.unpack("<Q", content[:8])[0]
    header = changed_json(content[8 : 8 + size], random)
    told = len(header) if random.random() < 0.9 else random.choice(_SIZES) % 2**64
    return struct.pack("<Q", told) + header + content[8 + size :]


def changed_png(content, random):
    """Sizes, depths and kinds of colour in the header, chunks gone or doubled, all with right check sums."""
    chunks, at = [], 8
    while at < len(content):
        length = struct.unpack(">I", content[at : at + 4])[0]
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + length]))
        at += length + 12
    kind, place = random.randrange(4), random.randrange(len(chunks))
    if kind < 2:
        width, height, *others = struct.unpack(">IIBBBBB", chunks[0][1])
        sides = [random.choice((0, 1, 12, 4000, 9000, 2**16, 2**31 - 1)) for _ in range(2)]
        if kind == 0:
            width, height = sides
        else:
            others[random.randrange(len(others))] = random.randrange(20)
        chunks[0] = b"IHDR", struct.pack(">IIBBBBB", width, height, *others)
    elif kind == 2:
        chunks[place] = chunks[place][0], changed_bytes(chunks[place][1], random)
    else:
        chunks[place:place] = random.choice(([], [chunks[place]], [(b"tRNS", b"\0")], [(b"PLTE", b"abc")]))
    return content[:8] + b"".join(png_chunk(name, held) for name, held in chunks)


def png_chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG with its check sum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


_OF_FORMAT = {
    ".json": changed_json,
    ".jsonl": changed_json,
    ".jsonlines": changed_json,
    ".npy": changed_npy,
    ".npz": changed_zip,
    ".pt": changed_zip,
    ".pth": changed_zip,
    ".tar": changed_tar,
    ".pkl": changed_pickle,
    ".safetensors": changed_safetensors,
    ".png": changed_png,
}
