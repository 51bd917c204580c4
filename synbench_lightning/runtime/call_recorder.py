"""What training calls its modules with, seen in its first step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from synbench_lightning.runtime.input_shape import tensors_in
from synbench_lightning.runtime.lightning_packages import LightningModule, lacks_forward


@dataclass(frozen=True)
class Call:
    """How training calls a module.

    Args:
        path: dotted attribute of the LightningModule; ``""`` for itself.
        shape: of one example of the input; of a list of crops, of the largest.
        argument: position or keyword of the input.
        listed: whether the input is a list of tensors.
        beside: arguments that the module has no default for, by keyword: plain values, which can be given again.
        missing: names of such arguments that are tensors or other objects, which cannot.
        features: whether it returns a tensor ``(N, ...)`` for N examples.
        trained: whether it has parameters that the call trains.
        direct: whether the module itself was called; else one of its methods, which called modules in it.
    """

    path: str
    shape: tuple[int, ...]
    argument: int | str = 0
    listed: bool = False
    beside: tuple[tuple[str, Any], ...] = ()
    missing: tuple[str, ...] = ()
    features: bool = True
    trained: bool = True
    direct: bool = True

    @property
    def name(self) -> str:
        """What the module is called in messages."""
        return f"`{self.path}`" if self.path else "the module's own `forward`"

    def __call__(self, module: Any, x: Any) -> Any:
        """Call a module as training does, with another input."""
        given: Any = [x] if self.listed else x
        beside = dict(self.beside)
        if isinstance(self.argument, str):
            return module(**{self.argument: given}, **beside)
        return module(given, **beside)


class CallRecorder:
    """Hooks on the modules of a LightningModule, from now until :meth:`end`; they keep shapes and no tensors.

    Modules inside compiled ones are not looked at, and what is compiled in the meantime does not contain the hooks. (A
    compiled function that is no module, but runs some, is compiled once more afterwards: torch guards their hooks.)

    Example:
        >>> class Module(LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoder = nn.Linear(16, 4)
        ...     def training_step(self, batch, batch_idx):
        ...         return self.encoder(batch.flatten(1)).sum()
        >>> module = Module()
        >>> observation = CallRecorder(module)
        >>> loss = module.training_step(torch.rand(8, 1, 4, 4), 0)
        >>> observation.end()["encoder"].shape
        (16,)
    """

    def __init__(self, root: LightningModule) -> None:
        self._root = root
        self._calls: list[Call] = []  # in the order in which they ended
        self._other: set[str] = set()  # called with something else than an input, as token ids
        seen = list(_open_modules(root))
        self.paths = {id(part): path for path, part in seen}
        """The modules that are looked at."""
        self._ends: list[Callable[[], None]] = [self._watch(path, part) for path, part in seen]

    def end(self) -> dict[str, Call]:
        """Take the hooks away; the calls by path, in the order in which modules were first called."""
        for end in self._ends:
            end()
        self._ends = []
        found: dict[str, Call] = {}
        for call in self._calls:
            other = found.get(call.path)
            found[call.path] = call if other is None else _joined(other, call)
        return {**found, **self._reached(found)}

    def _watch(self, path: str, part: nn.Module) -> Callable[[], None]:
        """Hear of a module's calls until what is returned is called."""
        compiled = part._compiled_call_impl
        if compiled is None:
            return part.register_forward_hook(partial(self._see, path), with_kwargs=True).remove

        def call(*args: Any, **kwargs: Any) -> Any:  # of a module that `compile()` was called on: hooks are within
            output = compiled(*args, **kwargs)
            self._see(path, part, args, kwargs, output)
            return output

        part._compiled_call_impl = call
        return partial(setattr, part, "_compiled_call_impl", compiled)

    def _see(self, path: str, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if torch.compiler.is_compiling() or not self._root.training:  # in a probe, of another callback
            return
        call = _read(path, module, args, kwargs, output)
        if call is None:
            self._other.add(path)
        else:
            self._calls.append(call)

    def _reached(self, found: Mapping[str, Call]) -> dict[str, Call]:
        """Modules that have a forward, were not called, and in which something was: through a method of theirs."""
        reached: dict[str, Call] = {}
        for path, call in found.items():
            names = path.split(".")
            for depth in range(1, len(names)):
                outer = ".".join(names[:depth])
                if outer in found or outer in self._other or not has_forward(self._root.get_submodule(outer)):
                    continue
                known = reached.setdefault(outer, Call(outer, call.shape, trained=call.trained, direct=False))
                reached[outer] = replace(known, trained=known.trained or call.trained)
        return reached


def has_forward(module: nn.Module) -> bool:
    """Whether a module can be called: containers cannot."""
    return getattr(type(module), "forward", None) is not nn.Module.forward and not lacks_forward(module)


def _open_modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules by path, each once, without those inside compiled ones."""
    closed: list[str] = []
    for path, part in root.named_modules():
        if any(path.startswith(prefix) for prefix in closed):
            continue
        yield path, part
        compiled = isinstance(part, (torch._dynamo.OptimizedModule, torch.jit.ScriptModule))
        if compiled or part._compiled_call_impl is not None:
            closed.append(f"{path}." if path else "")


def _read(path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Call | None:
    """A call with floating-point inputs ``(N, ...)``; ``None`` for any other."""
    arguments: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    place, value = next(((key, value) for key, value in arguments if _tensors(value)), (0, None))
    inputs = _tensors(value)
    if not inputs or not all(x.is_floating_point() and x.ndim >= 2 and x.numel() for x in inputs):
        return None
    listed = not isinstance(value, Tensor)
    counts = {*map(len, inputs), sum(map(len, inputs))}
    features = [x for x in tensors_in(output) if x.is_floating_point() and x.ndim >= 2 and len(x) in counts]
    argument, beside, missing = _beside(module, place, args, kwargs)
    return Call(
        path=path,
        shape=tuple(max(inputs, key=lambda x: x[0].numel()).shape[1:]),
        argument=argument,
        listed=listed,
        beside=beside,
        missing=missing,
        features=bool(features),
        trained=any(x.requires_grad for x in features) and any(p.requires_grad for p in module.parameters()),
    )


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    several = isinstance(value, (list, tuple)) and bool(value) and all(isinstance(x, Tensor) for x in value)
    return list(value) if several else []


def _beside(
    module: nn.Module, place: int | str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[int | str, tuple[tuple[str, Any], ...], tuple[str, ...]]:
    """The input's place, by name if it is not the first; what the module needs beside it: plain values, and the names
    of all else.
    """
    try:
        signature = inspect.signature(module.forward)
        given = signature.bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return place, (), ()
    named = [name for name, parameter in signature.parameters.items() if parameter.kind in NAMED]
    own = named[place] if isinstance(place, int) and place < len(named) else place
    needed = {
        name: value
        for name, value in given.items()
        if name in named and name != own and signature.parameters[name].default is inspect.Parameter.empty
    }
    plain = tuple((name, value) for name, value in needed.items() if _is_plain(value))
    return own if place else place, plain, tuple(name for name, value in needed.items() if not _is_plain(value))


NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _is_plain(value: Any) -> bool:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _joined(one: Call, other: Call) -> Call:
    """Two calls of a module: that which gives features, with the larger input."""
    if one.features != other.features:
        return one if one.features else other
    larger = max(one, other, key=lambda call: torch.Size(call.shape).numel())
    return replace(larger, trained=one.trained or other.trained)
