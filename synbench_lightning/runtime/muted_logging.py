"""Mute logging of a LightningModule and its trainer during a probe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from synbench_lightning.runtime.experiment_trackers import imported_trackers, writing_functions
from synbench_lightning.runtime.lightning_packages import Trainer, lightning_classes, trainer_of


@contextmanager
def muted_logging(modules: Iterable[nn.Module], trackers: Iterable[Any] = ()) -> Iterator[None]:
    """``log``, ``log_dict`` and ``print`` of LightningModules, and the loggers of their trainer, have no effect.

    The ``log`` and ``log_dict`` that Lightning gives to callbacks have no effect either. A stop of the run that is
    asked for in the meantime is forgotten, and so are changes to the options of its optimizers, as the learning rate.

    Args:
        modules: those that may run; LightningModules among them may have a trainer.
        trackers: clients of experiment trackers, which have no effect either, like functions as ``wandb.log``.
    """
    ours: list[Any] = [module for module in modules if isinstance(module, lightning_classes("LightningModule"))]
    trainers = {id(trainer): trainer for module in ours if (trainer := trainer_of(module)) is not None}
    with ExitStack() as stack:
        for module in ours:
            stack.enter_context(_without_effect(module, ("log", "log_dict", "print")))
        for tracker in (*trackers, *imported_trackers()):
            stack.enter_context(_without_effect(tracker, writing_functions(tracker)))
        for trainer in trainers.values():
            stack.enter_context(_muted_trainer(trainer))
        yield


class MutedLogger:
    """A logger with the name, version and directories of another one that logs nothing."""

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self.experiment = _Silent()

    @property
    def name(self) -> Any:
        return self._logger.name

    @property
    def version(self) -> Any:
        return self._logger.version

    @property
    def root_dir(self) -> Any:
        return self._logger.root_dir

    @property
    def log_dir(self) -> Any:
        return self._logger.log_dir

    @property
    def save_dir(self) -> Any:
        return self._logger.save_dir

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._logger, name)
        return _nothing if callable(value) else value


class _Silent:
    """An experiment that has every method and does nothing."""

    def __getattr__(self, name: str) -> Any:
        return _nothing

    def __getitem__(self, _: Any) -> Any:
        return self

    def __setitem__(self, *_: Any) -> None:
        pass


@contextmanager
def _muted_trainer(trainer: Trainer) -> Iterator[None]:
    loggers, stop = trainer.loggers, trainer.should_stop
    rates = [(group, {**group, "params": None}) for optimizer in trainer.optimizers for group in optimizer.param_groups]
    with ExitStack() as stack:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            stack.enter_context(_without_effect(callback, ("log", "log_dict")))
        trainer.loggers = [MutedLogger(logger) for logger in loggers]  # type: ignore[misc]
        try:
            yield
        finally:
            trainer.loggers, trainer.should_stop = loggers, stop
            for group, options in rates:
                group.update({**options, "params": group["params"]})


@contextmanager
def _without_effect(owner: Any, methods: Sequence[str]) -> Iterator[None]:
    own = vars(owner)
    before = {name: own[name] for name in methods if name in own}
    own |= dict.fromkeys(methods, _nothing)
    try:
        yield
    finally:
        for name in methods:
            del own[name]
        own |= before


def _nothing(*_: Any, **__: Any) -> None:
    pass
