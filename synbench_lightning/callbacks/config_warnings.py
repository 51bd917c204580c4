"""Settings of a trainer under which a probed metric would mislead, each with the change to make."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from difflib import get_close_matches

from synbench_lightning.callbacks.metric_keys import name_of, renamed, sections
from synbench_lightning.callbacks.schedule import Schedule
from synbench_lightning.runtime.lightning_packages import EarlyStopping, ModelCheckpoint, Trainer, lightning_classes

UNTRIED = ("strategies.DeepSpeedStrategy", "strategies.XLAStrategy", "strategies.SingleDeviceXLAStrategy")
"""Strategies under which no probe was ever made."""


def setup_warnings(trainer: Trainer) -> Iterator[str]:
    """Sentences about what a probe sees under this trainer, where that may not be what is expected."""
    if isinstance(trainer.strategy, lightning_classes(*UNTRIED)):
        yield (
            f"SynBench was never tried with {type(trainer.strategy).__name__}. The first probe, before the first step, "
            "raises if it does not work; then leave the callback out and use `evaluate()` on checkpoints."
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, lightning_classes("callbacks.WeightAveraging")):
            yield (
                f"What is probed are the weights in training, not the averages that {type(callback).__name__} "
                "makes of them."
            )


def interval_warnings(
    trainer: Trainer, prefix: str, schedule: Schedule, listeners: type | tuple[type, ...], probing: str
) -> Iterator[str]:
    """Sentences about callbacks that monitor a key under ``prefix`` when its value is not fresh.

    The trainer is at the start of training, when the number of batches is known. Callbacks of the types ``listeners``
    are told of each probe and need no advice. ``probing`` is the name of the callback that makes the probes.
    """
    steps_per_epoch = math.inf
    if not math.isinf(trainer.num_training_batches):
        steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    for callback, monitor in _monitors(trainer, prefix):
        if callback.mode == "min" and not monitor.endswith(
            ("/gap", "_se", "_seconds", "/overhead", "/detectable_difference", "/points")
        ):
            yield f"{type(callback).__name__}(monitor={monitor!r}, mode='min') prefers low scores: set mode='max'."
        if isinstance(callback, listeners):
            continue
        if isinstance(callback, lightning_classes("callbacks.EarlyStopping")):
            every_n_epochs = schedule.every_n_epochs
            probe_interval = every_n_epochs * steps_per_epoch if every_n_epochs else schedule.every_n_train_steps
            if probe_interval > _check_interval(trainer, steps_per_epoch):
                yield (
                    f"EarlyStopping(monitor={monitor!r}) looks at the end of each epoch or validation, but a probe is "
                    f"made every {schedule}: a value that it has seen before counts as no improvement. Use "
                    f"`SynBenchEarlyStopping(monitor={monitor!r}, patience={callback.patience})` in its place, or "
                    f"`{probing}(every_n_epochs=1)`."
                )
        elif isinstance(callback, lightning_classes("callbacks.ModelCheckpoint")):
            yield from _checkpoint_warnings(callback, monitor, schedule, steps_per_epoch)


def renamed_key_warnings(trainer: Trainer, prefix: str, listeners: type | tuple[type, ...]) -> Iterator[str]:
    """Sentences about callbacks that monitor a key by the name that it had before version 0.1."""
    for callback, monitor in _monitors(trainer, prefix):
        key = renamed(monitor, prefix)
        if key is not None and not isinstance(callback, listeners):
            yield (
                f"{type(callback).__name__}(monitor={monitor!r}): that key is now called {key!r}, and by its old name "
                f"it is not logged any more. Use `monitor={key!r}`."
            )


def unknown_key_warnings(
    trainer: Trainer, prefix: str, keys: Collection[str], listeners: type | tuple[type, ...]
) -> Iterator[str]:
    """Sentences about callbacks that monitor a key that looks like one of ``keys`` and is none of them."""
    for callback, monitor in _monitors(trainer, prefix):
        if monitor not in keys and not isinstance(callback, listeners) and renamed(monitor, prefix) is None:
            same = [key for key in keys if name_of(key, prefix) == name_of(monitor, prefix)]
            close = (same or get_close_matches(monitor, keys, n=1, cutoff=0.0))[0]
            yield (
                f"{type(callback).__name__}(monitor={monitor!r}): that key is not logged, and the callback will do "
                f"nothing. Did you mean {close!r}? Logged are {', '.join(keys)}."
            )


def best_key_warnings(trainer: Trainer, prefix: str, best: str) -> Iterator[str]:
    """Sentences about callbacks that monitor the score where a key is logged that knows more of what matters."""
    for callback, monitor in _monitors(trainer, prefix):
        if monitor == f"{prefix}/score" and best != "score":
            yield (
                f"{type(callback).__name__}(monitor={monitor!r}): the score knows nothing of your inputs. "
                f"`{prefix}/{best}` is logged too, and is the one to monitor."
            )


def _monitors(trainer: Trainer, prefix: str) -> Iterator[tuple[EarlyStopping | ModelCheckpoint, str]]:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    prefixes = {str(getattr(callback, "prefix", prefix)) for callback in callbacks} - {prefix}
    of_others = set[str]().union(*map(sections, prefixes))
    kinds = lightning_classes("callbacks.EarlyStopping", "callbacks.ModelCheckpoint")
    for callback in callbacks:
        monitor = str(getattr(callback, "monitor", None))
        ours = monitor.startswith((f"{prefix}/", f"{prefix}_")) and monitor.partition("/")[0] not in of_others
        if isinstance(callback, kinds) and ours:
            yield callback, monitor


def _check_interval(trainer: Trainer, steps_per_epoch: float) -> float:
    """Optimizer steps between two looks of a stock EarlyStopping."""
    batches = trainer.val_check_batch if trainer.enable_validation and trainer.val_check_interval != 1.0 else None
    return steps_per_epoch if batches is None else batches / trainer.accumulate_grad_batches


def _checkpoint_warnings(
    callback: ModelCheckpoint, monitor: str, schedule: Schedule, steps_per_epoch: float
) -> Iterator[str]:
    every_n_epochs, every_n_train_steps = schedule.every_n_epochs, schedule.every_n_train_steps
    epochs: int = callback.every_n_epochs or 0
    steps: int = callback._every_n_train_steps
    if epochs:
        saves = f"every {epochs} epochs of {steps_per_epoch:g} steps"
        fresh = epochs % every_n_epochs == 0 if every_n_epochs else epochs * steps_per_epoch % every_n_train_steps == 0
    elif steps:
        saves = f"every {steps} steps"
        fresh = every_n_epochs is None and steps % every_n_train_steps == 0
    else:
        saves, fresh = "at intervals of time", False
    if not fresh:
        change = f"every_n_epochs={every_n_epochs}" if every_n_epochs else f"every_n_train_steps={every_n_train_steps}"
        yield (
            f"ModelCheckpoint(monitor={monitor!r}) saves {saves}, but a probe is made every {schedule}: weights would "
            "be filed under the score of older ones. Use "
            f"`ModelCheckpoint(monitor={monitor!r}, mode={callback.mode!r}, {change})`."
        )
