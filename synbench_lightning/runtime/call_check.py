"""Replay a recorded call of the encoder, check that its output is reproduced, and derive how a probe calls it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from synbench_lightning.runtime.call_recorder import Call
from synbench_lightning.runtime.call_tree import Readout
from synbench_lightning.runtime.encoder_call import EncoderCall, as_arguments, examples_first, seen_at, template
from synbench_lightning.runtime.input_leaf import InputLeaf, input_leaf
from synbench_lightning.runtime.isolation import isolated, seed_generators
from synbench_lightning.runtime.placements import Placement
from synbench_lightning.runtime.process_settings import COMPUTATION, settings_kept
from synbench_lightning.runtime.structures import Arguments, at, replaced, taken, tensors_in

TOLERANCE = 0.02
"""Outputs with a smaller relative difference are equal; wide enough for half precision."""
QUANTIZED_STD = 32.0
"""Standard deviation of Gaussian uint8 images: black and white are four standard deviations from gray."""

NOWHERE = Readout()


@dataclass(frozen=True)
class Rehearsal:
    """Replays a recorded call as in training and as in a probe, with the module isolated.

    Args:
        function: the module, or a method of it.
        module: the module that the function is or belongs to.
        call: the recorded call.
        training: context of the trainer's precision in training steps.
        evaluation: context of the trainer's precision in probes.
        flags: training flags of all modules during the call.
        readout: where in the module the representation is, if it is not the output of the call.
    """

    function: Callable[..., Any]
    module: nn.Module
    call: Call
    training: Callable[[], AbstractContextManager[Any]]
    evaluation: Callable[[], AbstractContextManager[Any]]
    flags: Mapping[nn.Module, bool]
    readout: Readout = NOWHERE

    def differs(self) -> bool:
        """Whether a replay of the recorded call returns another output than the call did.

        Raises:
            ValueError: if the call compares the examples of a batch with each other.
        """
        call = self.call
        with isolated(self.module):
            found = self._repeated(call.random_state)
        same_shapes = [tuple(x.shape) for x in found] == list(call.shapes)
        if same_shapes and self._compares_examples():
            raise ValueError("it compares the examples of a batch")
        rows = [x[: len(kept)] if x.ndim else x for x, kept in zip(found, call.sample, strict=False)]
        return not same_shapes or not (call.stale(self.module) or _alike(rows, call.sample))

    def varies(self) -> bool:
        """Whether replays differ from each other, due to randomness or internal state.

        For the recorded call, only torch's random state on the CPU is known; other generators and earlier internal
        state are not. State that is forgotten, as that of a recurrent network, shrinks a difference in each call: one
        above the tolerance between the recorded call and a replay is at least its square between two replays.
        """
        another = 2  # mutants: any other seed
        (one, later), (same, _), (other, _) = (self._repeated_twice(seed) for seed in (1, 1, another))
        return _alike(one, same) and not (_alike(one, other) and _alike(one, later, TOLERANCE**2))

    def reading(self, readout: Readout) -> Rehearsal:
        """Return a copy that reads the representation from a submodule whose output depends on the input.

        The output of one that embeds time steps, for example, does not.
        """
        leaf, arguments, parts = self.call.input, self.call.arguments, readout.parts
        if not parts or leaf is None or leaf.listed:
            return replace(self, readout=Readout(readout.head))
        value = at(arguments, leaf.path)
        whole, other = (self._at_parts(parts, replaced(arguments, leaf.path, x)) for x in (value, value.roll(1, 0)))
        depending = tuple(part for part in parts if part in whole and not _alike(whole[part], other.get(part, ())))
        return replace(self, readout=Readout(readout.head, depending))

    def _repeated_twice(self, seed: int) -> tuple[list[Tensor], list[Tensor]]:
        """Run the call twice in a row from the module's present state."""
        with isolated(self.module):
            return self._repeated(seed=seed), self._repeated(seed=seed)

    def encoder_call(self) -> EncoderCall:
        """Derive how a probe makes the call: its other arguments, and where real-valued examples enter."""
        assert self.call.arguments is not None
        leaf, arguments = self.call.input, self.call.arguments
        leaf, interact = self._examples_of(leaf, arguments)
        kept, per_example, defaults = template(self.function, arguments, leaf)
        placement, batch_size = None, None
        if leaf is not None and not interact:
            batch_size = self._only_batch_size(leaf, arguments)
            placement = self._placement(leaf, arguments)
        return EncoderCall(
            path=self.call.path,
            method=self.call.method,
            input=leaf,
            placement=placement,
            arguments=kept,
            per_example=per_example,
            defaults=defaults,
            head=self.readout.head,
            part=next(iter(self.readout.parts), ""),
            batch_size=batch_size,
            calls=self.call.count,
            whole=interact,
        )

    def _repeated(self, random_state: Tensor | None = None, seed: int | None = None) -> list[Tensor]:
        assert self.call.arguments is not None
        if random_state is not None:
            torch.set_rng_state(random_state)
        if seed is not None:
            seed_generators(seed)
        with settings_kept(COMPUTATION), self._in_training(), self.training():
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

    def _evaluated(self, arguments: Arguments, seed: int = 0) -> list[Tensor]:  # mutants: any seed
        torch.default_generator.manual_seed(seed)
        place = self.readout.head or next(iter(self.readout.parts), "")
        with settings_kept(COMPUTATION), self.evaluation():
            if place:
                part = self.module.get_submodule(place)
                output = seen_at(part, bool(self.readout.head), self.function, arguments)
            else:
                output = arguments.of(self.function)
        return [x for x in tensors_in(output) if x.is_floating_point() and x.ndim >= 2]

    def _compares_examples(self) -> bool:
        """Whether an output is ``(N, N)``, as a similarity matrix of the batch is."""
        rows = None if self.call.input is None else self.call.input.rows
        if rows is None or rows < 3 or not any(shape == (rows, rows) for shape in self.call.shapes):
            return False
        assert self.call.arguments is not None
        try:
            fewer = self._evaluated(taken(self.call.arguments, torch.arange(rows - 1), rows))
        except Exception:
            return False
        return any(tuple(x.shape) == (rows - 1, rows - 1) for x in fewer)

    def _at_parts(self, parts: Sequence[str], arguments: Arguments) -> dict[str, list[Tensor]]:
        """Outputs of some submodules in a call."""
        found: dict[str, list[Tensor]] = {}

        def see(path: str, _: nn.Module, _args: Any, output: Any) -> None:
            found[path] = [x for x in tensors_in(output) if x.is_floating_point()]

        handles = [self.module.get_submodule(part).register_forward_hook(partial(see, part)) for part in parts]
        try:
            self._evaluated(arguments)
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _examples_of(self, leaf: InputLeaf | None, arguments: Arguments) -> tuple[InputLeaf | None, bool]:
        """The input with its batch axis, and whether its examples interact, as the nodes of a graph do.

        The examples of a single tensor do not interact, unless layers normalize over the batch in evaluation mode,
        too. It may be ``(T, N, ...)``, except in a function of the user's.
        """
        if leaf is None or leaf.rows < 2 or leaf.listed:
            return leaf, False
        single = sum(1 for _ in tensors_in(arguments)) < 2
        if (single and not self.flags) or not self._rows_interact(leaf, arguments):
            return leaf, False
        value = at(arguments, leaf.path)
        if value.ndim == (2 if leaf.is_integer else 3):
            other = leaf.time_first(value)
            if not self._rows_interact(other, arguments):
                return other, False
        return leaf, not single

    def _rows_interact(self, leaf: InputLeaf, arguments: Arguments) -> bool:
        """Whether the features of an example depend on the other examples in the batch, as for nodes of a graph."""
        # not the first rows, whose states in a recurrent layer do not depend on others
        half = torch.arange(1, leaf.rows, 2)  # mutants: any rows without the first
        another = 1  # mutants: any other seed
        try:
            whole = self._by_example(arguments, leaf, leaf.rows)
            random = not _alike(whole, self._by_example(arguments, leaf, leaf.rows, another))
            part = self._by_example(_taken(arguments, half, leaf), leaf, len(half))
        except Exception:  # for example, indices of dropped rows
            return True
        fits = [x[half.to(x.device)] for x in whole if len(x) == leaf.rows]
        part = [x for x in part if len(x) == len(half)]
        return not fits or (not random and not _alike(fits, part))

    def _by_example(self, arguments: Arguments, leaf: InputLeaf, rows: int, *seed: int) -> list[Tensor]:
        found = self._evaluated(arguments, *seed)
        return examples_first(found, rows) if leaf.axis else found

    def _only_batch_size(self, leaf: InputLeaf, arguments: Arguments) -> int | None:
        """The batch size of training if the encoder accepts no other (for example, with one state per example)."""
        if leaf.rows < 2:
            return None
        try:
            self._evaluated(_taken(arguments, torch.arange(leaf.rows - 1), leaf))
        except Exception:
            return leaf.rows
        return None

    def _placement(self, leaf: InputLeaf, arguments: Arguments) -> Placement | None:
        if leaf.dtype.is_complex:
            return Placement("complex", (*leaf.shape, 2))
        if not leaf.is_integer:
            return Placement("input", leaf.shape)
        value = at(arguments, leaf.path)
        if (
            isinstance(value, Tensor)
            and len(leaf.shape) == 1
            and (place := self._embedding(value, arguments, leaf.axis))
        ):
            return place
        if len(leaf.shape) < 2 or not isinstance(value, Tensor) or leaf.listed:
            return None
        if leaf.dtype == torch.uint8:
            return Placement("integers", leaf.shape, QUANTIZED_STD, 127.5)
        values = value.double()
        return Placement("integers", leaf.shape, float(values.std()), float(values.mean()))

    def _embedding(self, ids: Tensor, arguments: Arguments, axis: int) -> Placement | None:
        """The first module that embeds the token ids."""
        found: list[Placement] = []

        def see(path: str, _: nn.Module, args: Any, output: Any) -> None:
            if found or not (args and isinstance(args[0], Tensor) and isinstance(output, Tensor)):
                return
            given = args[0]
            as_long = given.shape == ids.shape and not given.is_floating_point()
            if as_long and output.shape[:2] == ids.shape and output.ndim == 3 and output.is_floating_point():
                factor = float(output.detach().double().std())
                shape = (output.shape[1 - axis], *output.shape[2:])
                found.append(Placement("embedding", shape, factor or 1.0, module=path))

        layers = [(path, part) for path, part in self.module.named_modules() if not list(part.children())]
        handles = [part.register_forward_hook(partial(see, path)) for path, part in layers]
        try:
            self._evaluated(arguments)
        finally:
            for handle in handles:
                handle.remove()
        return found[0] if found else None


def call_of_inputs(function: Callable[..., Any], module: nn.Module | None, inputs: Any) -> EncoderCall:
    """Derive how a probe calls an encoder that was not recorded in training, from sample inputs.

    Args:
        function: the encoder.
        module: the module that it is or belongs to; ``None`` without one.
        inputs: a batch, or a mapping of keyword arguments.
    """
    arguments = as_arguments(function, inputs)
    call = Call("", input=input_leaf(arguments), arguments=arguments)
    return Rehearsal(function, module or nn.Identity(), call, nullcontext, nullcontext, {}).encoder_call()


def _taken(arguments: Arguments, rows: Tensor, leaf: InputLeaf) -> Arguments:
    """Select some examples of the arguments."""
    found: Arguments = taken(arguments, rows, leaf.rows)
    if leaf.axis:
        value = at(arguments, leaf.path)
        found = replaced(found, leaf.path, value.index_select(leaf.axis, rows.to(value.device)))
    return found


def _alike(ones: Any, others: Any, tolerance: float = TOLERANCE) -> bool:
    ones, others = list(ones), list(others)
    if [x.shape for x in ones] != [x.shape for x in others]:
        return False
    for one, other in zip(ones, others, strict=True):
        one, other = (x.detach().cpu().to(torch.complex128) for x in (one, other))
        size = float(other.abs().square().mean().sqrt())
        if not bool((one - other).abs().square().mean().sqrt() <= tolerance * size):
            return False
    return True
