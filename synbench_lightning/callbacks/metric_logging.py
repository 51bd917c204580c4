"""Publish the values of a probe: to loggers, monitoring callbacks, the progress bar, and early stopping."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch

from synbench_lightning.runtime.lightning_packages import LightningModule, Trainer


@runtime_checkable
class ProbeListener(Protocol):
    """A callback that is notified of each probe, at the step of the probe."""

    def on_probe_end(self, trainer: Trainer, pl_module: LightningModule, metrics: Mapping[str, float]) -> None:
        """Called on every process after a probe has been published."""
        ...


def log_metrics_once(
    trainer: Trainer, metrics: Mapping[str, float], on_bar: tuple[str, float], step: int | None
) -> None:
    """Set the metrics where callbacks monitor them, show one value on the bar, and log each metric once.

    ``LightningModule.log`` would repeat them at later logging steps, drop them between those, and is not allowed in
    every hook. So this function writes to the same places directly.

    Args:
        trainer: the trainer in a fit.
        metrics: values by logged key, the same on every process.
        on_bar: a name, which should be short, and a value for the main progress bar.
        step: position on the loggers' axis; ``None`` to set the metrics without logging them (after a resume).
    """
    device = trainer.strategy.root_device
    trainer.callback_metrics.update({key: torch.tensor(value, device=device) for key, value in metrics.items()})
    name, value = on_bar
    trainer.progress_bar_metrics[name] = value
    if step is not None:
        for logger in trainer.loggers:
            logger.log_metrics(dict(metrics), step=step)


def notify_listeners(trainer: Trainer, pl_module: LightningModule, metrics: Mapping[str, float]) -> None:
    """Notify every ``ProbeListener``, whatever its position in the list of callbacks."""
    for callback in list(trainer.callbacks):  # type: ignore[attr-defined]
        if isinstance(callback, ProbeListener):
            callback.on_probe_end(trainer, pl_module, metrics)


def logger_step(trainer: Trainer) -> int:
    """The number of training steps so far, on the axis of the loggers, when called between two batches.

    It counts a step once, however many optimizers step in it. It has no public name; Lightning's own
    LearningRateMonitor reads it too.
    """
    return trainer.fit_loop.epoch_loop._batches_that_stepped
