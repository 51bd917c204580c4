"""Repeat the call that training made of the encoder, compare, and find out how a probe can make it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from synbench_lightning.runtime.call_recorder import Call
from synbench_lightning.runtime.encoder_call import EncoderCall, Placement, as_arguments, template
from synbench_lightning.runtime.input_leaf import InputLeaf, input_leaf
from synbench_lightning.runtime.structures import Arguments, at, taken, tensors_in

TOLERANCE = 0.02
"""Two outputs whose difference is below this fraction of their size are the same, in half precision too."""
QUANTIZED_STD = 32.0
"""Standard deviation of Gaussian pictures in uint8: four of them reach black and white."""


@dataclass(frozen=True)
class Rehearsal:
    """Makes calls of one module as training and as a probe would; the module is isolated meanwhile.

    Args:
        function: the module, or a method of it.
        module: it is, or belongs to.
        call: as it was recorded.
        training: context of the trainer's precision in training steps.
        evaluation: and in probes.
        flags: of all modules, as they were in training.
    """

    function: Callable[..., Any]
    module: nn.Module
    call: Call
    training: Callable[[], AbstractContextManager[Any]]
    evaluation: Callable[[], AbstractContextManager[Any]]
    flags: Mapping[nn.Module, bool]

    def differs(self) -> bool:
        """Whether a repetition of the recorded call returns something else than the call did.

        Where weights or inputs were changed since, or the module draws from a generator of its own, or on an
        accelerator, only shapes are compared.
        """
        call = self.call
        found = self._repeated(call.random_state)
        if [tuple(x.shape) for x in found] != list(call.shapes):
            return True
        rows = [x[: len(kept)] for x, kept in zip([x for x in found if x.ndim >= 2], call.sample, strict=True)]
        if call.stale(self.module) or _alike(rows, call.sample):
            return False
        states = [torch.Generator().manual_seed(seed).get_state() for seed in (1, 2)]
        first, second = (self._repeated(state) for state in states)
        return _alike(first, second) and not _has_own_generator(self.module)

    def encoder_call(self, head: str = "") -> EncoderCall:
        """How a probe makes the call: what it is given besides the input, and where real vectors enter."""
        assert self.call.arguments is not None
        leaf, arguments = self.call.input, self.call.arguments
        kept, per_example, defaults = template(self.function, arguments, leaf)
        placement, batch_size = None, None
        if leaf is not None and not self._rows_interact(leaf, arguments):
            batch_size = self._only_batch_size(leaf, arguments)
            placement = self._placement(leaf, arguments)
        return EncoderCall(
            self.call.path,
            self.call.method,
            leaf,
            placement,
            kept,
            per_example,
            defaults,
            head,
            batch_size,
            self.call.count,
        )

    def _repeated(self, random_state: Tensor | None) -> list[Tensor]:
        assert self.call.arguments is not None
        if random_state is not None:
            torch.set_rng_state(random_state)
        with self._in_training(), self.training():
            output = self.call.arguments.of(self.function)
        return [x for x in tensors_in(output) if x.is_floating_point() or x.is_complex()]

    @contextmanager
    def _in_training(self) -> Iterator[None]:
        now = {module: module.training for module in self.flags}
        try:
            for module, flag in self.flags.items():
                module.training = flag
            yield
        finally:
            for module, flag in now.items():
                module.training = flag

    def _evaluated(self, arguments: Arguments, seed: int = 0) -> list[Tensor]:
        torch.default_generator.manual_seed(seed)
        with self.evaluation():
            output = arguments.of(self.function)
        return [x for x in tensors_in(output) if x.is_floating_point() and x.ndim >= 2]

    def _rows_interact(self, leaf: InputLeaf, arguments: Arguments) -> bool:
        """Whether features of an example depend on which others are in the batch, as those of a graph's nodes do.

        That can be so only where the encoder is told more than its input.
        """
        if leaf.rows < 2 or sum(1 for _ in tensors_in(arguments)) < 2 or leaf.listed:
            return False
        half = torch.arange(leaf.rows // 2)
        try:
            whole = self._evaluated(arguments)
            random = not _alike(whole, self._evaluated(arguments, seed=1))
            part = self._evaluated(taken(arguments, half, leaf.rows))
        except Exception:  # of indices beyond the part
            return True
        fits = [x[: len(half)] for x in whole if len(x) == leaf.rows]
        part = [x for x in part if len(x) == len(half)]
        return not fits or (not random and not _alike(fits, part))

    def _only_batch_size(self, leaf: InputLeaf, arguments: Arguments) -> int | None:
        """The size of training's batches, where the encoder takes no other (a state for each example, say)."""
        if leaf.rows < 2 or leaf.listed:
            return None
        try:
            self._evaluated(taken(arguments, torch.arange(leaf.rows - 1), leaf.rows))
        except Exception:
            return leaf.rows
        return None

    def _placement(self, leaf: InputLeaf, arguments: Arguments) -> Placement | None:
        if leaf.dtype.is_complex:
            return Placement("complex", (*leaf.shape, 2))
        if not leaf.is_integer:
            return Placement("input", leaf.shape)
        value = at(arguments, leaf.path)
        if isinstance(value, Tensor) and len(leaf.shape) == 1 and (place := self._embedding(value, arguments)):
            return place
        if len(leaf.shape) < 2 or not isinstance(value, Tensor) or leaf.listed:
            return None
        if leaf.dtype == torch.uint8:
            return Placement("integers", leaf.shape, QUANTIZED_STD, 127.5)
        values = value.double()
        return Placement("integers", leaf.shape, float(values.std()), float(values.mean()))

    def _embedding(self, ids: Tensor, arguments: Arguments) -> Placement | None:
        """The first module that makes vectors of the token ids."""
        found: list[Placement] = []

        def see(path: str, _: nn.Module, args: Any, output: Any) -> None:
            if found or not (args and isinstance(args[0], Tensor) and isinstance(output, Tensor)):
                return
            given = args[0]
            as_long = given.shape == ids.shape and not given.is_floating_point()
            if as_long and output.shape[:2] == ids.shape and output.ndim == 3 and output.is_floating_point():
                factor = float(output.detach().double().std())
                found.append(Placement("embedding", tuple(output.shape[1:]), factor or 1.0, module=path))

        layers = [(path, part) for path, part in self.module.named_modules() if not list(part.children())]
        handles = [part.register_forward_hook(partial(see, path)) for path, part in layers]
        try:
            self._evaluated(arguments)
        finally:
            for handle in handles:
                handle.remove()
        return found[0] if found else None


def call_of_inputs(function: Callable[..., Any], module: nn.Module | None, inputs: Any) -> EncoderCall:
    """How a probe calls an encoder that was not seen in training, from inputs that it takes.

    Args:
        function: the encoder.
        module: it is, or belongs to; ``None`` where it is none.
        inputs: a batch, or a mapping of keyword arguments.
    """
    arguments = as_arguments(function, inputs)
    call = Call("", input=input_leaf(arguments), arguments=arguments)
    return Rehearsal(function, module or nn.Identity(), call, nullcontext, nullcontext, {}).encoder_call()


def _alike(ones: Any, others: Any) -> bool:
    ones, others = list(ones), list(others)
    if [x.shape for x in ones] != [x.shape for x in others]:
        return False
    for one, other in zip(ones, others, strict=True):
        one, other = (x.detach().cpu().to(torch.complex128) for x in (one, other))
        size = float(other.abs().square().mean().sqrt())
        if not bool((one - other).abs().square().mean().sqrt() <= TOLERANCE * size + 1e-12):
            return False
    return True


def _has_own_generator(module: nn.Module) -> bool:
    return any(isinstance(value, torch.Generator) for part in module.modules() for value in vars(part).values())
