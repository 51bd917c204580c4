"""What a step would give the encoder for a batch: the step is run up to there, and leaves no trace."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from synbench_lightning.runtime.encoder import walk
from synbench_lightning.runtime.encoder_call import EncoderCall
from synbench_lightning.runtime.input_shape import inputs_of_shape
from synbench_lightning.runtime.isolation import isolated
from synbench_lightning.runtime.lightning_packages import LightningModule, Trainer, lightning_classes
from synbench_lightning.runtime.structures import Arguments, mapped


class NotReachedError(Exception):
    """A step cannot be run up to the encoder; the message says why."""


class _Reached(BaseException):
    """The encoder was called as often as was asked for: nothing that comes after it is run."""


class StepReplay:
    """Runs a step on batches up to the encoder's call. Every process makes the same runs, since layers may communicate.

    Inside ``with``, the module, the datamodule and all random states are as in training, and afterwards as before.

    Args:
        trainer: in a fit.
        pl_module: that it trains.
        call: the encoder's, as it was observed; ``None`` where it was not: then the input is looked for in the batch.
        shape: of the input, for that.
        step: ``"training_step"`` or ``"validation_step"``.

    Raises:
        NotReachedError: if the module holds an iterator, which a run would advance, or takes an iterator for a batch.
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

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Everything as in training; nothing of what is run has an effect on it."""
        trainer, flags = self.trainer, {part: part.training for part in self.pl_module.modules()}
        datamodule: Any = getattr(trainer, "datamodule", None)
        also = () if datamodule is None else (datamodule,)
        with isolated(self.pl_module, also, refuse_iterators=self.call is not None), _optimizers_refuse(trainer):
            for part, flag in flags.items():
                part.training = flag and self.step == "training_step"
            yield

    def inputs(self, batch: Any, seed: int, calls: int = 1) -> list[Arguments]:
        """What the encoder is given for a batch, in its first calls; what is drawn on the way depends on the seed.

        Raises:
            NotReachedError: if it is not called so often, or the step fails before.
        """
        torch.manual_seed(seed)
        try:
            batch = self._on_device(batch)
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
            raise NotReachedError(f"`{self.step}` failed before it: {type(error).__name__}: {error}") from error

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
        with _calls_seen(module, self.call.method, see), precision.train_step_context():
            try:
                self.function(batch, 0) if self._with_index else self.function(batch)
            except _Reached:
                return captured
        raise NotReachedError(f"`{self.step}` calls the encoder {len(captured)} times")

    def _on_device(self, batch: Any) -> Any:
        """A batch as training gets it: converted, and through the transfer hooks of the datamodule or the module."""
        strategy: Any = self.trainer.strategy
        batch = self.trainer.precision_plugin.convert_input(batch)
        batch = self._hook("on_before_batch_transfer")(batch, 0)
        batch = self._hook("transfer_batch_to_device")(batch, strategy.root_device, 0)
        return self._hook("on_after_batch_transfer")(batch, 0)

    def _hook(self, name: str) -> Callable[..., Any]:
        datamodule: Any = getattr(self.trainer, "datamodule", None)
        bases = [getattr(kind, name) for kind in lightning_classes("LightningDataModule")]
        owner = self.pl_module if datamodule is None or getattr(type(datamodule), name) in bases else datamodule
        found: Callable[..., Any] = getattr(owner, name)
        return found


@contextmanager
def _calls_seen(module: nn.Module, method: str, see: Callable[[Arguments], None]) -> Iterator[None]:
    """Inside, calls of a module, or of a method of it, are seen before they are made."""
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
    handle = module.register_forward_pre_hook(
        lambda _, args, kwargs: see(Arguments(tuple(args), dict(kwargs))), with_kwargs=True, prepend=True
    )
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _optimizers_refuse(trainer: Trainer) -> Iterator[None]:
    """Inside, a step of an optimizer or of a scheduler is an error."""

    def refuse(*_: Any, **__: Any) -> None:
        raise NotReachedError("an optimizer steps before the encoder is called")

    schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
    owners: list[Mapping[str, Any]] = [vars(one) for one in (*trainer.optimizers, *schedulers)]
    kept: list[tuple[Any, dict[str, Any]]] = [(own, {"step": own["step"]} if "step" in own else {}) for own in owners]
    for own, _ in kept:
        own["step"] = refuse
    try:
        yield
    finally:
        for own, before in kept:
            del own["step"]
            own |= before
