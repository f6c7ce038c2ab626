"""``itm-fast completion``: a script with which a shell completes commands, flags, their choices and files."""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from itm_fast.cli.flags import Flag, flags_of

Flags = dict[str, list[Flag]]
"""What is typed before the flags, such as "evaluate" or "train scan" -> the flags."""


@dataclass(frozen=True)
class Completion:
    """Print the completion of commands, flags, choices and files for a shell. It is written once, to a file.

    bash: itm-fast completion bash > ~/.local/share/bash-completion/completions/itm-fast

    zsh: itm-fast completion zsh > ~/.zfunc/_itm-fast, and fpath+=~/.zfunc above compinit in ~/.zshrc

    fish: itm-fast completion fish > ~/.config/fish/completions/itm-fast.fish
    """

    shell: Literal["bash", "zsh", "fish"]
    """The shell."""


def run(args: Completion) -> int:
    """Print the script, and return the exit code."""
    scripts: dict[str, Callable[[Flags], str]] = {"bash": _bash, "zsh": _zsh, "fish": _fish}
    print(scripts[args.shell](all_flags()))
    return 0


def all_flags() -> Flags:
    """The flags of every command, and of `train` with each model."""
    from itm_fast.cli.main import COMMANDS
    from itm_fast.cli.train import RESUME, flags_of_model
    from itm_fast.registry import MODELS

    found = {}
    for name, command in COMMANDS.items():
        if name != "train":
            found[name] = flags_of(getattr(importlib.import_module(command.module), command.arguments))
    found["train"] = [Flag("model", "", "What to train.", "NAME", MODELS, is_positional=True), RESUME]
    return found | {f"train {model}": flags_of_model(model) for model in MODELS}


def _summaries() -> dict[str, str]:
    from itm_fast.cli.main import COMMANDS

    return {name: command.summary for name, command in COMMANDS.items()}


def _options(flags: Iterable[Flag]) -> list[Flag]:
    return [*(flag for flag in flags if not flag.is_positional), Flag("help", "", "Show the help and exit.")]


def _spellings(flag: Flag) -> list[str]:
    return [f"--{flag.name}", *([f"--no-{flag.name}"] if flag.default == "on" else [])]


def _said(flag: Flag) -> str:
    return textwrap.shorten(flag.help.partition(". ")[0].rstrip("."), 72, placeholder=" ...")


# bash: where nothing is found, its own completion of files takes over (-o default), quotes and folders included.

_BASH = """\
# bash completion of itm-fast
_itm_fast() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD-1]}} at=${{COMP_WORDS[1]//_/-}} words=
    COMPREPLY=()
    if [[ $current == = ]]; then current=; elif [[ $previous == = ]]; then previous=${{COMP_WORDS[COMP_CWORD-2]}}; fi
    [[ $current == --* ]] && current=${{current//_/-}}
    [[ $previous == --* ]] && previous=${{previous//_/-}}
    [[ $at == train && $COMP_CWORD -gt 2 && ${{COMP_WORDS[2]}} != -* ]] && at="train ${{COMP_WORDS[2]}}"
    [[ $COMP_CWORD == 1 ]] && at=
    case "$at $previous" in
{values}
    esac
    if [[ -z $words ]]; then
        case "$at" in
            {with_files}) [[ $current != -* ]] && return ;;
        esac
        case "$at" in
{flags}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$current"))
    [[ ${{#COMPREPLY[@]}} == 0 ]] && compopt +o default 2>/dev/null
    return 0
}}
complete -o default -F _itm_fast itm-fast"""


def _bash(contexts: Flags) -> str:
    actions: dict[str, list[str]] = {}
    lines = [f'            "") words="{" ".join(_summaries())} --help --version" ;;']
    with_files = []
    for context, flags in contexts.items():
        words = [choice for flag in flags if flag.is_positional for choice in flag.choices]
        words += [spelling for flag in _options(flags) for spelling in _spellings(flag)]
        lines.append(f'            "{context}") words="{" ".join(words)}" ;;')
        with_files += [f'"{context}"'] * any(flag.is_positional and flag.is_path for flag in flags)
        for flag in flags:
            if flag.metavar and not flag.is_positional:
                nothing = "compopt +o default 2>/dev/null; return"
                action = f'words="{" ".join(flag.choices)}"' if flag.choices else "return" if flag.is_path else nothing
                actions.setdefault(action, []).append(f'"{context} --{flag.name}"')
    values = [f"        {'|'.join(patterns)}) {action} ;;" for action, patterns in actions.items()]
    return _BASH.format(values="\n".join(values), flags="\n".join(lines), with_files="|".join(with_files))


_ZSH = """\
#compdef itm-fast
_itm-fast() {{
    if (( CURRENT == 2 )); then
        local -a commands=(
{commands}
        )
        _describe -t commands command commands
        _arguments '--help[show the help and exit]' '--version[show the version and exit]'
        return
    fi
    shift words; (( CURRENT-- ))
    local at=${{words[1]//_/-}}
    if [[ $at == train && $CURRENT -gt 2 && $words[2] != -* ]]; then
        at="train $words[2]"
        shift words; (( CURRENT-- ))
    fi
    case $at in
{cases}
    esac
}}
if [[ $funcstack[1] == _itm-fast ]]; then _itm-fast "$@"; else compdef _itm-fast itm-fast; fi"""


def _zsh(contexts: Flags) -> str:
    def quoted(text: str) -> str:
        return "'" + text.replace("'", "'\\''") + "'"

    def spec(flag: Flag, place: int) -> list[str]:
        text = _said(flag).replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
        action = f"({' '.join(flag.choices)})" if flag.choices else "_files" if flag.is_path else " "
        if flag.is_positional:
            return [quoted(f"{place}:{flag.name}:{action}")]
        value = f":{flag.metavar}:{action}" if flag.metavar else ""
        return [quoted(f"{name}{'=' if value else ''}[{text}]{value}") for name in _spellings(flag)]

    cases = []
    for context, flags in contexts.items():
        places = [flag for flag in flags if flag.is_positional]
        numbered = [*enumerate(places, 1), *((0, flag) for flag in _options(flags))]
        specs = [text for place, flag in numbered for text in spec(flag, place)]
        lines = " \\\n            ".join(specs)
        cases.append(f"        {quoted(context)}) _arguments \\\n            {lines} ;;")
    commands = (" " * 12 + quoted(f"{name}:{summary}") for name, summary in _summaries().items())
    return _ZSH.format(commands="\n".join(commands), cases="\n".join(cases))


_FISH = """\
# fish completion of itm-fast
function __itm_fast_at
    set -l words (commandline -opc | string replace make_data make-data)
    set -l last (math (count $argv) + 1)
    test (count $words) -ge $last; and test "$words[2..$last]" = "$argv"
end
complete -c itm-fast -e
complete -c itm-fast -f"""


def _fish(contexts: Flags) -> str:
    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    lines = [_FISH]
    first = "-n 'test (count (commandline -opc)) -eq 1'"
    lines += [f"complete -c itm-fast {first} -a {name} -d {quoted(text)}" for name, text in _summaries().items()]
    lines.append(f"complete -c itm-fast {first} -l help -l version")
    for context, flags in contexts.items():
        here = f"complete -c itm-fast -n '__itm_fast_at {context}'"
        places = [flag for flag in flags if flag.is_positional]
        for flag in places:
            n_words = len(context.split()) + 1
            there = (
                f"complete -c itm-fast -n '__itm_fast_at {context}; and test (count (commandline -opc)) -eq {n_words}'"
            )
            lines.append(f"{there} -a {quoted(' '.join(flag.choices))}" if flag.choices else f"{here} -F")
        for flag in _options(flags):
            value = f" -x -a {quoted(' '.join(flag.choices))}" if flag.choices else " -r -F" if flag.is_path else " -x"
            for name in _spellings(flag):
                lines.append(f"{here} -l {name[2:]}{value if flag.metavar else ''} -d {quoted(_said(flag))}")
    return "\n".join(lines)
