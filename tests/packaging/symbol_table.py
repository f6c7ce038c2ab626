"""What a library asks of others, by binutils' nm."""

import re
import subprocess


def symbols(path, kind):
    """The dynamic symbols of a kind, "--undefined-only" or "--defined-only", without their versions."""
    listed = subprocess.run(["nm", "-D", kind, str(path)], capture_output=True, text=True, check=True).stdout
    return {line.split()[-1].partition("@")[0] for line in listed.splitlines()}


def of_torch(names):
    """Those of libtorch: C functions, which its stable ABI consists of, and C++, which no two versions share."""
    c = {name for name in names if re.match(r"torch_|aoti_torch_", name)}
    return c, {name for name in names if re.match(r"_Z\w*?(2at|3c10|5torch)", name)}
