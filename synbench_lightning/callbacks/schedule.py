"""When a probe is due."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from synbench_lightning.checks import check_flag, check_integer
from synbench_lightning.runtime.lightning_packages import Trainer, rank_zero_warn

UNCOUNTED = 50
"""Batches without a counted optimizer step, from the start of a fit, after which batches are counted instead."""


@dataclass
class Schedule:
    """Probes before the first step, every N optimizer steps or epochs, and after the last step.

    Optimizer steps may come several at a time (several optimizers) or once in several batches (accumulation): a probe
    is due when a multiple of N was passed since the last probe, even if the current step is not a multiple itself.

    Lightning counts the steps of its own optimizers, in `training_step`. If a fit makes none of these for some time,
    or until it ends, batches are counted instead (:meth:`step`), with a warning.

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
        """Reset the schedule for a new run."""
        self.last_step = 0  # optimizer steps when the last due probe was settled
        self.owed = False  # whether a probe is due and not settled
        self.uncounted = 0  # batches counted in place of steps
        self.batches = 0  # started since then, while no step was counted
        self._first: int | None = 0  # counted steps when the fit began; `None` once there were more

    def step(self, trainer: Trainer) -> int:
        """Optimizer steps made so far; batches where steps are not counted."""
        return trainer.global_step + self.uncounted

    def settle(self, trainer: Trainer) -> None:
        """Record that the due probe was made, deferred or skipped."""
        self.last_step, self.owed = self.step(trainer), False

    def state(self) -> dict[str, Any]:
        """The state for checkpoints."""
        counts = {"uncounted": self.uncounted, "batches": self.batches}
        return {"last_step": self.last_step, "owed": self.owed, **counts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore a state returned by :meth:`state`.

        Raises:
            ValueError: if the state is invalid.
        """
        self.last_step = check_integer("last_step", state.get("last_step"), 0)
        self.owed = check_flag("owed", state.get("owed", False))
        self.uncounted = check_integer("uncounted", state.get("uncounted", 0), 0)
        self.batches = check_integer("batches", state.get("batches", 0), 0)

    def __str__(self) -> str:
        return f"{self.every_n_epochs} epochs" if self.every_n_epochs else f"{self.every_n_train_steps} steps"

    def due_at_first_batch(self, trainer: Trainer, begins: bool) -> bool:
        """Whether to probe before the first step of a run; after a resume, whether the saved weights missed a probe."""
        if begins:
            self.last_step = self.step(trainer)
            return self.at_start
        return self.owed or (self.every_n_epochs is None and self._passed(self.step(trainer)))

    def begin_fit(self, trainer: Trainer) -> None:
        """Start a fit, which may continue a run."""
        self._first = trainer.global_step
        if self.uncounted:  # a batch had begun when the checkpoint was saved
            self.count_uncounted()

    def begin_batch(self) -> None:
        """Start a training batch."""
        if self._first is not None:
            self.batches += 1

    def due_after_batch(self, trainer: Trainer, batch_idx: int) -> bool:
        """Whether to probe after a training batch: at an interval, or where the run is expected to end."""
        last_batch = trainer.is_last_batch or batch_idx + 1 == trainer.num_training_batches
        epoch = trainer.current_epoch + 1
        last_of_all = last_batch and epoch == trainer.max_epochs
        self._count_batch(trainer, last_of_all)
        step = self.step(trainer)
        if step <= self.last_step:
            return False
        ends = 0 < trainer.max_steps <= trainer.global_step or last_of_all
        if self.every_n_epochs is None:
            due = self._passed(step)
        else:
            due = last_batch and epoch % self.every_n_epochs == 0
        return due or (ends and self.at_end)

    def due_at_end(self, trainer: Trainer) -> bool:
        """Whether to probe at the end of training, if the last weights were not probed after their batch."""
        if self.uncounted or (not trainer.global_step and self.batches >= trainer.accumulate_grad_batches):
            self.count_uncounted()
        return self.at_end and self.step(trainer) > self.last_step

    def _count_batch(self, trainer: Trainer, is_last: bool) -> None:
        if self._first is None:
            return
        if trainer.global_step > self._first:
            self._first, self.batches = None, 0
        elif self.uncounted or is_last or self.batches >= max(UNCOUNTED, 2 * trainer.accumulate_grad_batches):
            self.count_uncounted()

    def count_uncounted(self) -> None:
        """Count batches in place of steps from here on, including those so far without a counted step."""
        if self.batches and not self.uncounted:
            rank_zero_warn(
                f"No optimizer step was counted in {self.batches} training batches. From here on, the probe interval "
                "counts batches. Lightning counts the steps of its own optimizers in `training_step`: step with "
                "`self.optimizers().step()` there, rather than with a separate optimizer or in another hook. "
                "`max_steps` and `ModelCheckpoint(every_n_train_steps=...)` depend on that count too."
            )
        self.uncounted, self.batches = self.uncounted + self.batches, 0

    def _passed(self, step: int) -> bool:
        return step // self.every_n_train_steps > self.last_step // self.every_n_train_steps
