"""Early stopping on a probed metric, evaluated once for each probe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from synbench_lightning.callbacks.metric_keys import DETAILS, TASKS, renamed, sections
from synbench_lightning.callbacks.probing_callback import ProbingCallback
from synbench_lightning.callbacks.run_state import RunStateCallback
from synbench_lightning.checks import check_choice, check_integer, check_number, shown
from synbench_lightning.runtime.lightning_packages import EarlyStopping, LightningModule, Trainer, rank_zero_info


class SynBenchEarlyStopping(RunStateCallback, EarlyStopping):
    """Stop training when a probed metric has stopped improving.

    Lightning's own ``EarlyStopping`` checks at the end of epochs or validations, and counts a stale value as no
    improvement. This one checks once for each probe, and ends the run in that step. A probe that was skipped or
    deferred is not counted. ``Trainer(min_steps=..., min_epochs=...)`` are respected: a run that improves again before
    them continues. The patience counter is saved in checkpoints. The order of the callbacks does not matter.

    Args:
        monitor: a logged key of a :class:`SynBenchCallback` or :class:`BenchmarkCallback`, as ``"synbench/score"``,
            ``"synbench/information"`` (where ``inputs`` are given), ``"synbench/readout"`` (where ``labels`` are),
            ``"synbench/worst"`` or ``"benchmark/value"``.
        patience: number of consecutive probes without improvement after which the run ends, at least 1.
        min_delta: how much higher than the best a value must be to count as an improvement, at least 0.
        mode: ``"max"``, or ``"min"`` for keys where lower is better (``synbench_details/gap``).
        stopping_threshold: end the run as soon as the value is better than this.
        divergence_threshold: end the run as soon as the value is worse than this.
        verbose: tell of every improvement too; the reason of a stop is told anyway.

    Raises:
        ValueError: for a patience or ``min_delta`` outside its range; at fit start if no callback logs under the
            monitored key's prefix; at the first probe if it does not log the key.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from synbench_lightning import SynBenchCallback
        >>> stop = SynBenchEarlyStopping(patience=5)
        >>> trainer = Trainer(callbacks=[SynBenchCallback(every_n_train_steps=200), stop], logger=False)
    """

    def __init__(
        self,
        monitor: str = "synbench/score",
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str = "max",
        stopping_threshold: float | None = None,
        divergence_threshold: float | None = None,
        verbose: bool = False,
    ) -> None:
        if not isinstance(monitor, str):
            raise ValueError(f"`monitor` must be a logged key as 'synbench/score', got {shown(monitor)}.")
        patience = check_integer("patience", patience, 1)
        min_delta = check_number("min_delta", min_delta, "a number of at least 0", 0)
        for name, limit in (("stopping_threshold", stopping_threshold), ("divergence_threshold", divergence_threshold)):
            if limit is not None:
                check_number(name, limit, "a number or None", -math.inf)
        check_choice("mode", mode, ("max", "min"))
        super().__init__(
            monitor, min_delta, patience, verbose, mode, stopping_threshold=stopping_threshold,
            divergence_threshold=divergence_threshold, check_on_train_epoch_end=True,
        )  # fmt: skip
        self._at_start = self.state_dict()

    def _begin(self) -> None:
        EarlyStopping.load_state_dict(self, self._at_start)

    def _restore_state(self, state: Mapping[str, Any]) -> None:
        EarlyStopping.load_state_dict(self, dict(state))
        for name in ("wait_count", "stopped_epoch", "patience"):
            check_integer(name, getattr(self, name), 0)
        if not isinstance(self.best_score, Tensor) or self.best_score.numel() != 1:
            raise ValueError(f"`best_score` must be a tensor with one number, got {self.best_score!r}.")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that something logs the monitored key."""
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        prefixes = [callback.prefix for callback in callbacks if isinstance(callback, ProbingCallback)]
        named = [key for prefix in prefixes if (key := renamed(self.monitor, prefix)) is not None]
        if named:
            raise ValueError(
                f"SynBenchEarlyStopping(monitor={self.monitor!r}): that key is now called {named[0]!r}. "
                f"Use `monitor={named[0]!r}`."
            )
        if not any(self.monitor.partition("/")[0] in sections(prefix) for prefix in prefixes):
            section, _, name = self.monitor.partition("/")
            end = next((end for end in (DETAILS, TASKS) if section.endswith(end)), "")
            keys = " or ".join(f"'{prefix}{end}/{name or 'score'}'" for prefix in prefixes)
            raise ValueError(
                f"SynBenchEarlyStopping(monitor={self.monitor!r}): no callback of this trainer logs that key. "
                + (f"Monitor {keys}." if keys else "Add `SynBenchCallback()` to the trainer's callbacks.")
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: the end of an epoch is no probe."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: the end of a validation is no probe."""

    def on_probe_end(self, trainer: Trainer, pl_module: LightningModule, metrics: Mapping[str, float]) -> None:
        """Judge the value that a probe has just found."""
        if self.monitor not in metrics:
            callbacks = trainer.callbacks  # type: ignore[attr-defined]
            if any(isinstance(one, ProbingCallback) and self.monitor in one.pending for one in callbacks):
                return  # not measured yet
            if any(key.partition("/")[0] == self.monitor.partition("/")[0] for key in metrics):
                raise ValueError(
                    f"SynBenchEarlyStopping(monitor={self.monitor!r}): the probe does not log that key. It logs "
                    f"{', '.join(metrics)}."
                )
            return
        others, trainer.should_stop = trainer.should_stop, False
        super().on_train_epoch_end(trainer, pl_module)
        stop = trainer.should_stop
        if stop and not _minimum_reached(trainer):
            # Lightning would remember the wish and stop at the minimum even if the score improves until then.
            self.stopped_epoch = 0
            if hasattr(self, "stopping_reason"):  # since Lightning 2.6
                self.stopping_reason = type(self.stopping_reason)(0)
            stop = False
        trainer.should_stop = others or stop
        if stop:
            why = getattr(self, "stopping_reason_message", None) or (
                f"{self.monitor} is {metrics[self.monitor]:.3f} after {self.wait_count} probes without improvement; "
                f"best score: {self.best_score:.3f}."
            )
            rank_zero_info(f"Stopped after step {trainer.global_step}. {why}")


def _minimum_reached(trainer: Trainer) -> bool:
    return trainer.global_step >= (trainer.min_steps or 0) and trainer.current_epoch >= (trainer.min_epochs or 0)
