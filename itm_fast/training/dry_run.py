"""A run tried out: everything is built, two steps and a batch of the validation are done, nothing is kept."""

from __future__ import annotations

import itertools
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from itm_fast.data.collate import Batch
from itm_fast.models.base import Encoded
from itm_fast.sources.trained_model import ModelScorer
from itm_fast.training.preparation import Notice, check_cache_tokens
from itm_fast.training.run import ReadyRun, RunSettings, ready_run
from itm_fast.training.steps import Steps

_N_STEPS = 2  # the first is slower than those that follow
_TILE = 128  # images, and captions, of the batch of the validation: what is encoded at a time


@dataclass(frozen=True)
class DryRun:
    """What a run would be. Times are estimates from a single step and a single tile."""

    model: str
    """Name in the registry."""
    device: str
    precision: str
    n_images: dict[str, int]
    """Of the splits to train and to validate on, by name."""
    n_captions: dict[str, int]
    """Likewise."""
    n_words: int
    """Of the vocabulary."""
    tokenizer: str | None
    """What splits the captions."""
    shapes: dict[str, tuple[int, ...]]
    """Of a batch on this process, of what the encoders make of it, and of the similarities."""
    n_parameters: int
    n_trained: int
    """Parameters that have a gradient at the first step."""
    checkpoint_bytes: int
    """Weights, and the two moments of the optimiser."""
    peak_bytes: int
    """Memory: on CUDA of tensors on the device, else of the whole process."""
    losses: tuple[float, ...]
    """Of the steps, per pair."""
    step_seconds: float
    steps_per_epoch: int
    num_epochs: int
    validation_seconds: float

    @property
    def epoch_seconds(self) -> float:
        """Of the steps of an epoch, without its validations."""
        return self.step_seconds * self.steps_per_epoch

    def __str__(self) -> str:
        sizes = (
            f"{split} {self.n_images[split]:,} images, {self.n_captions[split]:,} captions" for split in self.n_images
        )
        kind = "of the device" if self.device.startswith("cuda") else "of this process"
        epoch, validation = _duration(self.epoch_seconds), _duration(self.validation_seconds)
        rows = {
            "runs on": f"{self.device}, {self.precision}",
            "data": "; ".join(sizes),
            "vocabulary": f"{self.n_words:,} entries; tokenizer: {self.tokenizer}",
            **{name: " x ".join(map(str, shape)) for name, shape in self.shapes.items()},
            "parameters": f"{self.n_parameters:,}, of which {self.n_trained:,} train; a checkpoint takes "
            f"{_size(self.checkpoint_bytes)}",
            "memory": f"{_size(self.peak_bytes)} {kind} at most, so far",
            "loss": ", ".join(f"{loss:.4f}" for loss in self.losses) + " a pair",
            "time": f"{_duration(self.step_seconds)} a step; an epoch of {self.steps_per_epoch:,} steps about {epoch}, "
            f"all {self.num_epochs} about {_duration(self.epoch_seconds * self.num_epochs)}; a validation about "
            f"{validation}",
        }
        width = max(map(len, rows))
        lines = [f"dry run of {self.model}: {len(self.losses)} steps and a batch of the validation; nothing is kept"]
        return "\n".join([*lines, *(f"  {name:<{width}}  {text}" for name, text in rows.items())])


def dry_run(
    settings: RunSettings, folder: Path, *, resume: bool = False, notice: Notice = lambda message: None
) -> DryRun:
    """Build a run, do two of its steps and score a batch of its validation; nothing is written.

    Args:
        settings: The run's.
        folder: Where the run would be; only read, of a run to resume.
        resume: Whether it would go on from the folder's checkpoint.
        notice: Called with what people should read.

    Raises:
        FileNotFoundError: As `run_training` does; so do the others.
        DataError: Likewise.
        ValueError: Likewise, and where all steps of a run to resume are done.
        DivergedError: Likewise.
    """
    check_cache_tokens(settings)
    if settings.data.cache_tokens is not None:
        settings = replace(settings, data=replace(settings.data, cache_tokens=None))
        notice("no tokens are cached: the encoders are run, whose time a run with its cache does not need")
    with ready_run(settings, folder, resume=resume, notice=notice) as ready:
        made = ready.prepared
        run = Steps(made.model, made.plan, settings.training, made.margin, made.triplet_weight, ready.world)
        if ready.state is not None:
            run.restore(ready.state)
        if run.step == len(made.plan):
            raise ValueError(f"{folder}: all {run.step} steps are done; --num-epochs goes on with more of them")
        shapes, losses, seconds = _steps(run, settings.training.batch_size)
        trained = [parameter for parameter in made.model.parameters() if parameter.requires_grad]
        splits = {settings.data.train_split: made.train_set, settings.data.val_split: made.val_set}
        return DryRun(
            model=settings.model,
            device=str(ready.device),
            precision=settings.training.precision,
            n_images={name: split.n_images for name, split in splits.items()},
            n_captions={name: split.n_captions for name, split in splits.items()},
            n_words=len(made.model.vocabulary),
            tokenizer=made.model.vocabulary.tokenizer,
            shapes=shapes,
            n_parameters=sum(parameter.numel() for parameter in made.model.parameters()),
            n_trained=sum(parameter.numel() for parameter in trained),
            checkpoint_bytes=_n_bytes(made.model.state_dict().values()) + 2 * _n_bytes(trained),
            losses=tuple(losses),
            step_seconds=seconds,
            steps_per_epoch=made.plan.steps_per_epoch,
            num_epochs=settings.training.num_epochs,
            validation_seconds=_validation_seconds(ready),
            peak_bytes=_peak_bytes(ready.device),
        )


def _steps(run: Steps, batch_size: int) -> tuple[dict[str, tuple[int, ...]], list[float], float]:
    """Shapes, the losses of two steps, and the seconds of the last of them, reading its batch included."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(model: nn.Module, inputs: tuple[Batch], encoded: Encoded) -> None:
        (batch,) = inputs
        named = {"regions": batch.regions, "tokens": batch.tokens}
        named |= {"encoded images": encoded.images, "encoded captions": encoded.captions}
        shapes.update({name: tuple(tensor.shape) for name, tensor in named.items()})

    losses, seconds, started = [], 0.0, time.perf_counter()
    hook = run.model.register_forward_hook(note)
    for batch in itertools.islice(run.batches(), _N_STEPS):
        losses.append(run.take(batch)[0])
        seconds, started = time.perf_counter() - started, time.perf_counter()
    hook.remove()
    shapes["similarities"] = (batch_size, shapes["tokens"][0])
    return shapes, losses, seconds


def _validation_seconds(ready: ReadyRun) -> float:
    """Of the whole validation, as a tile of it says, which is encoded and scored and then scored once more."""
    model = ready.prepared.model.eval()
    scorer: ModelScorer = ready.prepared.scorer()
    n_images, n_captions = min(_TILE, scorer.n_images), min(_TILE, scorer.n_captions)

    def seconds(call: Callable[[], Any]) -> float:
        started = time.perf_counter()
        call()
        if ready.device.type == "cuda":
            torch.cuda.synchronize(ready.device)
        return time.perf_counter() - started

    both = seconds(lambda: scorer(slice(0, n_images), slice(0, n_captions)))
    scoring = seconds(lambda: scorer(slice(0, n_images), slice(0, n_captions)))
    model.train()
    rows, columns = scorer.n_images / n_images, scorer.n_captions / n_captions
    return scoring * rows * columns + max(both - scoring, 0) * max(rows, columns)


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _n_bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
