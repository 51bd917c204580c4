"""The results of a run's probes: in checkpoints, and back from processes that a trainer has started."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, Protocol, TypeVar

from synbench_lightning.callbacks.process_handover import ProcessHandover
from synbench_lightning.callbacks.run_state import FORMAT, RunStateCallback
from synbench_lightning.callbacks.schedule import Schedule
from synbench_lightning.runtime.lightning_packages import LightningModule, Trainer


class Found(Protocol):
    """The result of a probe."""

    @property
    def step(self) -> int | None: ...

    @property
    def seconds(self) -> float: ...


R = TypeVar("R", bound=Found)


class HistoryCallback(RunStateCallback, Generic[R]):
    """Keeps the results of a run's probes, and saves them in checkpoints with the schedule of the probes.

    A subclass defines its state (:meth:`_state`, :meth:`_history_of`).

    Args:
        schedule: of the probes.
        prefix: identifies the state in a checkpoint.
    """

    def __init__(self, schedule: Schedule, prefix: str) -> None:
        self.schedule, self.prefix = schedule, prefix
        self._handover = ProcessHandover()
        self._begin()

    def _begin(self) -> None:
        self._handover.discard()
        self._history: list[R] = []
        self.schedule.begin()

    @property
    def history(self) -> list[R]:
        """The results of the run's probes, including those from processes that the trainer has started and ended."""
        if (left := self._handover.take()) is not None:
            self._history = self._history_of({"history": left})
        return self._history

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """The state for checkpoints without the schedule, as tensors and plain types, with ``history``."""

    @classmethod
    @abstractmethod
    def _history_of(cls, state: Any) -> list[R]:
        """The results in a state.

        Raises:
            ValueError: if they cannot be read.
        """

    def _keep(self, result: R) -> None:
        """Add the result of a probe to the history."""
        self.history.append(result)

    def _leave_history(self, trainer: Trainer) -> None:
        """In a process that the trainer has started: leave the history to the process that started it."""
        if self._handover.is_started and trainer.is_global_zero:
            self._handover.leave(self._state()["history"])

    @property
    def state_key(self) -> str:
        """The key of this callback's state in a checkpoint."""
        return f"{type(self).__qualname__}{{'prefix': {self.prefix!r}}}"

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put the state into a checkpoint.

        Not in ``state_dict``: the trainer would then reject two callbacks with one prefix, in an error that does not
        name the prefix.
        """
        state = {"format": FORMAT, **self._state(), **self.schedule.state()}
        checkpoint.setdefault("callbacks", {})[self.state_key] = state
        super().on_save_checkpoint(trainer, pl_module, checkpoint)

    def _restore_state(self, state: Mapping[str, Any]) -> None:
        self._history = self._history_of(state)
        self.schedule.restore(state)
