"""A training run from its settings: what it is made of, its folder, and the loop."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from itm_fast.sources.devices import resolve_device
from itm_fast.training.distributed import World, joined_world
from itm_fast.training.log import RunLog
from itm_fast.training.loop import CHECKPOINT, Moment, Result, train
from itm_fast.training.preparation import Notice, Prepared, Progress, corpus_of, prepare
from itm_fast.training.run_settings import SETTINGS, RunSettings
from itm_fast.training.state import load_checkpoint

__all__ = ["SETTINGS", "ReadyRun", "RunSettings", "corpus_of", "ready_run", "run_training"]


@dataclass(frozen=True)
class ReadyRun:
    """A run before its first step."""

    prepared: Prepared
    device: torch.device
    world: World
    fingerprint: dict[str, Any]
    """What must not change when it is resumed."""
    state: dict[str, Any] | None
    """Of the checkpoint to resume from."""


@contextmanager
def ready_run(settings: RunSettings, folder: Path, *, resume: bool, notice: Notice) -> Iterator[ReadyRun]:
    """All that a run needs, among the other processes as long as the context lasts; nothing is written.

    Args:
        settings: The run's.
        folder: Of the run; holds none, or the checkpoint to resume from.
        resume: Whether that is read.
        notice: Called by the first process with what people should read.

    Raises:
        FileNotFoundError: A file of the data, or of the run to resume, is missing.
        DataError: A file does not hold what it should.
        ValueError: Settings that do not fit the data, a device that is not there, a folder that holds a run.
    """
    device = resolve_device(settings.training.device, notice)
    if not resume and (folder / CHECKPOINT).exists():
        raise ValueError(f"{folder} holds a run already: go on with --resume {folder}, or give another --model-name")
    with joined_world(device) as world:
        if world.size > 1 and device.type == "cuda":
            device = torch.device("cuda", world.local_rank)
        prepared = prepare(settings, device, world, notice if world.is_first else lambda message: None)
        fingerprint = _fingerprint(settings, prepared)
        state = load_checkpoint(folder / CHECKPOINT, fingerprint) if resume else None
        if state is None:
            prepared.model.load_pretrained()
        yield ReadyRun(prepared, device, world, fingerprint, state)


def run_training(
    settings: RunSettings,
    folder: Path,
    *,
    resume: bool = False,
    log_folder: Path | None = None,
    notice: Notice = lambda message: None,
    progress: Progress = lambda done, total: None,
    watch: Callable[[Moment], None] = lambda moment: None,
) -> Result:
    """Train as the settings say; started by torchrun, together with the other processes.

    Args:
        settings: The run's.
        folder: Gets train.json, checkpoint.pt, best/ and, without `log_folder`, the log.
        resume: Go on from the folder's checkpoint.
        log_folder: Gets log.jsonl and tensorboard/.
        notice: Called with what people should read.
        progress: Called with (steps done, steps in all).
        watch: Called with where the run is, before its first step and after each.

    Returns:
        Losses and the best validation.

    Raises:
        FileNotFoundError: A file of the data, or of the run to resume, is missing.
        DataError: A file does not hold what it should.
        ValueError: Settings that do not fit the data.
        DivergedError: The loss is no longer a number.
        OSError: The disk is full.
    """
    with ready_run(settings, folder, resume=resume, notice=notice) as ready:
        world, prepared, log = ready.world, ready.prepared, None
        if world.is_first:
            folder.mkdir(parents=True, exist_ok=True)
            (log_folder or folder).mkdir(parents=True, exist_ok=True)
            settings.save(folder / SETTINGS)
            from_step = ready.state["step"] if ready.state else 0
            log = RunLog(log_folder or folder, trackers=settings.training.trackers, from_step=from_step, notice=notice)
        try:
            return train(
                prepared.model,
                prepared.plan,
                settings.training,
                margin=prepared.margin,
                triplet_weight=prepared.triplet_weight,
                validate=prepared.validate,
                folder=folder,
                log=log,
                settings=ready.fingerprint,
                resume=ready.state,
                world=world,
                progress=progress if world.is_first else lambda done, total: None,
                watch=watch if world.is_first else lambda moment: None,
            )
        finally:
            if log:
                log.close()


def _fingerprint(settings: RunSettings, prepared: Prepared) -> dict[str, Any]:
    """What must not change when a run is resumed; the length of the run and its log may."""
    training = settings.training
    return {
        "model": settings.model,
        "model_config": json.dumps(dataclasses.asdict(prepared.model.config), sort_keys=True, default=str),
        "sam": json.dumps(dataclasses.asdict(settings.sam), sort_keys=True),
        "vocabulary": prepared.model.vocabulary.fingerprint,
        "tokenizer": prepared.model.vocabulary.tokenizer,
        "steps_per_epoch": prepared.plan.steps_per_epoch,
        "batch_size": training.batch_size,
        "accumulation_steps": training.accumulation_steps,
        "optim": training.optim,
        "seed": training.seed,
        "size_augment": training.size_augment,
        "data_subset": settings.data.data_subset,
        "train_split": settings.data.train_split,
        "val_split": settings.data.val_split,  # the best so far is of it, and by select
        "select": training.select,
    }
