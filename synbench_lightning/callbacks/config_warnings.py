"""Warnings about trainer settings that make probed metrics misleading, each with a remedy."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator
from difflib import get_close_matches
from functools import partial
from typing import Any

from torch.optim.swa_utils import AveragedModel

from synbench_lightning.callbacks.metric_keys import WATCHED, name_of, renamed, sections
from synbench_lightning.callbacks.schedule import Schedule
from synbench_lightning.callbacks.stale_reads import stale_read_warnings
from synbench_lightning.runtime.lightning_packages import ModelCheckpoint, Trainer, lightning_classes

UNTRIED = ("strategies.DeepSpeedStrategy", "strategies.XLAStrategy", "strategies.SingleDeviceXLAStrategy")
"""Strategies that probes were never tested with."""


def setup_warnings(trainer: Trainer) -> Iterator[str]:
    """Warnings if a probe may measure something unexpected under this trainer."""
    if isinstance(trainer.strategy, lightning_classes(*UNTRIED)):
        yield (
            f"SynBench is untested with {type(trainer.strategy).__name__}. If the first probe, before the first step, "
            "raises an error, remove the callback and use `evaluate()` on checkpoints."
        )
    for name, probe in _averages(trainer):
        yield f"Probes measure the weights in training, not the averages that {name} computes. {probe}"


def _averages(trainer: Trainer) -> Iterator[tuple[str, str]]:
    """What averages the weights in training, and how to probe the averages."""
    after = "After the fit the module has the averaged weights: probe them with `evaluate()`."
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, lightning_classes("callbacks.WeightAveraging", "callbacks.StochasticWeightAveraging")):
            yield type(callback).__name__, after
        elif any(isinstance(value, AveragedModel) for value in vars(callback).values()):
            yield type(callback).__name__, "To probe these, pass `encoder=` a function that calls them."
    for optimizer in trainer.optimizers:
        if callable(getattr(optimizer, "eval", None)) and callable(getattr(optimizer, "train", None)):  # schedule-free
            yield (
                type(optimizer).__name__,
                "Its `eval()` sets these: call it at the end of the fit, and probe them with `evaluate()`.",
            )


def interval_warnings(
    trainer: Trainer, prefix: str, schedule: Schedule, listeners: type | tuple[type, ...], probing: str
) -> Iterator[str]:
    """Warnings about callbacks that monitor a key under ``prefix`` at times when its value is stale.

    Call this at the start of training, when the number of batches is known. Callbacks of the types ``listeners`` are
    notified of each probe and never stale. ``probing`` is the name of the callback that makes the probes.
    """
    steps_per_epoch = math.inf
    if not math.isinf(trainer.num_training_batches):
        steps_per_epoch = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    every_n_epochs = schedule.every_n_epochs
    probe_interval = every_n_epochs * steps_per_epoch if every_n_epochs else schedule.every_n_train_steps
    for consumer, monitor in _monitors(trainer, prefix):
        if getattr(consumer, "mode", None) == "min" and not monitor.endswith(
            ("/gap", "_se", "_seconds", "/overhead", "/detectable_difference", "/points")
        ):
            yield f"{type(consumer).__name__}(monitor={monitor!r}, mode='min') prefers low scores: set mode='max'."
        if isinstance(consumer, listeners):
            continue
        if isinstance(consumer, lightning_classes("callbacks.EarlyStopping")):
            if probe_interval > _check_interval(trainer, steps_per_epoch, consumer._check_on_train_epoch_end):
                yield (
                    f"{type(consumer).__name__}(monitor={monitor!r}) checks at the end of each epoch or validation, "
                    f"but a probe is made every {schedule}: a stale value counts as no improvement. Use "
                    f"`SynBenchEarlyStopping(monitor={monitor!r}, patience={consumer.patience})` instead, or "
                    f"`{probing}(every_n_epochs=1)`."
                )
        elif isinstance(consumer, lightning_classes("callbacks.ModelCheckpoint")):
            change = f"monitor={monitor!r}, mode={consumer.mode!r}"
            yield from _checkpoint_warnings(trainer, consumer, change, schedule, steps_per_epoch)
        elif isinstance(consumer, lightning_classes("Callback")) and probe_interval > _check_interval(
            trainer, steps_per_epoch
        ):
            yield (
                f"{type(consumer).__name__}(monitor={monitor!r}) may check at the end of each epoch or validation, but "
                f"a probe is made every {schedule}: it would see the same value repeatedly. Use "
                f"`{probing}(every_n_epochs=1)`, or define its method `on_probe_end(trainer, pl_module, metrics)`, "
                "which is called once per probe."
            )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, lightning_classes("callbacks.ModelCheckpoint")) and not _is_ours(
            trainer, prefix, str(callback.monitor)
        ):
            named = re.findall(r"{([^{}:!]+)", callback.filename or "")
            if any(_is_ours(trainer, prefix, key) for key in named):
                change = f"filename={callback.filename!r}"
                yield from _checkpoint_warnings(trainer, callback, change, schedule, steps_per_epoch)
    yield from _plateau_warnings(trainer, prefix, schedule, steps_per_epoch, probe_interval, probing)
    yield from stale_read_warnings(
        trainer, partial(_is_ours, trainer, prefix), schedule,
        (probe_interval, _check_interval(trainer, steps_per_epoch)), listeners,
    )  # fmt: skip


def renamed_key_warnings(trainer: Trainer, prefix: str, listeners: type | tuple[type, ...]) -> Iterator[str]:
    """Warnings about callbacks that monitor a key by its name from before version 0.1."""
    for callback, monitor in _monitors(trainer, prefix):
        key = renamed(monitor, prefix)
        if key is not None and not isinstance(callback, listeners):
            yield (
                f"{type(callback).__name__}(monitor={monitor!r}): that key is now called {key!r} and is no longer "
                f"logged under its old name. Use `monitor={key!r}`."
            )


def unknown_key_warnings(
    trainer: Trainer, prefix: str, keys: Collection[str], listeners: type | tuple[type, ...]
) -> Iterator[str]:
    """Warnings about callbacks that monitor a key under ``prefix`` that is not one of ``keys``."""
    for callback, monitor in _monitors(trainer, prefix):
        if monitor not in keys and not isinstance(callback, listeners) and renamed(monitor, prefix) is None:
            same = [key for key in keys if name_of(key, prefix) == name_of(monitor, prefix)]
            watched = [key for key in keys if key.startswith(f"{prefix}/") and not key.endswith("_se")]
            close = (same or get_close_matches(monitor, keys, cutoff=0.0))[0]
            effect = (
                "the callback will do nothing"
                if isinstance(callback, lightning_classes("Callback"))
                else "Lightning will end the run"
            )
            yield (
                f"{type(callback).__name__}(monitor={monitor!r}): that key is not logged, and {effect}. "
                f"Did you mean {close!r}? The keys to watch are {', '.join(watched)}."
            )


def best_key_warnings(trainer: Trainer, prefix: str, best: str) -> Iterator[str]:
    """Warnings about callbacks that monitor the score although a more informative key is logged."""
    for callback, monitor in _monitors(trainer, prefix):
        if monitor == f"{prefix}/score" and best != "score":
            yield (
                f"{type(callback).__name__}(monitor={monitor!r}): the score does not depend on your data. "
                f"Monitor `{prefix}/{best}` instead, which is also logged."
            )


def _monitors(trainer: Trainer, prefix: str) -> Iterator[tuple[Any, str]]:
    """The callbacks and schedulers that monitor a key under ``prefix``, and that key."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        monitor = getattr(callback, "monitor", None) or _kept_key(callback, prefix)
        if isinstance(monitor, str) and _is_ours(trainer, prefix, monitor):
            yield callback, monitor
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and config.monitor is not None and _is_ours(trainer, prefix, config.monitor):
            yield config.scheduler, config.monitor


def _kept_key(callback: Any, prefix: str) -> str | None:
    """A key to watch that a callback has in another attribute, or in a dict or list in one."""
    for value in vars(callback).values():
        several = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else [value]
        for one in several:
            if isinstance(one, str) and one in [f"{prefix}/{name}" for name in WATCHED]:
                return one
    return None


def _is_ours(trainer: Trainer, prefix: str, key: str) -> bool:
    """Whether a key is in a section of ``prefix``, and not of another callback whose prefix begins with it."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    prefixes = {str(getattr(callback, "prefix", prefix)) for callback in callbacks} - {prefix}
    of_others = set[str]().union(*map(sections, prefixes))
    return key.startswith((f"{prefix}/", f"{prefix}_")) and key.partition("/")[0] not in of_others


def _check_interval(trainer: Trainer, steps_per_epoch: float, at_epoch_end: bool | None = None) -> float:
    """Optimizer steps between two checks of a callback, at the end of epochs or validations by default."""
    if at_epoch_end or not trainer.enable_validation:
        return steps_per_epoch
    if trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch is not None:
        return trainer.check_val_every_n_epoch * steps_per_epoch
    batches = trainer.val_check_batch  # None at intervals of time
    return steps_per_epoch if batches is None else batches / trainer.accumulate_grad_batches


def _checkpoint_warnings(
    trainer: Trainer, callback: ModelCheckpoint, change: str, schedule: Schedule, steps_per_epoch: float
) -> Iterator[str]:
    every_n_epochs, every_n_train_steps = schedule.every_n_epochs, schedule.every_n_train_steps
    epochs: int = callback.every_n_epochs or 0
    steps: int = callback._every_n_train_steps
    between = _check_interval(trainer, steps_per_epoch, callback._save_on_train_epoch_end)
    if epochs and between < steps_per_epoch:
        saves = f"at each validation, every {between:g} steps"
        fresh = every_n_epochs is None and between % every_n_train_steps == 0
    elif epochs:
        if not math.isinf(steps_per_epoch):
            epochs = math.lcm(epochs, round(between / steps_per_epoch))
        saves = f"every {epochs} epochs of {steps_per_epoch:g} steps"
        fresh = epochs % every_n_epochs == 0 if every_n_epochs else epochs * steps_per_epoch % every_n_train_steps == 0
    elif steps:
        saves = f"every {steps} steps"
        fresh = every_n_epochs is None and steps % every_n_train_steps == 0
    else:
        saves, fresh = "at intervals of time", False
    if not fresh:
        every = f"every_n_epochs={every_n_epochs}" if every_n_epochs else f"every_n_train_steps={every_n_train_steps}"
        argument = change.partition(",")[0] if change.startswith("monitor") else change
        yield (
            f"{type(callback).__name__}({argument}) saves {saves}, but a probe is made every {schedule}: it ranks "
            f"checkpoints by a stale metric. Use `{type(callback).__name__}({change}, {every})`."
        )


def _plateau_warnings(
    trainer: Trainer, prefix: str, schedule: Schedule, steps_per_epoch: float, probe_interval: float, probing: str
) -> Iterator[str]:
    """Warnings about schedulers that would reduce the learning rate by checking one value repeatedly."""
    if not trainer.lightning_module.automatic_optimization:  # the module steps its schedulers itself
        return
    accumulated = trainer.accumulate_grad_batches
    for config in trainer.lr_scheduler_configs:
        monitor = config.monitor
        if not config.reduce_on_plateau or monitor is None or not _is_ours(trainer, prefix, monitor):
            continue
        if config.interval == "step":  # it counts batches
            looks, between = f"{config.frequency} batches", math.lcm(config.frequency, accumulated) / accumulated
        else:
            looks, between = f"{config.frequency} epochs", config.frequency * steps_per_epoch
        if probe_interval <= between:
            continue
        batches = schedule.every_n_train_steps * accumulated
        if schedule.every_n_epochs is None and batches <= trainer.num_training_batches:
            change = f'"interval": "step", "frequency": {batches}'
        else:
            epochs = schedule.every_n_epochs or math.ceil(schedule.every_n_train_steps / steps_per_epoch)
            change = f'"interval": "epoch", "frequency": {epochs}'
        name = type(config.scheduler).__name__
        yield (
            f"{name}(monitor={monitor!r}) checks every {looks}, but a probe is made every {schedule}: a stale value "
            "counts as no improvement, and the learning rate is reduced. Use "
            f'`{{"scheduler": {name}(...), "monitor": {monitor!r}, {change}}}`'
            + (f", or `{probing}(every_n_epochs={config.frequency})`." if config.interval == "epoch" else ".")
        )
