"""The training loop, top to bottom; which model it trains, it does not ask."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from itm_fast.config import TrainingConfig
from itm_fast.data.batches import BatchPlan, seed_of
from itm_fast.data.collate import Batch
from itm_fast.errors import DataError
from itm_fast.models.base import MatchingModel
from itm_fast.models.card import save_model
from itm_fast.nn.losses.semantic_margin import SemanticMarginLoss
from itm_fast.training.distributed import World, synchronise_batch_norms
from itm_fast.training.log import RunLog
from itm_fast.training.objective import Objective
from itm_fast.training.state import save_checkpoint

CHECKPOINT, BEST = "checkpoint.pt", "best"
_COLLAPSED_STEPS = 100  # with every loss at the hinge's own value, before it is said


class DivergedError(ValueError):
    """The loss or its gradient is no longer a number."""


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
) -> Result:
    """Trains `model` in place.

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
    run = _Run(model, plan, config, margin, triplet_weight, world)
    result = Result()
    if resume is not None:
        result.step, result.best = run.restore(resume)
    model.train()
    recent: deque[float] = deque(maxlen=_COLLAPSED_STEPS)
    started, first_step = time.monotonic(), result.step
    for batch in run.batches(first_step):
        loss, gradient_norm = run.step(result.step, batch)
        result.step += 1
        result.losses.append(loss)
        recent.append(loss)
        step, is_epoch_end = result.step, result.step % plan.steps_per_epoch == 0
        if log and (step % config.log_step == 0 or is_epoch_end):
            seconds = (time.monotonic() - started) / (step - first_step)
            values: dict[str, float | None] = {
                "epoch": (step - 1) // plan.steps_per_epoch,
                "loss": loss,
                "learning_rate": run.learning_rate(),
            }
            pairs_per_second = config.batch_size / seconds
            values |= {"gradient_norm": gradient_norm, "pairs_per_second": pairs_per_second}
            log.write("train", step, values)
            if _collapsed(recent, model):
                log.notice(step, _collapse_message(model))
                recent.clear()
        is_validated = validate is not None and (step % config.val_step == 0 or is_epoch_end)
        if validate is not None and is_validated:
            _validate(run, result, validate, folder, log)
        is_saved = step % config.save_step == 0 or is_validated or step == len(plan)
        if folder is not None and world.is_first and is_saved:
            save_checkpoint(folder / CHECKPOINT, run.state(result), settings or {})
        progress(step, len(plan))
        if config.patience is not None and run.validations_without_better >= config.patience:
            result.stopped_early = True
            break
    model.loss.max_violation = run.max_violation
    return result


class _Run:
    """Everything that changes while a model is trained, and one step of it."""

    def __init__(
        self,
        model: MatchingModel,
        plan: BatchPlan,
        config: TrainingConfig,
        margin: SemanticMarginLoss | None,
        triplet_weight: float,
        world: World,
    ) -> None:
        self.model, self.plan, self.config, self.margin, self.world = model, plan, config, margin, world
        self.device = next(model.parameters()).device
        self.max_violation = model.loss.max_violation
        self.validations_without_better = 0
        objective = Objective(model, margin, triplet_weight)
        self.objective: nn.Module = objective
        if config.compile:
            model.get_submodule("img_enc").compile()
            model.get_submodule("txt_enc").compile()
        if world.size > 1:
            synchronise_batch_norms(model)
            self.objective = nn.parallel.DistributedDataParallel(
                objective,
                device_ids=[self.device.index] if self.device.type == "cuda" else None,
                find_unused_parameters=True,  # some are in a model only because they are in its original's checkpoints
            )
        self.optimizer = _optimizer(model, config)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=config.precision == "float16")

    def batches(self, first_step: int) -> Iterator[Batch]:
        """The batches from one on, read ahead by the workers."""
        loader: DataLoader[Batch] = DataLoader(
            self.plan,
            batch_size=None,
            sampler=range(first_step, len(self.plan)),
            num_workers=self.config.workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=False,
        )
        try:
            yield from loader
        except DataError as error:  # of a worker it has a traceback in its message
            raise DataError(str(error).rpartition("DataError: ")[2].strip()) from error

    def step(self, step: int, batch: Batch) -> tuple[float, float | None]:
        """One batch forwards and backwards; the optimiser steps when enough of them are added.

        Returns the loss of a pair and the norm of the gradients, None where they are still being added.
        """
        epoch = step // self.plan.steps_per_epoch
        self._follow_schedule(epoch)
        factor = self.model.follow_schedule(step, self.plan.steps_per_epoch)
        is_last = (step + 1) % self.config.accumulation_steps == 0 or step + 1 == len(self.plan)
        with self._synchronised(is_last), self._autocast(), self._own_randomness(step):
            loss = self.objective(batch.to(self.device, non_blocking=True))
            value = loss.item()
            if not math.isfinite(value):
                raise DivergedError(self._divergence(step, f"the loss is {value}"))
            self.scaler.scale(loss * factor / self.config.accumulation_steps).backward()
        return value / self.config.batch_size, self._update(step) if is_last else None

    def _update(self, step: int) -> float:
        self.scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm: Tensor = nn.utils.clip_grad_norm_(parameters, self.config.grad_clip or math.inf)
        value = norm.item()
        if not math.isfinite(value) and not self.scaler.is_enabled():  # the scaler skips such a step by itself
            raise DivergedError(self._divergence(step, f"the norm of the gradients is {value}"))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        return value

    def learning_rate(self) -> float:
        """Of this epoch, where no pretrained part has a share of it."""
        return float(max(group["lr"] for group in self.optimizer.param_groups))

    def state(self, result: Result) -> dict[str, Any]:
        """What `restore` needs."""
        return {
            "step": result.step,
            "best": result.best,
            "validations_without_better": self.validations_without_better,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "gradients": {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None},
            "scaler": self.scaler.state_dict(),
            "margin": None if self.margin is None else self.margin.get_extra_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> tuple[int, dict[str, float] | None]:
        """Go back to a state; returns the steps done and the best validation."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for name, parameter in self.model.named_parameters():
            gradient = state["gradients"].get(name)
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
        self.scaler.load_state_dict(state["scaler"])
        if self.margin is not None:
            self.margin.set_extra_state(state["margin"])
        self.validations_without_better = state["validations_without_better"]
        return state["step"], state["best"]

    def _follow_schedule(self, epoch: int) -> None:
        n_falls = epoch // self.config.lr_update
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * group["factor"] * group["decay"] ** n_falls
        self.model.loss.max_violation = self.max_violation and epoch >= self.config.vse_mean_warmup_epochs

    @contextmanager
    def _own_randomness(self, step: int) -> Iterator[None]:
        """Dropout draws what the number of the step says, on every process something else: a restart repeats it."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed_of(self.config.seed, step, self.world.rank))
            yield

    def _autocast(self) -> AbstractContextManager[object]:
        if self.config.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.config.precision))

    def _synchronised(self, is_last: bool) -> AbstractContextManager[object]:
        if is_last or not isinstance(self.objective, nn.parallel.DistributedDataParallel):
            return nullcontext()
        context: AbstractContextManager[object] = self.objective.no_sync()  # gradients are only added up so far
        return context

    def _divergence(self, step: int, what: str) -> str:
        captions = ", ".join(map(str, self.plan.caption_ids(step).tolist()))
        return (
            f"step {step + 1}: {what}; the last checkpoint and the best model stay as they are. Try a smaller "
            f"learning_rate, or look at the features of the batch's captions: {captions}"
        )


def _optimizer(model: MatchingModel, config: TrainingConfig) -> torch.optim.Optimizer:
    """One group of parameters for each share of the learning rate and each way that it falls."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        groups.setdefault((model.learning_rate_factor(name), model.learning_rate_decay(name)), []).append(parameter)
    kind = torch.optim.Adam if config.optim == "adam" else torch.optim.AdamW
    return kind(
        [{"params": parameters, "factor": factor, "decay": decay} for (factor, decay), parameters in groups.items()],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )


def _validate(
    run: _Run, result: Result, validate: Callable[[], Mapping[str, float]], folder: Path | None, log: RunLog | None
) -> None:
    run.model.eval()
    found = dict(validate())
    run.model.train()
    select = run.config.select
    is_better = result.best is None or found[select] > result.best[select]
    run.validations_without_better = 0 if is_better else run.validations_without_better + 1
    if log:
        log.write("validation", result.step, {**found, "is_best": is_better})
    if is_better:
        result.best = {**found, "step": result.step}
        if folder is not None and run.world.is_first:
            save_model(run.model, folder / BEST, found)


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
