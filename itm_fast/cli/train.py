"""`itm-fast train`: any model of the registry on a data set in SCAN's layout."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itm_fast.cli.console import print_json, progress_bar

if TYPE_CHECKING:
    from itm_fast.training.loop import Result
    from itm_fast.training.run import RunSettings


@dataclass(frozen=True)
class RunOptions:
    """Where a run is kept."""

    model_name: Path = Path("runs/train")
    """Folder of the run: checkpoint.pt to resume from, best/ for the best model, log.jsonl."""
    logger_name: Path | None = None
    """Folder of log.jsonl and tensorboard/; None: that of the run."""
    json: bool = False
    """Print the result as one JSON object."""


@dataclass(frozen=True)
class Train:
    """A parsed command line."""

    settings: RunSettings
    options: RunOptions
    resume: bool


def parse(arguments: Sequence[str]) -> Train | int:
    """The settings of a command line, or the exit code after a help text.

    Args:
        arguments: MODEL [--preset NAME] FLAGS, or --resume FOLDER FLAGS.

    Raises:
        ValueError: No such model or preset.
        SystemExit: A flag is wrong; tyro has said which.
    """
    arguments = list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    from itm_fast.config import DataConfig, SAMConfig
    from itm_fast.registry import model_class
    from itm_fast.training.run import SETTINGS, RunSettings

    folder = _taken(arguments, "--resume")
    if folder is not None:
        folder = str(Path(folder).parent) if folder.endswith("checkpoint.pt") else folder
        settings = RunSettings.load(Path(folder) / SETTINGS)
        name = settings.model
        options = RunOptions(model_name=Path(folder))
    else:
        name = arguments.pop(0)
        preset = _preset(name, _taken(arguments, "--preset"))
        settings = RunSettings(name, preset.model, DataConfig(), preset.training, SAMConfig())
        options = RunOptions()
    return _parsed(arguments, name, model_class(name).config_class, settings, options, folder is not None)


def run(args: Train) -> int:
    """Train, say what came of it, and return the exit code."""
    from itm_fast.training.run import run_training

    options = args.options
    is_first = os.environ.get("RANK", "0") == "0"
    with progress_bar(f"train {args.settings.model}") as progress:
        result = run_training(
            args.settings,
            options.model_name,
            resume=args.resume,
            log_folder=options.logger_name,
            notice=lambda message: print(f"itm-fast: {message}", file=sys.stderr, flush=True),
            progress=progress,
        )
    if not is_first:
        return 0
    if options.json:
        print_json(_as_dict(result, options.model_name))
    else:
        print(_as_text(result, args.settings, options.model_name))
    return 0


def _taken(arguments: list[str], flag: str) -> str | None:
    """The value of a flag, which is removed, or None."""
    for number, argument in enumerate(arguments):
        if argument == flag and number + 1 < len(arguments):
            value = arguments[number + 1]
            del arguments[number : number + 2]
            return value
        if argument.startswith(f"{flag}="):
            del arguments[number]
            return argument.partition("=")[2]
    return None


def _preset(name: str, preset: str | None) -> Any:
    from itm_fast.config import TrainingConfig
    from itm_fast.models.base import Preset
    from itm_fast.registry import model_class, presets

    kind, found = model_class(name), presets(name)
    if preset is None:
        return Preset(kind.config_class(), TrainingConfig())
    if preset not in found:
        raise ValueError(f"{name} has no preset {preset!r}; presets: {', '.join(found)}")
    return found[preset]


def _parsed(
    arguments: list[str], name: str, config_class: type[Any], settings: RunSettings, options: RunOptions, resume: bool
) -> Train | int:
    import tyro

    parts = {
        "model_config": settings.model_config,
        "data": settings.data,
        "training": settings.training,
        "sam": settings.sam,
        "options": options,
    }
    flags = dataclasses.make_dataclass("Flags", [(part, type(value)) for part, value in parts.items()])
    flags.__doc__ = f"Train {name}. --preset takes one of its papers' settings; flags beside it change single ones."
    parsed = tyro.cli(
        flags,
        prog=f"itm-fast train {name}",
        args=arguments,
        default=flags(**parts),
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
    )
    settings = dataclasses.replace(
        settings,
        model_config=parsed.model_config,
        data=parsed.data,
        training=parsed.training,
        sam=parsed.sam,
    )
    return Train(settings, parsed.options, resume)


def _overview() -> str:
    from itm_fast.registry import MODELS, presets

    width = max(map(len, MODELS))
    lines = ["usage: itm-fast train MODEL [--preset NAME] [FLAGS]", "       itm-fast train --resume FOLDER [FLAGS]", ""]
    lines += ["models and their presets:"]
    lines += [f"  {name:<{width}}  {', '.join(presets(name))}" for name in MODELS]
    lines += ["", "itm-fast train MODEL --help lists the flags with their defaults and units.", ""]
    lines += ["several processes: torchrun --nproc-per-node 2 -m itm_fast train MODEL FLAGS"]
    return "\n".join(lines)


def _as_dict(result: Result, folder: Path) -> dict[str, Any]:
    return {
        "folder": str(folder),
        "steps": result.step,
        "last_loss": result.losses[-1] if result.losses else None,
        "best": result.best,
        "stopped_early": result.stopped_early,
    }


def _as_text(result: Result, settings: RunSettings, folder: Path) -> str:
    lines = [f"{result.step} steps" + (", stopped early" if result.stopped_early else "")]
    if result.losses:
        lines[0] += f"; last loss {result.losses[-1]:.4f} a pair"
    if result.best is not None:
        select = settings.training.select
        lines.append(
            f"best {select} {result.best[select]:.1f} on {settings.data.val_split}, step {result.best['step']}"
        )
        tokenizer = f" --tokenizer {settings.data.tokenizer}"
        lines.append(
            f"evaluate it: itm-fast evaluate --model {folder / 'best'} --data {settings.data.folder}{tokenizer}"
        )
    return "\n".join(lines)
