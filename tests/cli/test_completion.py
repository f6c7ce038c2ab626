"""Completion scripts, each run by its own shell."""

import contextlib
import io
import os
import pty
import select
import shutil
import subprocess
import time

import pytest
from patience import HANG_SECONDS

from itm_fast.cli import main as cli

# What is typed, and what must be among the completions; a leading "-" must not.
TYPED = [
    ("itm-fast ev", "evaluate"),
    ("itm-fast ma", "make-data"),
    ("itm-fast evaluate --proto", "--protocol"),
    ("itm-fast evaluate --protocol coco-5", "coco-5k"),
    ("itm-fast evaluate --sims x.npy --protocol flickr30k-1", "flickr30k-1k"),
    ("itm-fast evaluate --self", "--self-score"),
    ("itm-fast cider --var", "--variant"),
    ("itm-fast train vse_", "vse_infty"),
    ("itm-fast train scan --agg", "--agg-func"),
    ("itm-fast train scan --agg-func LogS", "LogSumExp"),
    ("itm-fast train scan --preset f30k-i-t-l", "f30k-i-t-lse"),
    ("itm-fast train sgraf --no-max", "--no-max-violation"),
    ("itm-fast completion zs", "zsh"),
    ("itm-fast mod", "models"),
    ("itm-fast pro", "protocols"),
    ("itm-fast ensemble a b --exp", "--export"),
]


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        with contextlib.redirect_stdout(io.StringIO()) as script:
            assert cli.main(["completion", shell]) == 0
        (folder / shell).write_text(script.getvalue())
    (folder / "sim file.npy").touch()
    (folder / "sub").mkdir()
    return folder


def needed(shell):
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed")
    return found


def bash_completions(scripts, *lines):
    """COMPREPLY of each line, by the function itself with the words as readline would divide them."""
    program = ["source ./bash"]
    for line in lines:
        words = line.replace("=", " = ").split(" ")
        array = " ".join(f"'{word}'" for word in words)
        program += [f"COMP_WORDS=({array}) COMP_CWORD={len(words) - 1}; _itm_fast", 'echo "${COMPREPLY[*]}"']
    bash = needed("bash")
    done = subprocess.run([bash, "--norc", "-c", "\n".join(program)], capture_output=True, text=True, cwd=scripts)
    assert done.stderr == ""
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_bash(scripts):
    for (typed, wanted), found in zip(TYPED, bash_completions(scripts, *(line for line, _ in TYPED)), strict=True):
        assert found == [wanted], typed


def test_bash_takes_equal_signs_and_underscores(scripts):
    lines = ["itm-fast evaluate --protocol=coco-5", "itm-fast make_data --n_tr", "itm-fast train scan --agg_func Me"]
    assert bash_completions(scripts, *lines) == [["coco-5k"], ["--n-train"], ["Mean"]]


def test_bash_lists_all(scripts):
    commands, flags, models, paths, numbers = bash_completions(
        scripts,
        "itm-fast ",
        "itm-fast evaluate --",
        "itm-fast train ",
        "itm-fast evaluate --sims ",
        "itm-fast demo --dim ",
    )
    assert commands == [*cli.COMMANDS, "--help", "--version"]
    assert {"--sims", "--captions-per-image", "--json", "--help"} <= set(flags)
    assert {"scan", "cvse", "--resume"} <= set(models)
    assert paths == numbers == []  # left to bash's own completion of files, or to nobody


def typed(command, environment, folder, lines):
    """What a shell shows when these lines are typed, each up to its last character."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe(command[0], command, {**os.environ, "TERM": "dumb", **environment})
    shown = []
    try:
        for line in lines:
            os.write(terminal, line.encode())
            screen, deadline = "", time.monotonic() + HANG_SECONDS
            while "<<" not in screen and time.monotonic() < deadline:
                if select.select([terminal], [], [], 0.1)[0]:
                    screen += os.read(terminal, 65536).decode(errors="replace")
            shown.append(screen)
    finally:
        os.close(terminal)
        os.waitpid(pid, 0)
    return shown


def test_bash_completes_files_at_a_prompt(scripts):
    """A blank in a name is quoted, a folder gets its slash: what bash does by itself, and a list of words does not."""
    bash = [needed("bash"), "--norc", "--noprofile", "-i"]
    start = "bind 'set enable-bracketed-paste off'; itm-fast() { printf '<%s|' \"$@\"; echo '<''<'; }; "
    start += "source ./bash; echo '<''<'\n"
    lines = [start, "itm-fast evaluate --sims si\t\n", "itm-fast cider su\t\n", "itm-fast evaluate --prot\teccv\n"]
    _, file, folder, flag = typed(bash, {"PS1": "", "HISTFILE": ""}, scripts, lines)
    assert "<--sims|<sim file.npy|" in file
    assert "<cider|<sub/|" in folder
    assert "<--protocol|<eccv|" in flag


def test_zsh(scripts):
    zsh = [needed("zsh"), "-f", "-i"]
    start = "PS1= PROMPT_EOL_MARK= ; autoload -U compinit; compinit -u -D; unset zle_bracketed_paste; "
    start += "itm-fast() { printf '<%s|' \"$@\"; echo '<''<'; }; source ./zsh; echo '<''<'\n"
    lines = [start, *(f"{line}\t\n" for line, _ in TYPED), "itm-fast evaluate --sims si\t\n"]
    _, *shown, file = typed(zsh, {}, scripts, lines)
    for (line, wanted), screen in zip(TYPED, shown, strict=True):
        assert f"<{wanted}" in screen, (line, screen)
    assert "<sim file.npy|" in file


def test_fish(scripts):
    fish = needed("fish")
    lines = [*(line for line, _ in TYPED), "itm-fast evaluate --sims si"]
    program = "source ./fish; " + "; ".join(f"complete -C '{line}'; echo ==" for line in lines)
    done = subprocess.run([fish, "--no-config", "-c", program], capture_output=True, text=True, cwd=scripts)
    *found, file, _ = done.stdout.split("==\n")
    for (line, wanted), listed in zip(TYPED, found, strict=True):
        assert [entry.split("\t")[0] for entry in listed.splitlines()] == [wanted], line
    assert "sim file.npy" in file


def test_unknown_shell(capsys):
    assert cli.main(["completion", "tcsh"]) == 2
    assert "'tcsh'" in capsys.readouterr().err
