"""Runs commands of itm-fast in forks of one process that has imported them, as importing torch takes seconds.

Reads a line of JSON a command: {"arguments", "folder", "signals": [[seconds after the one before, number], ...]}.
Writes a line of JSON a command: {"exit", "seconds"}; its output is in the folder's parent, stdout and stderr.
"""

import contextlib
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from itm_fast.cli import main as cli

PRELOADED = ["torch", "torch.utils.tensorboard", "itm_fast.cli.train", "itm_fast.training.run", "itm_fast.models"]
PRELOADED += ["itm_fast.evaluation", "itm_fast.sources.trained_model", "itm_fast.relevance", "itm_fast.data", "tyro"]
PRELOADED += ["itm_fast.cli.demo", "itm_fast.cli.cider", "itm_fast.data.made.synthetic", "itm_fast.reference"]


def serve():
    """Answer until stdin ends; returns, in a fork, the arguments of its command and where it says that it begins."""
    for line in sys.stdin:
        case = json.loads(line)
        begun, begins = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.chdir(case["folder"])
            for stream, descriptor in (("stdout", 1), ("stderr", 2)):
                os.dup2(
                    os.open(Path(case["folder"]).parent / stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor
                )
            return case["arguments"], begins
        os.close(begins)
        os.read(begun, 1)  # a signal in the lines above would not meet the command
        os.close(begun)
        started = time.monotonic()
        for seconds, number in case["signals"]:
            time.sleep(seconds)
            os.kill(pid, number)  # of one that has ended too: it is a zombie until it is waited for
        _, status = os.waitpid(pid, 0)
        print(
            json.dumps({"exit": os.waitstatus_to_exitcode(status), "seconds": time.monotonic() - started}), flush=True
        )
    return None


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    for module in PRELOADED:
        with contextlib.suppress(ImportError):  # an optional library
            importlib.import_module(module)
    command = serve()
    if command is not None:
        arguments, begins = command
        sys.argv = ["itm-fast", *arguments]
        os.write(begins, b".")
        exit_code = cli.main()
        sys.stdout.flush()
        os._exit(exit_code)  # taking apart all that was imported costs more than most commands
