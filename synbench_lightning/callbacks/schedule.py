"""When a probe is due."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synbench_lightning.checks import check_flag, check_integer
from synbench_lightning.runtime.lightning_packages import Trainer


@dataclass
class Schedule:
    """Probes before the first step, every N optimizer steps or epochs, and after the last step.

    Optimizer steps may come several at a time (several optimizers) or once in several batches (accumulation): a probe
    is due when a multiple of N has been passed since the last one was, not where the step is one.

    Args:
        every_n_train_steps: optimizer steps between probes.
        every_n_epochs: epochs between probes, in place of steps.
        at_start: whether to probe before the first step.
        at_end: whether to probe after the last one.
    """

    every_n_train_steps: int
    every_n_epochs: int | None
    at_start: bool
    at_end: bool

    def __post_init__(self) -> None:
        self.every_n_train_steps = check_integer("every_n_train_steps", self.every_n_train_steps, 1)
        if self.every_n_epochs is not None:
            self.every_n_epochs = check_integer("every_n_epochs", self.every_n_epochs, 1)
        check_flag("probe_at_start", self.at_start)
        check_flag("probe_at_end", self.at_end)
        self.begin()

    def begin(self) -> None:
        """Another run begins."""
        self.last_step = 0  # the optimizer steps made when the last probe that was due was settled
        self.owed = False  # whether one is due that is not settled

    def settle(self, trainer: Trainer) -> None:
        """A probe that was due has been made, put off or left out."""
        self.last_step, self.owed = trainer.global_step, False

    def state(self) -> dict[str, Any]:
        """What is kept in checkpoints."""
        return {"last_step": self.last_step, "owed": self.owed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`state` has given.

        Raises:
            ValueError: if it is not that.
        """
        self.last_step = check_integer("last_step", state.get("last_step"), 0)
        self.owed = check_flag("owed", state.get("owed", False))

    def __str__(self) -> str:
        return f"{self.every_n_epochs} epochs" if self.every_n_epochs else f"{self.every_n_train_steps} steps"

    def due_at_first_batch(self, trainer: Trainer, begins: bool) -> bool:
        """Before the first step of a run; where one is resumed, if the saved weights should have been probed."""
        if begins:
            self.last_step = trainer.global_step
            return self.at_start
        return self.owed or (self.every_n_epochs is None and self._passed(trainer.global_step))

    def due_after_batch(self, trainer: Trainer, batch_idx: int) -> bool:
        """After a batch of training: at an interval, or where the run is foreseen to end."""
        step = trainer.global_step
        if step <= self.last_step:
            return False
        last_batch = trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches
        epoch = trainer.current_epoch + 1
        ends = 0 < trainer.max_steps <= step or (last_batch and epoch == trainer.max_epochs)
        if self.every_n_epochs is None:
            due = self._passed(step)
        else:
            due = last_batch and epoch % self.every_n_epochs == 0
        return due or (ends and self.at_end)

    def due_at_end(self, trainer: Trainer) -> bool:
        """When training has ended, for weights that were not probed after their last batch."""
        return self.at_end and trainer.global_step > self.last_step

    def _passed(self, step: int) -> bool:
        return step // self.every_n_train_steps > self.last_step // self.every_n_train_steps
