"""Call the encoder in probes as training calls it, with Gaussian examples or with inputs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from synbench_lightning.runtime.input_leaf import InputLeaf, num_examples
from synbench_lightning.runtime.placements import Placement, Proxy, as_input, embedding_gives
from synbench_lightning.runtime.structures import (
    Arguments,
    Path,
    at,
    detached,
    is_plain,
    leaves,
    mapped,
    moved,
    replaced,
)
from synbench_lightning.runtime.token_masks import Masked, counting_tokens, marks_padding, token_mask


class Head(NamedTuple):
    """A module outside of the encoder that training applies to the encoder's output.

    Args:
        path: dotted attribute of the LightningModule.
        behind: path of the head whose output is its input; ``""`` for the encoder.
        position: index of the tensor among the tensors ``(N, ...)`` of that output.
        way: pooling that turns this tensor into the head's input vectors, see :mod:`.heads`.
    """

    path: str
    behind: str
    position: int
    way: str


@dataclass(frozen=True, eq=False)
class EncoderCall:
    """How training calls the encoder, and how a probe does.

    Args:
        path: dotted attribute of the LightningModule; ``""`` for itself.
        method: the method that is called; ``""`` if the module itself is.
        input: the input among the arguments; ``None`` if none can be replaced.
        placement: where Gaussian examples enter; ``None`` if they cannot.
        arguments: the other arguments of the call; tensors with one row per example are reduced to one row.
        per_example: paths of these tensors.
        defaults: paths and default values of those that are optional.
        head: path, in the encoder's module, of a head whose input is the representation.
        part: path, in the encoder's module, of a submodule whose output is the representation.
        batch_size: the only batch size that the encoder accepts, if it does not accept others.
        calls: how often a step calls it.
        whole: whether the examples of a batch cannot be separated.
        heads: modules that training applies to the encoder's output.
    """

    path: str
    method: str = ""
    input: InputLeaf | None = None
    placement: Placement | None = None
    arguments: Arguments = field(default_factory=Arguments)
    per_example: tuple[Path, ...] = ()
    defaults: tuple[tuple[Path, Any], ...] = ()
    head: str = ""
    part: str = ""
    batch_size: int | None = None
    calls: int = 1
    whole: bool = False
    heads: tuple[Head, ...] = ()

    @property
    def name(self) -> str:
        """What is called, in messages: a dotted attribute."""
        return ".".join(filter(None, (self.path, self.method)))

    def __call__(self, function: Callable[..., Any], module: nn.Module | None, x: Any) -> Any:
        """Call the encoder.

        Args:
            function: the module, or a method of it.
            module: the module that the function is or belongs to; ``None`` if unknown.
            x: Gaussian examples (:class:`Proxy`), all arguments (:class:`.Arguments`), or the input: a tensor, or a
                mapping of keyword arguments.

        Returns:
            The output, or the input of the head; :class:`Masked` if a token mask is among the arguments.
        """
        if isinstance(x, Proxy):
            return self._with_examples(function, module, x.values)
        arguments = self._as_called(x) if isinstance(x, Arguments) else self.bound(x)
        return self._output(function, module, arguments)

    def kept(self, arguments: Arguments) -> Arguments:
        """Convert arguments of training to the form that a probe keeps, with the input ``(N, ...)``."""
        if self.whole:
            return Arguments(arguments.args, arguments.kwargs, whole=True)
        if self.input is None or not self.input.axis:
            return arguments
        value: Tensor = at(arguments, self.input.path)
        return _with(arguments, self.input.path, value.movedim(self.input.axis, 0))

    def _as_called(self, arguments: Arguments) -> Arguments:
        """Inverse of :meth:`kept`: move the examples back to the axis that the encoder takes."""
        if self.input is None or not self.input.axis:
            return arguments
        value: Tensor = at(arguments, self.input.path)
        return _with(arguments, self.input.path, value.movedim(0, self.input.axis))

    def bound(self, x: Any) -> Arguments:
        """Complete an input to all arguments; optional ones get their default."""
        device = next((leaf.device for _, leaf in leaves(x)), torch.device("cpu"))
        rest = moved(self.arguments, device)
        for path, default in self.defaults:
            rest = replaced(rest, path, default)
        needed = set(self.per_example) - {path for path, _ in self.defaults}
        if self.input is None:
            return Arguments(tuple(x) if isinstance(x, (tuple, list)) else (x,))
        if isinstance(x, Tensor) and x.dtype == torch.float32 and self.input.dtype.is_floating_point:
            x = x.to(self.input.dtype)  # other dtypes were set by the trainer's precision
        if not isinstance(x, Mapping):
            needed.discard(self.input.path)
            arguments = replaced(rest, self.input.path, [x] if self.input.listed else x)
        elif isinstance(at(self.arguments, self.input.path[:2]), Mapping):
            needed = {path for path in needed if path[:2] != self.input.path[:2]}
            arguments = replaced(rest, self.input.path[:2], x)
        else:
            needed = {path for path in needed if path[0] == "kwargs" and path[1] not in x}
            arguments = Arguments((), {**rest.kwargs, **x})
        return self._as_called(_expanded(arguments, needed, num_examples(x) or 1))

    def _with_examples(self, function: Callable[..., Any], module: nn.Module | None, values: Tensor) -> Any:
        placement = self.placement
        if placement is None or self.input is None:
            raise ValueError("The encoder does not accept real-valued vectors.")
        rest = _expanded(moved(self.arguments, values.device), self.per_example, len(values))
        if placement.kind == "embedding":
            assert module is not None
            vectors = (values * placement.factor).movedim(0, self.input.axis)
            with embedding_gives(module.get_submodule(placement.module), vectors):
                return self._output(function, module, self._as_called(rest))
        given = as_input(values, placement, self.input.dtype)
        filled = replaced(rest, self.input.path, [given] if self.input.listed else given)
        return self._output(function, module, self._as_called(filled))

    def _output(self, function: Callable[..., Any], module: nn.Module | None, arguments: Arguments) -> Any:
        with counting_tokens(token_mask(arguments)) as mask:
            if self.head or self.part:
                assert module is not None
                output = seen_at(module.get_submodule(self.head or self.part), bool(self.head), function, arguments)
            else:
                output = arguments.of(function)
        if self.input is not None and self.input.axis:
            output = examples_first(output, at(arguments, self.input.path).shape[self.input.axis])
        return output if mask is None else Masked(output, mask)

    def state(self) -> dict[str, Any] | None:
        """Convert to tensors and plain types; ``None`` if its arguments contain anything else."""
        if not is_plain([self.arguments.args, self.arguments.kwargs, [default for _, default in self.defaults]]):
            return None
        leaf = None if self.input is None else {**asdict(self.input), "dtype": str(self.input.dtype)[len("torch.") :]}
        own = {
            name: getattr(self, name)
            for name in ("path", "method", "per_example", "defaults", "head", "part", "batch_size", "calls", "whole")
        }
        placement = None if self.placement is None else asdict(self.placement)
        return {
            **own,
            "input": leaf,
            "placement": placement,
            "heads": [tuple(head) for head in self.heads],
            "args": self.arguments.args,
            "kwargs": self.arguments.kwargs,
        }

    @classmethod
    def of_state(cls, state: Mapping[str, Any]) -> EncoderCall:
        """Create a call from the output of :meth:`state`.

        Raises:
            ValueError: for anything else.
        """
        try:
            values = dict(state)
            arguments = Arguments(tuple(values.pop("args")), dict(values.pop("kwargs")))
            leaf, placement = values.pop("input"), values.pop("placement")
            if leaf is not None:
                leaf = {**leaf, "dtype": getattr(torch, leaf["dtype"]), "shape": tuple(leaf["shape"])}
                leaf = InputLeaf(**{**leaf, "path": tuple(leaf["path"])})
            if placement is not None:
                placement = Placement(**{**placement, "shape": tuple(placement["shape"])})
            values["heads"] = tuple(Head(*head) for head in values.get("heads", ()))
            values["per_example"] = tuple(map(tuple, values["per_example"]))
            values["defaults"] = tuple((tuple(path), default) for path, default in values["defaults"])
            return cls(**values, input=leaf, placement=placement, arguments=arguments)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its 'call' cannot be read ({type(error).__name__}: {error})") from error


def _with(arguments: Arguments, path: Path, leaf: Any) -> Arguments:
    found: Arguments = replaced(arguments, path, leaf)
    return found


def examples_first(output: Any, rows: int) -> Any:
    """Transpose tensors ``(T, N, ...)`` of an output with N = ``rows`` to ``(N, T, ...)``."""
    return mapped(output, lambda x: x.movedim(1, 0) if x.ndim >= 2 and x.shape[1] == rows else x)


def _expanded(arguments: Arguments, paths: Iterable[Path], rows: int) -> Arguments:
    """Expand single-row arguments to one row per example."""
    for path in paths:
        row = at(arguments, path)
        arguments = replaced(arguments, path, row.expand(rows, *row.shape[1:]))
    return arguments


def template(
    function: Callable[..., Any], arguments: Arguments, leaf: InputLeaf | None
) -> tuple[Arguments, tuple[Path, ...], tuple[tuple[Path, Any], ...]]:
    """The encoder's arguments other than its input, the paths of those with one row per example, and defaults.

    Tensors with one row per example are reduced to the row of the example with the least padding.
    """
    if leaf is None:
        return Arguments(), (), ()
    rows = leaf.rows
    ids = leaf.is_integer and len(leaf.shape) == 1
    beside = [
        (path, one) for path, one in leaves(arguments, within_objects=False) if path[: len(leaf.path)] != leaf.path
    ]
    per_example = [(path, one) for path, one in beside if one.ndim and len(one) == rows]
    counts = torch.zeros(rows)
    for path, one in per_example:
        if one.ndim == 2 and not one.is_floating_point():
            filled = (one != 0).sum(1).cpu()
            counts += -filled if marks_padding(path) else filled
    row = counts.argmax().reshape(1)
    kept = arguments
    for path, one in beside:
        kept = replaced(kept, path, detached(one[row.to(one.device)] if one.ndim and len(one) == rows else one))
    value = at(arguments, leaf.path)
    if ids:
        value = value.movedim(leaf.axis, 0)
        kept = replaced(kept, leaf.path, detached(value[row.to(value.device)]))
    else:
        kept = replaced(kept, leaf.path, None)
    paths = tuple(path for path, _ in per_example) + ((leaf.path,) if ids else ())
    return kept, paths, tuple(_defaults(function, [path for path, _ in per_example]))


def plain_call(function: Callable[..., Any], x: Any) -> Any:
    """Call an encoder that was not observed in training: with Gaussian examples, all arguments, or an input.

    A mapping is passed as keyword arguments if the function accepts them.
    """
    if isinstance(x, Proxy):
        return function(x.values)
    arguments = as_arguments(function, x)
    with counting_tokens(token_mask(arguments)) as mask:
        output = arguments.of(function)
    return output if mask is None else Masked(output, mask)


def as_arguments(function: Callable[..., Any], x: Any) -> Arguments:
    """Convert an input to arguments: a mapping becomes keyword arguments if the function accepts them."""
    if isinstance(x, Arguments):
        return x
    if isinstance(x, Mapping) and all(isinstance(key, str) for key in x) and _takes(function, list(x)):
        return Arguments((), dict(x))
    return Arguments((x,))


def _takes(function: Callable[..., Any], names: list[str]) -> bool:
    target = function.forward if isinstance(function, nn.Module) else function
    try:
        inspect.signature(target).bind(**dict.fromkeys(names))
    except (TypeError, ValueError):
        return False
    return True


def _defaults(function: Callable[..., Any], paths: list[Path]) -> list[tuple[Path, Any]]:
    """Paths of optional arguments, and their default values."""
    target = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return []
    positional = [p for p in parameters.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    found = []
    for path in paths:
        if len(path) != 2:
            continue
        where, key = path
        parameter = parameters.get(key) if where == "kwargs" else positional[key] if key < len(positional) else None
        if parameter is not None and parameter.default is not inspect.Parameter.empty and is_plain(parameter.default):
            found.append((path, parameter.default))
    return found


def seen_at(part: nn.Module, before: bool, function: Callable[..., Any], arguments: Arguments) -> Any:
    """Call a function and return the input (``before``) or the output of a submodule."""
    found: list[Any] = []
    if before:
        handle = part.register_forward_pre_hook(
            lambda _, args, kwargs: found.append(args[0] if args else next(iter(kwargs.values()))), with_kwargs=True
        )
    else:
        handle = part.register_forward_hook(lambda _, args, output: found.append(output))
    try:
        output = arguments.of(function)
    finally:
        handle.remove()
    return found[-1] if found else output
