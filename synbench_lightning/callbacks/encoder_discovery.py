"""Find the encoder, and how it is called, in the first training step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim.optimizer import register_optimizer_step_pre_hook

from synbench_lightning.runtime.buffers import Buffers
from synbench_lightning.runtime.call_check import Rehearsal
from synbench_lightning.runtime.call_recorder import Call, CallRecorder, Key, name_of
from synbench_lightning.runtime.call_tree import CallTree, Readout
from synbench_lightning.runtime.encoder import Encoder, EncoderSpec, find_encoder, walk
from synbench_lightning.runtime.encoder_call import EncoderCall
from synbench_lightning.runtime.encoder_ranking import rank_encoders
from synbench_lightning.runtime.heads import heads_behind
from synbench_lightning.runtime.isolation import isolated
from synbench_lightning.runtime.lightning_packages import (
    LightningModule,
    Strategy,
    Trainer,
    rank_zero_info,
    rank_zero_warn,
)
from synbench_lightning.runtime.named_calls import calls_of_name, recorded_path
from synbench_lightning.runtime.sharding import is_sharded

MOST_NAMES = 4
"""Limit for the other modules named in a message."""
MOST_STEPS = 3
"""Steps that replace modules before the search for the encoder uses the remaining modules."""
MOST_PARTS = 2
"""Limit for further parts of a module without an encoder that a message names."""
MOST_CANDIDATES = 8  # mutants: memory and time alone
"""Limit for the calls that are repeated, one after another until the outputs agree."""


class EncoderDiscovery:
    """How training calls the encoder, recorded in the first step of a run on the first process.

    Args:
        named: the callback's argument ``encoder``.
    """

    def __init__(self, named: EncoderSpec) -> None:
        self.named = named
        self.call: EncoderCall | None = None
        self.batch: Any = None
        """The first batch, during its step."""
        self.again = False
        """Whether to record the next step, since this one replaced modules."""
        self._steps = 0
        self._recorder: CallRecorder | None = None
        self._before: Buffers | None = None
        self._release_optimizers: Callable[[], None] | None = None
        self._written: list[tuple[int, torch.Tensor]] = []

    def __bool__(self) -> bool:
        """Whether a step is being recorded."""
        return self._recorder is not None

    def possible(self, strategy: Strategy, pl_module: LightningModule) -> bool:
        """Whether the first step can be recorded, with a probe before its update.

        This is impossible if the step is compiled as a whole, as in `fit(torch.compile(module))`, or if weights are
        sharded: a forward between backward and step would corrupt the gradients.
        """
        compiled = hasattr(pl_module.training_step, "_torchdynamo_orig_callable")
        return not (callable(self.named) or compiled or is_sharded(strategy, pl_module))

    def begin(self, pl_module: LightningModule, batch: Any, before_update: Callable[[], None]) -> None:
        """Record the step that begins.

        ``before_update`` is called when any optimizer is about to update parameters of the module and most trained
        modules have been called: a discriminator may be updated before the encoder is called.
        """
        self._recorder, self.batch = CallRecorder(pl_module), batch
        self._before, self._written = Buffers(pl_module), _writings(pl_module)
        own = {id(parameter) for parameter in pl_module.parameters()}

        def updating(optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if torch.compiler.is_compiling():
                return
            closure = kwargs.get("closure", args[1] if len(args) > 1 else None)  # the first is the optimizer
            writes = any(id(one) in own for group in optimizer.param_groups for one in group["params"])
            if closure is None and writes and self._recorder is not None and self._recorder.has_called_most():
                before_update()

        self._release_optimizers = register_optimizer_step_pre_hook(updating).remove

    def in_backward(self, now: bool) -> None:
        """A backward pass of the step begins or has ended."""
        if self._recorder is not None:
            self._recorder.in_backward = now

    def is_updated(self, pl_module: LightningModule) -> bool:
        """Whether parameters have changed since the step began, by any means."""
        pairs = zip(self._written, _writings(pl_module), strict=False)
        return any(before[0] != now[0] or not torch.equal(before[1], now[1]) for before, now in pairs)

    def end(self, trainer: Trainer, pl_module: LightningModule, input_shape: tuple[int, ...] | None = None) -> Any:
        """End the recording, and return the batch. Every process makes this call.

        Args:
            trainer: of the run.
            pl_module: the module in training.
            input_shape: of one example, if given by the user: a layer with that input shape is called directly.
        """
        assert self._recorder is not None
        replaced = trainer.strategy.reduce_boolean_decision(self._recorder.replaced, all=False)
        calls, batch, paths = self._recorder.end(), self.batch, self._recorder.paths
        self._recorder = self.batch = None
        self._steps += 1
        self.again = replaced and self._steps < MOST_STEPS
        if self.again:
            return batch
        if self.call is None:  # else it was probed before the step
            part = ""
            if isinstance(self.named, str):
                candidates, part = calls_of_name(pl_module, self.named, calls, paths, input_shape)
            else:
                candidates = rank_encoders(calls, pl_module)
            self.call = self._chosen(trainer, pl_module, calls, candidates, part)
            missed = isinstance(self.named, str) and calls and not candidates
            if missed and recorded_path(pl_module, str(self.named), paths):
                called = ", ".join(f"`{call.name}`" for call in rank_encoders(calls, pl_module)[:MOST_NAMES])
                rank_zero_warn(
                    f"The first training step did not call `encoder={self.named!r}`. It called {called}. Name a module "
                    "that is called, or give the `input_shape`."
                )
        return batch

    @contextmanager
    def as_before_the_step(self) -> Iterator[None]:
        """Use the buffers from before the step, as running statistics, which its forward has changed. Works once."""
        before, self._before = self._before, None
        with nullcontext() if before is None else before.in_place():
            yield

    def abandon(self) -> None:
        """Leave no hook on the module."""
        if self._recorder is not None:
            self._recorder.end()
        self._recorder = self._before = self.batch = None
        self.end_step()

    def end_step(self) -> None:
        """Stop watching optimizers after the step."""
        if self._release_optimizers is not None:  # not in `end`, which a hook may have called: torch goes through them
            self._release_optimizers()
        self._release_optimizers, self._written = None, []

    def encoder(self, pl_module: LightningModule) -> Encoder | None:
        """The encoder, called as in training; ``None`` if that call is unknown or no longer valid."""
        if self.call is None:
            return None
        if not self._fits_name(self.call) or not _has(pl_module, self.call.path):
            self.call = None
            return None
        *owners, module = [pl_module] if self.call.path == "" else walk(pl_module, self.call.path)
        function = getattr(module, self.call.method) if self.call.method else module
        if self.call.path == "":
            name = f"the `{self.call.method or 'forward'}` of {type(pl_module).__name__}"
        else:
            name = f"`{self.call.name}`, a {'method' if self.call.method else type(module).__name__}"
        if self.call.head or self.call.part:
            inside = ".".join(filter(None, (self.call.path, self.call.head or self.call.part)))
            name = f"{name}, {'before its head' if self.call.head else 'after its part'} `{inside}`"
        return Encoder(name, partial(self.call, function, module), tuple(owners))

    def read_module(self, module: nn.Module | None) -> nn.Module | None:
        """The module whose output is probed, which determines the channel layout: the encoder, or a part of it."""
        if module is None or self.call is None or not self.call.part:
            return module
        part = module.get_submodule(self.call.part)
        return part if any(True for _ in part.parameters()) else module

    def state(self) -> dict[str, Any] | None:
        """How training calls the encoder, as tensors and plain types; ``None`` if it cannot be saved."""
        return None if self.call is None else self.call.state()

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Restore the call from an earlier run; after versions before 0.1 it is discovered again."""
        self.call = None if state is None or "args" not in state else EncoderCall.of_state(state)

    def _fits_name(self, call: EncoderCall) -> bool:
        part = ".".join(filter(None, (call.path, call.part)))
        return self.named is None or self.named in (part, "" if call.part else call.name)

    def _chosen(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        calls: Mapping[Key, Call],
        candidates: list[Call],
        part: str,
    ) -> EncoderCall | None:
        """The first candidate whose repeated call returns what it returned in training.

        Every process repeats the same calls, since layers may communicate in them. If a part was named, its output is
        read.

        Raises:
            ValueError: if there is none.
        """
        strategy = trainer.strategy
        keys: list[Key] = strategy.broadcast([call.key for call in candidates[:MOST_CANDIDATES]])
        own = {key: calls[key] for key in keys if key in calls and calls[key].arguments is not None}
        flags = {part: part.training for part in pl_module.modules()}
        tried = []
        before = nullcontext() if self._before is None else self._before.in_place()
        with isolated(pl_module) if keys else nullcontext(), before:
            for position, key in enumerate(keys):
                rehearsal = None if key not in own else _rehearsal(trainer, pl_module, own[key], flags)
                differs, why = _repeated(trainer, rehearsal)
                if differs and isinstance(self.named, str):
                    rank_zero_warn(
                        f"`encoder={self.named!r}` does not return the same when the call of it in the first training "
                        f"step is repeated{why}: is it in use there as it stands? It is probed as it was named."
                    )
                elif differs:
                    tried.append(f"`{name_of(key)}`{why}")
                    continue
                found = None
                if trainer.is_global_zero and rehearsal is not None:
                    found = self._reading(rehearsal, CallTree(calls, pl_module), part, keys[position + 1 :])
                return strategy.broadcast(found)
        if tried:
            raise ValueError(
                f"No encoder was found: training called {', '.join(tried)}, and repeating these calls returned "
                'different outputs. Name the module to probe, `encoder="backbone"`, or pass '
                "`encoder=lambda pl_module, x: ...`."
            )
        return None

    def _reading(self, rehearsal: Rehearsal, tree: CallTree, part: str, others: Sequence[Key]) -> EncoderCall:
        """How a probe makes a call that was repeated, and where it reads the representation; names the alternatives."""
        call = rehearsal.call
        readout = None if isinstance(self.named, str) else tree.readout(call)
        reading = rehearsal.reading(readout or Readout())
        found = reading.encoder_call()
        found = replace(found, part=part) if part else found
        if not (found.head or found.part):
            found = replace(found, heads=heads_behind(call, tree.calls))
        if not isinstance(self.named, str):
            names = [f"`{name_of(call.key)}` (all outputs)"] if found.head or found.part else []
            names += [f"`{_within(call.key, other)}`" for other in reading.readout.parts[1 : 1 + MOST_PARTS]]
            names += [f"`{name_of(other)}`" for other in others]
            _name_others([name for name in names if name != f"`{_within(call.key, found.part)}`"])
            if not call.trained:
                rank_zero_info(
                    f"SynBench: `{name_of(call.key)}` receives no gradients in training, and neither does any other "
                    "candidate. To probe another module, name it with `encoder=`."
                )
        return found


def _repeated(trainer: Trainer, rehearsal: Rehearsal | None) -> tuple[bool, str]:
    """Whether a repeated call returns something else than in training, on any process, and what it raises on this one.

    Every process makes this call; ``rehearsal`` is ``None`` on those that have not recorded the call, and then nothing
    is repeated.
    """
    strategy = trainer.strategy
    if not strategy.reduce_boolean_decision(rehearsal is not None, all=True):
        return False, ""
    assert rehearsal is not None
    differs, why = _attempt(rehearsal.differs)
    differs = strategy.reduce_boolean_decision(differs, all=False)
    if differs and not strategy.reduce_boolean_decision(why != "", all=False):
        varies, why = _attempt(rehearsal.varies)
        differs = strategy.reduce_boolean_decision(why != "" or not varies, all=False)
    return differs, why


def _name_others(others: list[str]) -> None:
    if others:
        named = ", ".join(list(dict.fromkeys(others))[:MOST_NAMES])
        rank_zero_info(f"SynBench: training also calls {named}. To probe another module, name it with `encoder=`.")


def _writings(module: nn.Module) -> list[tuple[int, torch.Tensor]]:
    """What a write to a parameter changes: its version counter in autograd, or its norm for writes to `.data`.

    The norm alone would miss a step along a sphere (weights before BatchNorm).
    """
    own = [one for one in module.parameters() if not is_lazy(one) and one.is_floating_point() and one.itemsize > 1]
    norm = torch.linalg.vector_norm
    return [(one._version, norm(one.detach(), dtype=torch.promote_types(one.dtype, torch.float32))) for one in own]


def _rehearsal(trainer: Trainer, pl_module: LightningModule, call: Call, flags: Mapping[nn.Module, bool]) -> Rehearsal:
    module = pl_module if call.path == "" else pl_module.get_submodule(call.path)
    function = getattr(module, call.method) if call.method else module
    precision = trainer.precision_plugin
    return Rehearsal(function, module, call, precision.train_step_context, precision.val_step_context, flags)


def _within(key: Key, part: str) -> str:
    return ".".join(filter(None, (key[0], part)))


def _attempt(function: Any) -> tuple[bool, str]:
    """The result of a comparison; a call that fails counts as a difference."""
    try:
        return function(), ""
    except Exception as error:
        return True, f" ({type(error).__name__}: {error})"


def _has(pl_module: LightningModule, path: str) -> bool:
    try:
        find_encoder(pl_module, path) if path else None
    except ValueError:
        return False
    return True
