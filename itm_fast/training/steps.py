"""One step of a training after the other, and all that changes by them: what a checkpoint holds."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from itm_fast.config import TrainingConfig
from itm_fast.data.batches import BatchPlan, seed_of
from itm_fast.data.collate import Batch
from itm_fast.errors import DataError
from itm_fast.models.base import MatchingModel
from itm_fast.nn.losses.semantic_margin import SemanticMarginLoss
from itm_fast.sources.devices import in_precision
from itm_fast.training.distributed import World, synchronise_batch_norms
from itm_fast.training.objective import Objective


class DivergedError(ValueError):
    """The loss or its gradient is no longer a number."""


class Steps:
    """Everything that changes while a model is trained, and one step of it.

    Attributes:
        step: Batches done, before a resumption too.
        best: The validation that was best, with its "step".
        last_validation: What the last one found.
        validations_without_better: How many there were since the best.
        validation_is_due: Whether the last step asks for one that has not been.
    """

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
        self.step = 0
        self.best: dict[str, Any] | None = None
        self.last_validation: dict[str, Any] | None = None
        self.validations_without_better, self.validation_is_due = 0, False
        objective = Objective(model, margin, triplet_weight)
        self.objective: nn.Module = objective
        if config.gradient_checkpointing:
            model.checkpoint_gradients()
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

    def batches(self) -> Iterator[Batch]:
        """The batches that are left, read ahead by the workers."""
        loader: DataLoader[Batch] = DataLoader(
            self.plan,
            batch_size=None,
            sampler=range(self.step, len(self.plan)),
            num_workers=self.config.workers,
            pin_memory=self.device.type == "cuda",
            persistent_workers=False,
        )
        try:
            yield from loader
        except DataError as error:  # of a worker it has a traceback in its message
            # Its frames hold the workers in a circle, and the garbage collector would wait five seconds for them.
            traceback.clear_frames(error.__traceback__)
            raise DataError(str(error).rpartition("DataError: ")[2].strip()) from error

    def take(self, batch: Batch) -> tuple[float, float | None]:
        """The next step: one batch forwards and backwards; the optimiser steps when enough of them are added.

        Returns the loss of a pair and the norm of the gradients, None where they are still being added.
        """
        step = self.step
        epoch = step // self.plan.steps_per_epoch
        self._follow_schedule(epoch)
        factor = self.model.follow_schedule(step, self.plan.steps_per_epoch)
        is_last = (step + 1) % self.config.accumulation_steps == 0 or step + 1 == len(self.plan)
        in_its_precision = in_precision(self.device, self.config.precision)
        with self._synchronised(is_last), in_its_precision, self._own_randomness(step):
            loss = self.objective(batch.to(self.device, non_blocking=True))
            value = loss.item()
            if not math.isfinite(value):
                raise DivergedError(self._divergence(step, f"the loss is {value}"))
            self.scaler.scale(loss * factor / self.config.accumulation_steps).backward()
        norm = self._update(step) if is_last else None
        self.step += 1
        return value / self.config.batch_size, norm

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

    @property
    def is_out_of_patience(self) -> bool:
        """Whether the last validations were no better than the best before, as many as `patience`."""
        return self.config.patience is not None and self.validations_without_better >= self.config.patience

    def state(self) -> dict[str, Any]:
        """What `restore` needs."""
        return {
            "step": self.step,
            "best": self.best,
            "last_validation": self.last_validation,
            "validation_is_due": self.validation_is_due,
            "validations_without_better": self.validations_without_better,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "gradients": {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None},
            "scaler": self.scaler.state_dict(),
            "margin": None if self.margin is None else self.margin.get_extra_state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["weight_decay"] = self.config.weight_decay  # like the learning rate, which follows its schedule
        for name, parameter in self.model.named_parameters():
            gradient = state["gradients"].get(name)
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
        self.scaler.load_state_dict(state["scaler"])
        if self.margin is not None:
            self.margin.set_extra_state(state["margin"])
        self.validations_without_better = state["validations_without_better"]
        self.step, self.best = state["step"], state["best"]
        self.last_validation = state.get("last_validation")  # these two are younger than some checkpoints
        self.validation_is_due = state.get("validation_is_due", False)

    def _follow_schedule(self, epoch: int) -> None:
        n_falls = epoch // self.config.lr_update
        if self.config.lr_schedules:
            n_falls = sum(epoch >= first for first in self.config.lr_schedules)
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate * group["factor"] * group["decay"] ** n_falls
        self.model.loss.max_violation = self.max_violation and epoch >= self.config.vse_mean_warmup_epochs

    @contextmanager
    def _own_randomness(self, step: int) -> Iterator[None]:
        """Dropout draws what the number of the step says, on every process something else: a restart repeats it."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed_of(self.config.seed, step, self.world.rank))
            yield

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
