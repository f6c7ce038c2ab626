"""What the kernels' machine code says of itself: registers, stack and threads of kernels, read from a cubin."""

import struct

REGISTERS, FRAME, STACK = 0x2F, 0x11, 0x12  # attributes of .nv.info whose value is a function and a number
SIZED, THREADS = 0x04, 0x05


def _sections(content):
    """Name -> bytes of the sections of a 64-bit ELF file, and the names that its symbols have by number."""
    assert content[:5] == b"\x7fELF\x02"
    at = struct.unpack_from("<Q", content, 40)[0]
    size, n, of_names = struct.unpack_from("<HHH", content, 58)
    headers = [struct.unpack_from("<IIQQQQIIQQ", content, at + i * size) for i in range(n)]

    def text(table, offset):
        begin = headers[table][4] + offset
        return content[begin : content.index(b"\0", begin)].decode()

    sections = {text(of_names, header[0]): content[header[4] : header[4] + header[5]] for header in headers}
    symbols = next(header for header in headers if header[1] == 2)
    names = [text(symbols[6], struct.unpack_from("<I", content, symbols[4] + i)[0]) for i in range(0, symbols[5], 24)]
    return sections, names


def _attributes(info):
    """(attribute, the place of its value) of those that have a size, in a section .nv.info."""
    at = 0
    while at < len(info):
        form, attribute, size = struct.unpack_from("<BBH", info, at)
        at += 4
        if form == SIZED:  # else its value stood in the place of the size
            yield attribute, at
            at += size


def threads(cubin, kernel):
    """Threads of its block, as its launch bounds say."""
    info = _sections(cubin.read_bytes())[0][f".nv.info.{kernel}"]
    return next(struct.unpack_from("<I", info, at)[0] for attribute, at in _attributes(info) if attribute == THREADS)


def usage(cubin):
    """Kernel -> (registers of a thread, bytes of its stack; spilled registers would lie there)."""
    sections, names = _sections(cubin.read_bytes())
    info = sections[".nv.info"]
    found = {}
    for attribute, at in _attributes(info):
        if attribute in (REGISTERS, FRAME, STACK):
            function, number = struct.unpack_from("<II", info, at)
            found.setdefault(names[function], {})[attribute] = number
    return {
        name: (of[REGISTERS], max(of.get(FRAME, 0), of.get(STACK, 0))) for name, of in found.items() if REGISTERS in of
    }
