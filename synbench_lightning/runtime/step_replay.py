"""Run a step up to the encoder's call to capture the encoder's input for a batch, without side effects."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from synbench_lightning.runtime.call_hooks import around_module, nothing
from synbench_lightning.runtime.encoder import walk
from synbench_lightning.runtime.encoder_call import EncoderCall
from synbench_lightning.runtime.input_shape import inputs_of_shape
from synbench_lightning.runtime.isolation import isolated
from synbench_lightning.runtime.lightning_packages import LightningModule, Trainer, lightning_classes
from synbench_lightning.runtime.seeded_calls import seeding
from synbench_lightning.runtime.structures import Arguments, mapped

HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


class NotReachedError(Exception):
    """The step does not reach the encoder; the message says why."""


class _Reached(BaseException):
    """Raised to stop the step once the encoder was called as often as requested."""


class StepReplay:
    """Runs a step on batches up to the encoder's call. Every process makes the same runs, since layers may communicate.

    Runs take place inside :meth:`ready`, which restores the module, the datamodule and all random states.

    Args:
        trainer: trainer during a fit.
        pl_module: the module that it trains.
        call: recorded call of the encoder; with ``None``, the input is searched for in the batch.
        shape: shape of the input, for this search.
        step: ``"training_step"`` or ``"validation_step"``.

    Raises:
        NotReachedError: if the step takes an iterator instead of a batch.
    """

    def __init__(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        call: EncoderCall | None,
        shape: tuple[int, ...] | None = None,
        step: str = "training_step",
    ) -> None:
        self.trainer, self.pl_module, self.call, self.shape, self.step = trainer, pl_module, call, shape, step
        self.function: Callable[..., Any] = getattr(pl_module, step)
        parameters = list(inspect.signature(self.function).parameters.values())
        if any(parameter.name == "dataloader_iter" for parameter in parameters):
            raise NotReachedError(f"`{step}` takes an iterator")
        several = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters)
        self._with_index = several or len(parameters) >= 2
        self._datamodule = self._datamodule_with_hooks()

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Context with the state of training, which is restored afterwards.

        Raises:
            ValueError: if the module holds an iterator, which a run would advance.
        """
        flags = {part: part.training for part in self.pl_module.modules()}
        refuse = self.call is not None
        run = [self.function, self.pl_module.on_train_batch_start, *map(self._hook, HOOKS)]
        with (
            isolated(self.pl_module, run, refuse_iterators=refuse),
            _optimizers_refuse(self.trainer, self.pl_module),
            seeding(self.pl_module, *run) as self._seed,
        ):
            for part, flag in flags.items():
                part.training = flag and self.step == "training_step"
            yield

    def everywhere(self, batch: Any, seed: int, transferred: bool = False) -> Arguments:
        """Capture the encoder's input for a batch, which is not modified. Every process must make this call.

        Args:
            batch: as it comes from a loader.
            seed: seed of all randomness before the encoder.
            transferred: whether the transfer hooks have already been applied to the batch.

        Raises:
            NotReachedError: if the encoder is not called, or the step fails before, on any process.
        """
        failure, found = None, None
        try:
            (found,) = self.inputs(mapped(batch, Tensor.clone), seed, transferred=transferred)
        except NotReachedError as error:
            failure = error
        if self.trainer.strategy.reduce_boolean_decision(failure is not None, all=False) or found is None:
            raise failure or NotReachedError("another process failed; its log has the reason")
        return found

    def inputs(self, batch: Any, seed: int, calls: int = 1, transferred: bool = False) -> list[Arguments]:
        """Capture the encoder's inputs for a batch in its first calls; randomness before it is determined by the seed.

        Raises:
            NotReachedError: if the encoder is called less often, or the step fails before.
        """
        self._seed(seed)
        try:
            batch = batch if transferred else self._on_device(batch)
            if self.call is None:
                assert self.shape is not None
                found = inputs_of_shape(batch, self.shape)
                if found is None:
                    raise NotReachedError(f"the batch holds no input of shape {self.shape}")
                return [Arguments((found.detach(),))]
            return self._captured(batch, calls)
        except NotReachedError:
            raise
        except Exception as error:
            raise NotReachedError(
                f"`{self.step}` failed before the encoder was called: {type(error).__name__}: {error}"
            ) from error

    def _captured(self, batch: Any, calls: int) -> list[Arguments]:
        assert self.call is not None
        call = self.call
        module = self.pl_module if self.call.path == "" else walk(self.pl_module, self.call.path)[-1]
        captured: list[Arguments] = []

        def see(arguments: Arguments) -> None:
            captured.append(call.kept(mapped(arguments, lambda leaf: leaf.detach().clone())))
            if len(captured) == calls:
                raise _Reached

        precision: Any = self.trainer.precision_plugin
        context = precision.train_step_context if self.step == "training_step" else precision.val_step_context
        with _calls_seen(module, self.call.method, see), context():
            try:
                self._begin_batch(batch)
                self.function(batch, 0) if self._with_index else self.function(batch)
            except _Reached:
                return captured
        raise NotReachedError(f"`{self.step}` calls the encoder {len(captured)} times")

    def _begin_batch(self, batch: Any) -> None:
        """Run the module's hook at the start of a batch."""
        if self.step == "training_step":
            self.pl_module.on_train_batch_start(batch, 0)

    def _on_device(self, batch: Any) -> Any:
        """A batch as training gets it: converted, and through the transfer hooks of the datamodule or the module."""
        strategy: Any = self.trainer.strategy
        before, transfer, after = (self._hook(name) for name in HOOKS)
        batch = before(self.trainer.precision_plugin.convert_input(batch), 0)
        return after(transfer(batch, strategy.root_device, 0), 0)

    def _hook(self, name: str) -> Callable[..., Any]:
        own = self._datamodule is not None and _overrides(self._datamodule, name, "LightningDataModule")
        found: Callable[..., Any] = getattr(self._datamodule if own else self.pl_module, name)
        return found

    def _datamodule_with_hooks(self) -> Any:
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        if datamodule is None or not any(_overrides(datamodule, name, "LightningDataModule") for name in HOOKS):
            return None
        return datamodule


def _overrides(owner: Any, name: str, kind: str) -> bool:
    return getattr(type(owner), name) not in [getattr(base, name) for base in lightning_classes(kind)]


@contextmanager
def _calls_seen(module: nn.Module, method: str, see: Callable[[Arguments], None]) -> Iterator[None]:
    """Pass the arguments of a module's or method's calls to ``see`` inside the context."""
    if method:
        original, own = getattr(module, method), vars(module)
        before = {method: own[method]} if method in own else {}

        def seen(*args: Any, **kwargs: Any) -> Any:
            see(Arguments(args, kwargs))
            return original(*args, **kwargs)

        own[method] = seen
        try:
            yield
        finally:
            del own[method]
            own |= before
        return
    end = around_module(module, lambda _, args, kwargs: see(Arguments(tuple(args), dict(kwargs))), nothing, [])
    try:
        yield
    finally:
        end()


@contextmanager
def _optimizers_refuse(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """Raise on optimizer steps, scheduler steps and manual backward passes inside the context."""

    def refuse(*_: Any, **__: Any) -> None:
        raise NotReachedError("it updates weights before it calls the encoder")

    wrapped: Any = pl_module.optimizers()
    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    stepping = (*trainer.optimizers, *schedulers, *(wrapped if isinstance(wrapped, list) else [wrapped]))
    refused = [(one, "step") for one in stepping] + [(pl_module, "manual_backward"), (pl_module, "lr_scheduler_step")]
    kept = [(vars(one), name, {name: vars(one)[name]} if name in vars(one) else {}) for one, name in refused]
    for own, name, _ in kept:
        own[name] = refuse
    try:
        yield
    finally:
        for own, name, before in kept:
            del own[name]
            own |= before
