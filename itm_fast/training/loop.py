"""The training loop, top to bottom; which model it trains, it does not ask."""

from __future__ import annotations

import shlex
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itm_fast.config import TrainingConfig
from itm_fast.data.batches import BatchPlan
from itm_fast.models.base import MatchingModel
from itm_fast.models.card import save_model
from itm_fast.nn.losses.semantic_margin import SemanticMarginLoss
from itm_fast.training.distributed import World
from itm_fast.training.log import RunLog
from itm_fast.training.state import save_checkpoint
from itm_fast.training.steps import DivergedError, Steps
from itm_fast.training.stopping import HeldSignals, stop_together

__all__ = ["BEST", "CHECKPOINT", "DivergedError", "Moment", "Result", "train"]

CHECKPOINT, BEST = "checkpoint.pt", "best"
_COLLAPSED_STEPS = 100  # with every loss at the hinge's own value, before it is said


@dataclass
class Result:
    """What a run, or the part of it after it was resumed, came to."""

    losses: list[float] = field(default_factory=list)
    """Of every step, per pair."""
    step: int = 0
    """Batches done, before a resumption too."""
    best: dict[str, float] | None = None
    """The validation that was best, with its "step"."""
    stopped_early: bool = False
    """Whether `patience` ended the run."""


@dataclass(frozen=True)
class Moment:
    """Where a run is, before its first step and after each."""

    step: int
    """Batches done, before a resumption too."""
    n_steps: int
    """Batches of the whole run."""
    first_step: int
    """Batches that were done before a resumption."""
    loss: float | None
    """Of the last step, per pair; None before the first."""
    validation: Mapping[str, Any] | None
    """What the last validation found."""


def train(
    model: MatchingModel,
    plan: BatchPlan,
    config: TrainingConfig,
    *,
    margin: SemanticMarginLoss | None = None,
    triplet_weight: float = 1.0,
    validate: Callable[[], Mapping[str, float]] | None = None,
    folder: Path | None = None,
    log: RunLog | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: Mapping[str, Any] | None = None,
    world: World | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    watch: Callable[[Moment], None] = lambda moment: None,
) -> Result:
    """Trains `model` in place.

    A signal that stops the process waits for the end of a step; a checkpoint of it is kept then.

    Args:
        model: On the device to train on; left in training mode.
        plan: The batches of the whole run.
        config: Optimiser, schedule, precision; `num_epochs`, `batch_size` and `seed` are the plan's.
        margin: SAM over a corpus of the training captions, added to the model's own loss.
        triplet_weight: Of the model's own triplet loss beside it.
        validate: Called every `val_step` steps and after each epoch, with the model in evaluation mode; returns
            numbers, `config.select` among them.
        folder: Gets `checkpoint.pt`, to resume from, and `best`, a model folder; None saves nothing.
        log: Gets a line every `log_step` steps and one a validation.
        settings: What must be equal for a run to be resumed, plain values by name; kept in the checkpoint.
        resume: A state to go on from, as `load_checkpoint` returns it.
        world: This process among several.
        progress: Called with (steps done, steps in all).
        watch: Called with where the run is, before the first step and after each.

    Returns:
        Losses, the best validation.

    Raises:
        DivergedError: The loss is NaN or infinite; the last checkpoint and the best model stay.
        OSError: The disk is full.

    Source:
        kuanghuei/SCAN, train.py; the warm-up is that of woodfrog/vse_infty. Unlike there, two captions of one image
        are no negatives of each other.
    """
    world = world or World()
    run = Steps(model, plan, config, margin, triplet_weight, world)
    if resume is not None:
        run.restore(resume)
    first_step, result = run.step, Result()

    def save() -> None:
        if folder is not None and world.is_first:
            save_checkpoint(folder / CHECKPOINT, run.state(), settings or {})

    def now(loss: float | None = None) -> Moment:
        return Moment(run.step, len(plan), first_step, loss, run.last_validation)

    def conclude() -> None:
        """What follows a step that is done: a validation, a checkpoint."""
        is_validated = validate is not None and run.validation_is_due
        if validate is not None and is_validated:
            if world.size > 1:  # a signal waits for its end, and torchrun for half a minute
                save()
            _validate(run, validate, folder, log)
        if run.step % config.save_step == 0 or is_validated or run.step == len(plan):
            save()

    model.train()
    recent: deque[float] = deque(maxlen=_COLLAPSED_STEPS)
    with ExitStack() as stack:
        held = stack.enter_context(HeldSignals()) if world.size > 1 else None
        try:
            if run.validation_is_due:  # the run was stopped within it
                conclude()
            watch(now())
            started = time.monotonic()
            for batch in () if run.is_out_of_patience else run.batches():
                with HeldSignals():
                    loss, gradient_norm = run.take(batch)
                    result.losses.append(loss)
                    recent.append(loss)
                    is_epoch_end = run.step % plan.steps_per_epoch == 0
                    if log and (run.step % config.log_step == 0 or is_epoch_end):
                        seconds = (time.monotonic() - started) / (run.step - first_step)
                        log.write("train", run.step, _logged(run, loss, gradient_norm, seconds))
                        if _collapsed(recent, model):
                            log.notice(run.step, _collapse_message(model))
                            recent.clear()
                    run.validation_is_due = validate is not None and (run.step % config.val_step == 0 or is_epoch_end)
                if held is not None:
                    stop_together(held, run.device)
                conclude()
                progress(run.step, len(plan))
                watch(now(loss))
                if run.is_out_of_patience:
                    break
        except KeyboardInterrupt:
            if run.step > first_step:
                save()
            if log and folder is not None and (folder / CHECKPOINT).is_file():
                log.notice(run.step, _stop_message(run, folder))
            raise
    result.step, result.best, result.stopped_early = run.step, run.best, run.is_out_of_patience
    model.loss.max_violation = run.max_violation
    return result


def _logged(run: Steps, loss: float, gradient_norm: float | None, seconds: float) -> dict[str, float | None]:
    """Of a step, which take so many seconds each."""
    return {
        "epoch": (run.step - 1) // run.plan.steps_per_epoch,
        "loss": loss,
        "learning_rate": run.learning_rate(),
        "gradient_norm": gradient_norm,
        "pairs_per_second": run.config.batch_size / seconds,
    }


def _validate(run: Steps, validate: Callable[[], Mapping[str, float]], folder: Path | None, log: RunLog | None) -> None:
    run.model.eval()
    try:
        found = dict(validate())
    finally:
        run.model.train()
    with HeldSignals():
        select = run.config.select
        is_better = run.best is None or found[select] > run.best[select]
        run.validations_without_better = 0 if is_better else run.validations_without_better + 1
        if log:
            log.write("validation", run.step, {**found, "is_best": is_better})
        if is_better:
            run.best = {**found, "step": run.step}
            if folder is not None and run.world.is_first:
                save_model(run.model, folder / BEST, found)
        run.last_validation, run.validation_is_due = found, False


def _stop_message(run: Steps, folder: Path) -> str:
    command = "itm-fast train"
    if run.world.size > 1:
        command = f"torchrun --nproc-per-node {run.world.size} -m itm_fast train"
    return (
        f"stopped after step {run.step} of {len(run.plan)}, whose checkpoint is kept; go on with: {command} --resume "
        f"{shlex.quote(str(folder))}"
    )


def _collapsed(recent: deque[float], model: MatchingModel) -> bool:
    """Whether the hardest negatives have pressed all embeddings into one: then each hinge costs the margin, exactly."""
    value = 2 * model.loss.margin
    is_full = len(recent) == _COLLAPSED_STEPS
    return is_full and model.loss.max_violation and all(abs(loss - value) <= 1e-3 * value for loss in recent)


def _collapse_message(model: MatchingModel) -> str:
    return (
        f"the loss has been 2 x margin = {2 * model.loss.margin} a pair for {_COLLAPSED_STEPS} steps: all similarities "
        "are equal, the hardest negatives have collapsed the embeddings. A first epoch with all negatives "
        "(--vse-mean-warmup-epochs 1), a larger batch or a smaller learning rate help"
    )
