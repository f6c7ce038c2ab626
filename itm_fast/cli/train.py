"""`itm-fast train`: any model of the registry on a data set in SCAN's layout."""

from __future__ import annotations

import dataclasses
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from itm_fast.cli.console import print_json, progress_bar, show_moment
from itm_fast.cli.flags import Flag, choice_rules, flags_of
from itm_fast.cli.help import asks_for_help, print_help
from itm_fast.cli.idle_flags import idle_flags

if TYPE_CHECKING:
    from itm_fast.config import DataConfig
    from itm_fast.training.loop import Result
    from itm_fast.training.run import RunSettings


RESUME = Flag("resume", "Run", "Go on with the run in this folder, with its settings.", "PATH")

# Headings of --help, where they are not those of a flag's own dataclass.
_LOSS, _OUTPUT, _SAM = "Loss", "Output", "Semantic adaptive margin (SAM)"
_HEADINGS = {
    **dict.fromkeys(("margin", "max-violation", "vse-mean-warmup-epochs"), _LOSS),
    **dict.fromkeys(("val-step", "select", "patience", "val-split"), "Validation"),
    **dict.fromkeys(("device", "workers", "precision", "compile"), "Device"),
    "dry-run": "Run",
    **dict.fromkeys(("log-step", "save-step", "trackers"), _OUTPUT),
}


@dataclass(frozen=True)
class RunOptions:
    """Where a run is kept."""

    model_name: Path = Path("runs/train")
    """Folder of the run: checkpoint.pt to resume from, best/ for the best model, log.jsonl."""
    logger_name: Path | None = None
    """Folder of log.jsonl and tensorboard/; None: that of the run."""
    json: bool = False
    """Print the result as one JSON object."""
    dry_run: bool = False
    """Build everything, do two steps and a batch of the validation, print shapes, parameters, memory and times, and
    keep nothing."""


@dataclass(frozen=True)
class Train:
    """A parsed command line."""

    settings: RunSettings
    options: RunOptions
    resume: bool
    notes: list[str]
    """What to say of its flags."""


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
    from itm_fast.training.run import SETTINGS, RunSettings

    folder = _taken(arguments, "--resume")
    if folder is not None:
        folder = str(Path(folder).parent) if folder.endswith("checkpoint.pt") else folder
        settings = RunSettings.load(Path(folder) / SETTINGS)
        name = settings.model
        if arguments and not arguments[0].startswith("-"):
            given = arguments.pop(0)
            if given != name:
                raise ValueError(f"{folder} holds a run of {name}, not of {given}; leave the model's name out")
        options = RunOptions(model_name=Path(folder))
    else:
        name = arguments.pop(0)
        preset = _preset(name, _taken(arguments, "--preset"))
        settings = RunSettings(name, preset.model, DataConfig(), preset.training, SAMConfig())
        options = RunOptions()
    if asks_for_help(arguments):
        print_help(f"itm-fast train {name} [--preset NAME] [FLAGS]", _about(name), _flags(name, settings, options))
        return 0
    return _parsed(arguments, name, settings, options, folder is not None)


def flags_of_model(name: str) -> list[Flag]:
    """The flags of `itm-fast train MODEL`, with the defaults that hold without a preset.

    Args:
        name: The model's in the registry.
    """
    from itm_fast.config import DataConfig, SAMConfig
    from itm_fast.training.run import RunSettings

    preset = _preset(name, None)
    return _flags(name, RunSettings(name, preset.model, DataConfig(), preset.training, SAMConfig()), RunOptions())


def run(args: Train) -> int:
    """Train, say what came of it, and return the exit code."""
    from itm_fast.training.run import run_training

    options = args.options
    is_first = os.environ.get("RANK", "0") == "0"
    for note in args.notes if is_first else ():
        _notice(note)
    if options.dry_run:
        return _try_out(args, is_first)
    with progress_bar(f"train {args.settings.model}") as progress:
        result = run_training(
            args.settings,
            options.model_name,
            resume=args.resume,
            log_folder=options.logger_name,
            notice=_notice if is_first else _silent,
            watch=lambda moment: show_moment(moment, progress),
        )
    if not is_first:
        return 0
    if options.json:
        print_json(_as_dict(result, options.model_name))
    else:
        print(_as_text(result, args.settings, options.model_name))
    return 0


def _try_out(args: Train, is_first: bool) -> int:
    from itm_fast.training.dry_run import dry_run

    tried = dry_run(args.settings, args.options.model_name, resume=args.resume, notice=_notice if is_first else _silent)
    if is_first and args.options.json:
        print_json({**dataclasses.asdict(tried), "epoch_seconds": tried.epoch_seconds})
    elif is_first:
        print(tried)
    return 0


def _notice(message: str) -> None:
    print(f"itm-fast: {message}", file=sys.stderr, flush=True)


def _silent(message: str) -> None:
    """Of several processes that train, one speaks."""


def _taken(arguments: list[str], flag: str) -> str | None:
    """The value of a flag, which is removed, or None."""
    for number, argument in enumerate(arguments):
        if argument == flag:
            if number + 1 == len(arguments):
                raise ValueError(f"{flag} expects a value behind it")
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
    from itm_fast.registry import find_preset, model_class

    kind = model_class(name)
    return Preset(kind.config_class(), TrainingConfig()) if preset is None else find_preset(name, preset)


def _parts(settings: RunSettings, options: RunOptions) -> dict[str, object]:
    """The dataclasses that have the flags, by the heading of each."""
    return {
        f"Model: {settings.model}": settings.model_config,
        "Data": settings.data,
        _SAM: settings.sam,
        "Schedule": settings.training,
        _OUTPUT: options,
    }


def _flags(name: str, settings: RunSettings, options: RunOptions) -> list[Flag]:
    from itm_fast.registry import presets

    text = "Hyper-parameters of a paper, for its data set; flags beside it change single ones."
    found = [Flag("preset", "Run", text, "NAME", tuple(presets(name))), RESUME]
    for heading, part in _parts(settings, options).items():
        flags = flags_of(type(part), part)
        found += [dataclasses.replace(flag, group=_HEADINGS.get(flag.name, heading)) for flag in flags]
    order = ["Run", f"Model: {name}", "Data", _LOSS, _SAM, "Schedule", "Validation", "Device", _OUTPUT]
    return sorted(found, key=lambda flag: order.index(flag.group))


def _about(name: str) -> str:
    return f"Train {name}. --preset takes one of its papers' settings; flags beside it change single ones."


def _parsed(arguments: list[str], name: str, settings: RunSettings, options: RunOptions, resume: bool) -> Train | int:
    import tyro

    parts = {
        "model_config": settings.model_config,
        "data": settings.data,
        "training": settings.training,
        "sam": settings.sam,
        "options": options,
    }
    no_help = tyro.conf.arg(help="")  # itm_fast.cli.help shows it; tyro would look for it in the source of each part
    fields = [(part, Annotated[type(value), no_help]) for part, value in parts.items()]
    flags = dataclasses.make_dataclass("Flags", fields)
    parsed = tyro.cli(
        flags,
        prog=f"itm-fast train {name}",
        args=arguments,
        default=flags(**parts),
        registry=choice_rules(),
        config=(tyro.conf.OmitArgPrefixes,),  # --max-violation and --no-max-violation: presets differ in it
    )
    settings = dataclasses.replace(
        settings,
        model_config=parsed.model_config,
        data=_found(parsed.data),
        training=parsed.training,
        sam=parsed.sam,
    )
    return Train(settings, parsed.options, resume, idle_flags(arguments, settings))


def _found(data: DataConfig) -> DataConfig:
    """The data with the folder that holds them, which by VSE-infinity's arguments is precomp/ in it or beside it."""
    from itm_fast.data.readers.data_folders import data_set_folder

    named = data.folder
    found = data_set_folder(named, "--data-path {parent} --data-name {name}")
    return data if found == named else dataclasses.replace(data, data_path=found.parent, data_name=found.name)


def _overview() -> str:
    from itm_fast.choices import in_order
    from itm_fast.registry import MODELS, preset_names

    width = max(map(len, MODELS))
    lines = ["usage: itm-fast train MODEL [--preset NAME] [FLAGS]", "       itm-fast train --resume FOLDER [FLAGS]", ""]
    lines += ["models and their presets:"]
    for name in in_order(MODELS):
        indent = " " * (width + 4)
        presets = textwrap.wrap(", ".join(in_order(preset_names(name))), 76 - width, break_on_hyphens=False)
        lines.append(f"  {name:<{width}}  " + f"\n{indent}".join(presets))
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
        lines.append(f"evaluate it: itm-fast evaluate --model {folder / 'best'} --data {settings.data.folder}")
    return "\n".join(lines)
