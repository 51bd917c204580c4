"""Record the calls of modules, with arguments and outputs, in the first training step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from synbench_lightning.runtime.call_hooks import (
    around_method,
    around_methods_of_compiled,
    around_module,
    methods,
    nothing,
    open_modules,
)
from synbench_lightning.runtime.data_flow import DataFlow
from synbench_lightning.runtime.input_leaf import InputLeaf, input_leaf
from synbench_lightning.runtime.lightning_packages import LightningModule
from synbench_lightning.runtime.module_names import named_like_encoder
from synbench_lightning.runtime.structures import Arguments, leaves, mapped, tensors_in

SAMPLE_ROWS = 4  # mutants: memory and time alone
"""Number of examples whose outputs are kept, to compare a replay of a call with."""
MOST_VECTORS = 2**14  # mutants: memory and time alone
"""Vectors of these examples are kept up to this number of elements."""

Key = tuple[str, str]
"""A dotted attribute of the LightningModule, and its method that was called; ``""`` for the module itself."""


def name_of(key: Key) -> str:
    """The name of a call in messages: a dotted attribute."""
    return ".".join(filter(None, key)) or "forward"


@dataclass(frozen=True, eq=False)
class Call:
    """A recorded call of a module, or of a method of a module, in training.

    Args:
        path: dotted attribute of the LightningModule; ``""`` for itself.
        method: name of the method; ``""`` if the module itself was called.
        input: the input among the arguments; ``None`` if none can be replaced.
        arguments: arguments of the call; ``None`` for calls that are no candidates for the encoder.
        shapes: shapes of the real-valued or complex tensors in the output.
        sample: the first rows of these tensors.
        vectors: the first rows of the vectors ``(N, D)`` that are its only input, and of its output.
        trained: whether it has parameters that the call trains.
        parent: the innermost other call that it was made in.
        shares_input: whether its input is that of its parent; true if the parent is only the LightningModule.
        given: whether one of its arguments is a tensor of its parent's arguments, unchanged.
        made_by: calls whose outputs its first output was computed from, without another call in between.
        consumers: calls whose inputs were computed from its output, without another call in between.
        order: start and end of the call, counted in calls.
        random_state: random state of the CPU at the start of the call.
        versions: version counters of its weights and its input at the end of the call.
        count: number of calls.
    """

    path: str
    method: str = ""
    input: InputLeaf | None = None
    arguments: Arguments | None = None
    shapes: tuple[tuple[int, ...], ...] = ()
    sample: tuple[Tensor, ...] = ()
    vectors: tuple[Tensor, Tensor] | None = None
    trained: bool = True
    parent: Key | None = None
    shares_input: bool = True
    given: bool = True
    made_by: frozenset[Key] = frozenset()
    consumers: frozenset[Key] = frozenset()
    order: tuple[int, ...] = ()
    random_state: Tensor | None = None
    versions: tuple[int, ...] = ()
    count: int = 1

    def stale(self, module: nn.Module) -> bool:
        """Whether weights of the module or arguments of the call were modified in place since."""
        return self.versions != _versions(module, self.arguments)

    @property
    def key(self) -> Key:
        """Identifier of the call."""
        return self.path, self.method

    @property
    def name(self) -> str:
        """Name in messages: a dotted attribute."""
        return name_of(self.key)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example of its input; ``()`` without one."""
        return () if self.input is None else self.input.shape

    @property
    def features(self) -> bool:
        """Whether it returned a real-valued tensor ``(N, ...)`` for its N input examples, if N is known."""
        rows = None if self.input is None else self.input.rows
        several = self.input is not None and self.input.listed
        return any(
            len(shape) >= 2 and (rows in (None, shape[0]) or (several and rows is not None and shape[0] % rows == 0))
            for shape in self.shapes
        )

    @property
    def returns_loss(self) -> bool:
        """Whether a scalar is among its outputs."""
        return () in self.shapes


class CallRecorder:
    """Records calls of the modules of a LightningModule until :meth:`end`.

    Calls of modules are recorded by hooks, calls of other methods of the user's classes by a temporary wrapper in the
    class. Copies of a module made in the meantime have neither. Modules inside compiled ones are not recorded.
    (A compiled function that runs modules is recompiled once afterwards, since torch guards on their hooks.)

    Example:
        >>> class Module(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoder = nn.Linear(16, 4)
        ...     def training_step(self, batch, batch_idx):
        ...         return self.encoder(batch.flatten(1)).sum()
        >>> module = Module()
        >>> recorder = CallRecorder(module)
        >>> loss = module.training_step(torch.rand(8, 1, 4, 4), 0)
        >>> recorder.end()["encoder", ""].input.shape
        (16,)
    """

    def __init__(self, root: LightningModule) -> None:
        self._root = root
        self._calls: list[Call] = []  # in the order in which they ended
        self._open: list[tuple[Key, Arguments, InputLeaf | None, Tensor, Tensor | None, int]] = []
        self._flow, self._consumers = DataFlow(), dict[Key, set[Key]]()
        self._moments = count()
        self.in_backward = False
        """Whether a backward pass is under way: activation checkpointing repeats calls in it."""
        self._trained_again = set[Key]()  # by calls that were repeated with gradients
        seen = list(open_modules(root))
        self.paths = {id(part): path for path, part in seen}
        """Paths of the recorded modules by ``id``."""
        self._modules = dict(seen)
        self._copies: list[dict[int, Any]] = []
        self._ends: list[Callable[[], None]] = []
        for path, part in seen:
            self._ends.append(self._watch(path, part))
        for kind, name in methods(root, [part for _, part in seen]):
            self._ends.append(self._wrap(kind, name))
        if any(isinstance(part, torch._dynamo.OptimizedModule) for _, part in seen):
            self._ends.append(around_methods_of_compiled(self._begin_method, self._finish_method))

    @property
    def replaced(self) -> bool:
        """Whether a module with parameters was replaced since; calls of its replacement are not recorded."""
        now = dict(self._root.named_modules())
        gone = [part for path, part in self._modules.items() if now.get(path) is not part]
        return any(True for part in gone for _ in part.parameters())

    def end(self) -> dict[Key, Call]:
        """Remove all hooks; returns the calls in the order of their first start."""
        for end in self._ends:
            end()
        self._ends, self._open = [], []
        self._copies.clear()
        found: dict[Key, Call] = {}
        now = dict(self._root.named_modules())
        for call in sorted(self._calls, key=lambda call: call.order):
            if now.get(call.path) is not self._modules[call.path]:
                continue
            other = found.get(call.key)
            found[call.key] = call if other is None else _joined(other, call)
        self._calls = []
        return {
            key: replace(
                call,
                made_by=frozenset(call.made_by & found.keys()),
                consumers=frozenset(self._consumers.get(key, set()) & found.keys()),
                trained=call.trained or key in self._trained_again,
            )
            for key, call in found.items()
        }

    def has_called_most(self) -> bool:
        """Whether the called modules have more than half of the trainable parameters."""
        trained = {id(one): one.numel() for one in self._root.parameters() if one.requires_grad}
        called = [self._root.get_submodule(path) for path in {call.path for call in self._calls}]
        seen = {id(one) for module in called for one in module.parameters()}
        return 2 * sum(size for one, size in trained.items() if one in seen) > sum(trained.values())

    def _is_left_out(self) -> bool:
        """Whether a call is not one of training's own; without training mode it is that of another callback's probe."""
        return torch.compiler.is_compiling() or not self._root.training

    def _watch(self, path: str, part: nn.Module) -> Callable[[], None]:
        return around_module(part, partial(self._begin, path, ""), partial(self._finish, path, ""), self._copies)

    def _wrap(self, kind: type, name: str) -> Callable[[], None]:
        return around_method(kind, name, partial(self._begin_method, name), partial(self._finish_method, name))

    def _begin_method(self, name: str, module: Any, args: Any, kwargs: Any) -> None:
        if (path := self.paths.get(id(module))) is not None:
            self._begin(path, name, module, args, kwargs)

    def _finish_method(self, name: str, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        if (path := self.paths.get(id(module))) is not None:
            self._finish(path, name, module, args, kwargs, output)

    def _begin(self, path: str, method: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self._is_left_out():
            return
        arguments = Arguments(tuple(args), dict(kwargs))
        for source in self._flow.sources(tensors_in(arguments)):
            self._consumers.setdefault(source, set()).add((path, method))
        leaf, state, begun = input_leaf(arguments), torch.get_rng_state(), next(self._moments)
        self._open.append(((path, method), arguments, leaf, state, _vectors(arguments), begun))

    def _finish(self, path: str, method: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._is_left_out():
            return
        while self._open and self._open[-1][0] != (path, method):  # calls that have raised
            self._open.pop()
        if not self._open:
            return
        _key, arguments, leaf, state, vectors, begun = self._open.pop()
        parent = next((other for other in reversed(self._open) if other[0] != (path, method)), None)
        given = parent is None or _same_tensor(arguments, parent[1])
        shares = given or parent is None or parent[0][0] == "" or _same_shape(leaf, parent[2])
        real = [x for x in tensors_in(output) if x.is_floating_point() or x.is_complex()]
        made_by = frozenset(self._flow.sources([x for x in real if x.ndim >= 2][:1]))
        trained = any(x.requires_grad for x in real) and any(p.requires_grad for p in module.parameters())
        if self.in_backward:
            self._trained_again |= {(path, method)} if trained else set()
            return
        self._flow.mark((path, method), real)
        kept = shares or named_like_encoder(path)
        self._calls.append(
            Call(
                path, method, leaf,
                arguments=mapped(arguments, Tensor.detach) if kept else None,
                shapes=tuple(tuple(x.shape) for x in real),
                sample=tuple((x[:SAMPLE_ROWS] if x.ndim else x).detach().clone() for x in real) if kept else (),
                vectors=None if vectors is None or len(real) != 1 or real[0].ndim != 2 else (
                    vectors, real[0].detach()[:SAMPLE_ROWS].clone()
                ),
                trained=trained,
                parent=None if parent is None else parent[0],
                shares_input=shares,
                given=given,
                made_by=made_by,
                order=(begun, next(self._moments)),
                random_state=state if kept else None,
                versions=_versions(module, arguments) if kept else (),
            )
        )  # fmt: skip


def watch_calls(root: nn.Module, key: Key, see: Callable[[Arguments], None]) -> Callable[[], None]:
    """Pass the arguments of each training call of a module or method to ``see``; returns a function that stops it.

    Args:
        root: the LightningModule.
        key: identifier of the call.
        see: called with the arguments, before the call.
    """
    path, method = key
    module = root.get_submodule(path)

    def begin(called: Any, args: Any, kwargs: Any) -> None:
        if called is module and root.training and not torch.compiler.is_compiling():
            see(Arguments(tuple(args), dict(kwargs)))

    if method:
        kind = next(kind for kind in type(module).__mro__ if method in vars(kind))
        return around_method(kind, method, begin, nothing)
    return around_module(module, begin, nothing, [])


def _vectors(arguments: Arguments) -> Tensor | None:
    """The first rows of vectors ``(N, D)`` that are the only argument of a call."""
    given = list(tensors_in(arguments))
    rows = given[0].detach()[:SAMPLE_ROWS] if len(given) == 1 and given[0].ndim == 2 else None
    return rows.clone() if rows is not None and rows.is_floating_point() and rows.numel() <= MOST_VECTORS else None


def _versions(module: nn.Module, arguments: Arguments | None) -> tuple[int, ...]:
    tensors = [*module.parameters(), *(leaf for _, leaf in leaves(arguments))]
    return tuple(tensor._version for tensor in tensors if not tensor.is_inference())


def _same_tensor(arguments: Arguments, of_parent: Arguments) -> bool:
    """Whether a call was given a tensor ``(N, ...)`` of the call that it was made in."""
    mine = {id(tensor) for _, tensor in leaves(arguments)}
    return any(id(tensor) in mine for _, tensor in leaves(of_parent) if tensor.ndim >= 2)


def _same_shape(leaf: InputLeaf | None, of_parent: InputLeaf | None) -> bool:
    """Whether a call was given a picture as large as that of the call that it was made in."""
    return leaf is not None and of_parent is not None and leaf.shape == of_parent.shape and len(leaf.shape) >= 3


def _joined(one: Call, other: Call) -> Call:
    """Two calls of a module, the earlier one first, as one: that which gives features, with the larger input."""
    if one.features != other.features:
        chosen = one if one.features else other
    else:
        chosen = max(one, other, key=lambda call: (call.arguments is not None, prod(call.input_shape)))
    return replace(
        chosen,
        trained=one.trained or other.trained,
        shares_input=one.shares_input or other.shares_input,
        given=one.given or other.given,
        count=one.count + other.count,
        order=(one.order[0], max(one.order[1], other.order[1])),
    )
