"""Warnings about code of the user's that reads a probed value when it may be stale."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any

from torch.optim.lr_scheduler import ReduceLROnPlateau

from synbench_lightning.callbacks.schedule import Schedule
from synbench_lightning.runtime.lightning_packages import Trainer
from synbench_lightning.runtime.named_in_code import LIBRARIES

EACH_BATCH = {
    "training_step", "on_train_batch_start", "on_train_batch_end", "on_before_backward", "on_after_backward",
    "on_before_optimizer_step", "on_before_zero_grad", "optimizer_step", "optimizer_zero_grad", "lr_scheduler_step",
    "configure_gradient_clipping",
}  # fmt: skip
"""Hooks that run in each batch."""
EACH_EPOCH = {
    "on_train_epoch_start", "on_train_epoch_end", "on_validation_start", "on_validation_epoch_start",
    "on_validation_epoch_end", "on_validation_end", "on_validation_batch_end", "validation_step",
}  # fmt: skip
"""Hooks that run at the end of epochs or validations, or then for the first time after a probe."""


def stale_read_warnings(
    trainer: Trainer,
    is_ours: Callable[[str], bool],
    schedule: Schedule,
    intervals: tuple[float, float],
    listeners: type | tuple[type, ...],
) -> Iterator[str]:
    """Warnings about hooks of the module and of callbacks whose code names a key of a probe, at most one for each.

    Args:
        trainer: during a fit.
        is_ours: whether a text is a key of the probes.
        schedule: of the probes.
        intervals: optimizer steps between probes, and between the ends of epochs or validations.
        listeners: types of callbacks that are notified of each probe.
    """
    probes, epochs = intervals
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    plateau = next((one for one in schedulers if isinstance(one, ReduceLROnPlateau)), None)
    by_hand = plateau is not None and not trainer.lightning_module.automatic_optimization
    owners = [trainer.lightning_module, *trainer.callbacks]  # type: ignore[attr-defined]
    for owner in owners:
        if isinstance(owner, listeners):
            continue
        for name, code in _own_code(owner):
            key = next((text for text in code.co_consts if isinstance(text, str) and is_ours(text)), None)
            if key is None:
                continue
            if by_hand and "lr_schedulers" in code.co_names:
                yield (
                    f"`{name}` steps {type(plateau).__name__} and reads {key!r}, but a probe is made every {schedule}: "
                    "a stale value counts as no improvement, and the learning rate is reduced. Step the scheduler once "
                    "for each probe, in the method `on_probe_end(trainer, pl_module, metrics)` of a callback."
                )
                break
            between = 1 if name in EACH_BATCH else epochs if name in EACH_EPOCH else probes
            if probes > between:
                yield (
                    f"`{type(owner).__name__}.{name}` reads {key!r}, but a probe is made every {schedule}: it sees the "
                    "same value repeatedly. To act once for each probe, use the method `on_probe_end(trainer, "
                    "pl_module, metrics)` of a callback."
                )
                break


def _own_code(owner: Any) -> Iterator[tuple[str, CodeType]]:
    """Name and code of the methods that the user's classes of an object define."""
    for kind in type(owner).__mro__:
        if kind.__module__.partition(".")[0] not in LIBRARIES:
            for name, value in vars(kind).items():
                if isinstance(value, FunctionType):
                    yield name, value.__code__
