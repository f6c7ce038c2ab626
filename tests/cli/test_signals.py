"""What the first, the second and the third signal do, in processes of their own."""

import signal
import subprocess
import sys

import pytest

START = """
import os, signal, time
from itm_fast.cli.signals import Stopped, signals_unwind

for name in ("SIGTERM", "SIGHUP"):  # nohup ignores one of them, and a shell in the background SIGINT
    signal.signal(getattr(signal, name), signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

def send(*names):
    for name in names:
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(0.01)

"""
UNWOUND = """
try:
    with signals_unwind():
        try:
            send(FIRST)
            print("went on")
        finally:
            send(*OTHERS)
            print("cleaned up")
except Stopped as stop:
    print(stop.exit_code)
"""


def run(program, **names):
    lines = "".join(f"{name} = {value!r}\n" for name, value in names.items())
    done = subprocess.run([sys.executable, "-c", START + lines + program], capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout.split("\n")[:-1]


@pytest.mark.parametrize(
    ("first", "others", "code", "printed"),
    [
        ("SIGINT", [], 0, ["cleaned up", "130"]),
        ("SIGTERM", [], 0, ["cleaned up", "143"]),
        ("SIGHUP", [], 0, ["cleaned up", "129"]),
        ("SIGINT", ["SIGINT"], 0, ["cleaned up", "130"]),
        ("SIGTERM", ["SIGINT"], 0, ["cleaned up", "143"]),
        ("SIGINT", ["SIGINT", "SIGINT"], -signal.SIGINT, []),
        ("SIGINT", ["SIGTERM", "SIGTERM"], -signal.SIGTERM, []),
    ],
)
def test_signals(first, others, code, printed):
    assert run(UNWOUND, FIRST=first, OTHERS=others) == (code, printed)


def test_ignored_signals_stay_ignored():
    """As nohup has it."""
    ignored = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    assert run(ignored + UNWOUND, FIRST="SIGHUP", OTHERS=[]) == (0, ["went on", "cleaned up"])


def test_after_a_command_signals_kill_without_a_word():
    """The interpreter is being taken apart then, where an exception would be a traceback."""
    assert run("with signals_unwind(): pass\nsend('SIGINT')") == (-signal.SIGINT, [])


@pytest.mark.parametrize(
    "where", ["weakref.ref(kept, lambda _: send('SIGTERM'))", "weakref.finalize(kept, send, 'SIGTERM')"]
)
def test_a_signal_is_not_lost_where_python_raises_nothing(where):
    program = f"""
import weakref
class Kept: pass
try:
    with signals_unwind():
        kept = Kept()
        held = {where}
        del kept
        time.sleep(30)
        print("went on")
except Stopped as stop:
    print(stop.exit_code)
"""
    assert run(program) == (0, ["143"])


def test_a_signal_that_the_end_overtakes_says_nothing():
    program = """
import weakref
from itm_fast.cli import signals
signals._AGAIN = 60
class Kept: pass
with signals_unwind():
    kept = Kept()
    held = weakref.ref(kept, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    del kept
    print(signal.getitimer(signal.ITIMER_REAL)[0] > 0)
print(signal.getitimer(signal.ITIMER_REAL))
"""
    assert run(program) == (0, ["True", "(0.0, 0.0)"])


def test_other_exceptions_there_are_still_shown():
    program = """
import sys, weakref
class Kept: pass
sys.unraisablehook = lambda unraisable: print("hook:", unraisable.exc_value)
with signals_unwind():
    kept = Kept()
    held = weakref.ref(kept, lambda _: 1 / 0)
    del kept
"""
    assert run(program) == (0, ["hook: division by zero"])
