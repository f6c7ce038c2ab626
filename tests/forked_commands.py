"""Runs commands of itm-fast in forks of one process that has imported them, as importing torch takes seconds."""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from patience import HANG_SECONDS

PRELOADED = ["torch", "torch.utils.tensorboard", "itm_fast.cli.train", "itm_fast.training.run", "itm_fast.models"]
PRELOADED += ["itm_fast.evaluation", "itm_fast.sources.trained_model", "itm_fast.relevance", "itm_fast.data", "tyro"]
PRELOADED += ["itm_fast.cli.demo", "itm_fast.cli.cider", "itm_fast.data.made.synthetic", "itm_fast.reference"]
PRELOADED += ["torch._dynamo"]  # which an optimiser imports when it is made, in two seconds
# What a page of results needs.
PRELOADED_PAGE = ["itm_fast.report", "jinja2", "matplotlib.figure", "matplotlib.backends.backend_svg"]
PRELOADED_PAGE += ["matplotlib.ticker", "PIL.Image", "scipy.stats"]
# What torch imports when it distributes a module over processes.
PRELOADED_DISTRIBUTED = ["torch.distributed.fsdp", "torch.distributed.tensor"]


@contextlib.contextmanager
def forked_commands(*preloaded):
    """While it lasts, a function that runs a command in forks: see `run`.

    Args:
        preloaded: modules that the commands need beside PRELOADED.
    """
    here = Path(__file__).resolve()
    paths = os.pathsep.join(map(str, (here.parents[1], here.parent)))
    server = subprocess.Popen(
        [sys.executable, str(here), *preloaded],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )

    def run(arguments, folder, *, signals=(), environments=({},), first=""):
        """Exit codes and seconds of one command in as many forks as there are environments.

        Args:
            arguments: of itm-fast.
            folder: where the command runs; what fork n prints is in files beside it, stdout{n} and stderr{n}.
            signals: (seconds after the one before, number) for the first fork.
            environments: variables of each fork.
            first: a program that each fork runs before the command.
        """
        case = {"arguments": arguments, "folder": str(folder), "signals": list(signals)}
        server.stdin.write(json.dumps({**case, "environments": list(environments), "first": first}) + "\n")
        server.stdin.flush()
        answer = json.loads(server.stdout.readline())
        return answer["exits"], answer["seconds"]

    yield run
    server.stdin.close()
    assert server.wait(HANG_SECONDS) == 0


def serve():
    """Answer until stdin ends; returns, in a fork, its case and where it says that it begins."""
    for line in sys.stdin:
        case, forks = json.loads(line), []
        for number, environment in enumerate(case["environments"]):
            begun, begins = os.pipe()
            forks.append(os.fork())
            if forks[-1] == 0:
                os.environ |= environment
                os.chdir(case["folder"])
                for stream, descriptor in (("stdout", 1), ("stderr", 2)):
                    path = Path(case["folder"]).parent / f"{stream}{number}"
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
                return case, begins
            os.close(begins)
            os.read(begun, 1)  # a signal in the lines above would not meet the command
            os.close(begun)
        started = time.monotonic()
        for seconds, number in case["signals"]:
            time.sleep(seconds)
            os.kill(forks[0], number)  # of one that has ended too: it is a zombie until it is waited for
        exits = [os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]) for fork in forks]
        print(json.dumps({"exits": exits, "seconds": time.monotonic() - started}), flush=True)
    return None


def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
    for module in [*PRELOADED, *sys.argv[1:]]:
        with contextlib.suppress(ImportError):  # an optional library
            importlib.import_module(module)
    command = serve()
    if command is not None:
        from itm_fast.cli import main as cli

        case, begins = command
        sys.argv = ["itm-fast", *case["arguments"]]
        exec(case["first"], {})
        os.write(begins, b".")
        exit_code = cli.main()
        sys.stdout.flush()
        os._exit(exit_code)  # taking apart all that was imported costs more than most commands


if __name__ == "__main__":
    main()
