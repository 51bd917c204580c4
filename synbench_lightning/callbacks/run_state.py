"""The state of a callback: which run it belongs to, saving it in checkpoints, restoring it from them."""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Callable, Mapping
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import ForkingPickler
from typing import Any, ClassVar, TypeVar

from synbench_lightning.checks import shown
from synbench_lightning.runtime.lightning_packages import Callback, LightningModule, Trainer, rank_zero_warn

R = TypeVar("R")

FORMAT = 1
"""Of the states that are written. States of earlier versions have no number, and are read as this one."""


class RunStateCallback(Callback):
    """A callback whose state belongs to one run: a module in training by a trainer, over resumes and further fits.

    Lightning hands states back in other functions too, with ``test(ckpt_path=...)`` and the like, and where a finder of
    the learning rate or the batch size puts back what it has saved. Only a resumed ``fit`` takes one up, and what
    another run has left is dropped when training begins.
    """

    _fit_scoped: ClassVar[dict[str, Any]] = {"log": None, "log_dict": None}
    """Attributes that are released at the end of a fit, with their values afterwards, so that the module is freed and
    the callback can be copied. Lightning itself gives every callback the module's ``log`` and ``log_dict``."""

    _restores = True  # outside a trainer, whoever hands a state over means it
    _resumed = _restored = False  # mutants: `setup` sets both
    _run: tuple[weakref.ref[Trainer], weakref.ref[LightningModule]] | None = None

    @abstractmethod
    def _begin(self) -> None:
        """Set all that belongs to one run to what it is at its beginning."""

    @abstractmethod
    def _restore_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state, after :meth:`_begin`. Raises if it is not one that this callback writes."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """A function of the trainer begins; its checkpoint, if any, is read after this."""
        super().setup(trainer, pl_module, stage)
        self._restores, self._resumed, self._restored = stage == "fit", False, False

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Learn of a resume, whether or not the checkpoint has a state of this callback."""
        self._resumed |= self._restores

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state from the checkpoint of a resumed fit; if it cannot be read, start anew with a warning."""
        if not self._restores:
            return
        self._begin()
        try:
            self._restore_state(state_dict)
        except Exception as error:  # whatever another version has written must not keep a run from being resumed
            self._begin()
            why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            rank_zero_warn(
                f"Could not restore the state of {type(self).__name__} from the checkpoint: {why}. It starts a new "
                "history; training continues."
            )
            return
        self._restored = True

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Before training, it is a finder that saves: what it puts back is not a run to be resumed."""
        if not trainer.strategy.restore_checkpoint_after_setup:  # such a strategy reads the run's checkpoint later
            self._restores = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the present state, or reset it if it is another run's."""
        same = self._run is not None and self._run[0]() is trainer and self._run[1]() is pl_module
        if not (self._restored or (same and not self._resumed and trainer.global_step > 0)):
            self._begin()
        self._restores, self._run = False, (weakref.ref(trainer), weakref.ref(pl_module))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Release the module."""
        super().teardown(trainer, pl_module, stage)
        self.__dict__ |= self._fit_scoped
        self._restores = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """The function has ended, without a teardown."""
        self._restores = True

    def __getstate__(self) -> dict[str, Any]:
        if get_spawning_popen() is not None:  # for a process that the trainer spawns
            self._check_functions()
        return {**self.__dict__, **self._fit_scoped, "_run": None}

    def _check_functions(self) -> None:
        """Require that functions that were given can be sent to other processes."""
        for name, value in vars(self).items():
            if callable(value) and not name.startswith("_"):
                try:
                    ForkingPickler.dumps(value)
                except Exception as error:
                    raise ValueError(
                        f"`{name}` cannot be sent to the processes that this trainer spawns, got {shown(value)} "
                        f"({type(error).__name__}: {error}): define it by `def` at the top level of a module, or use "
                        "`strategy='ddp'` or `'ddp_fork'`."
                    ) from error


def history_of(state: Any, read: Callable[[Mapping[str, Any]], R]) -> list[R]:
    """The results in a callback's state.

    Args:
        state: as it was found in a checkpoint.
        read: a result from plain types.

    Raises:
        ValueError: if there are none to be read; the message says why.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"it is a {type(state).__name__}")
    number = state.get("format", FORMAT)
    if number != FORMAT:
        raise ValueError(f"it has the format {number!r}, and this version reads {FORMAT}: another version wrote it")
    history = state.get("history")
    if not isinstance(history, (list, tuple)):
        raise ValueError(f"its 'history' must be a list, got a {type(history).__name__}")
    return [read(values) for values in history]
