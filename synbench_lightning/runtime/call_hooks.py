"""Run functions before and after calls of modules and of methods of the user's classes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from synbench_lightning.runtime.lightning_packages import LightningModule

HOOK_DICTS = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs")
PACKAGES = ("torch.", "lightning.", "pytorch_lightning.", "torchmetrics.")
"""Where the classes come from whose own methods are no encoders."""


def around_module(
    part: nn.Module, begin: Callable[..., None], finish: Callable[..., None], copies: list[dict[int, Any]]
) -> Callable[[], None]:
    """Run ``begin(part, args, kwargs)`` before and ``finish(part, args, kwargs, output)`` after each call of a module.

    Returns:
        A function that removes them.
    """
    own, compiled = vars(part), part._compiled_call_impl
    if compiled is None and isinstance(part, torch.jit.ScriptModule):  # whose calls have no hooks
        compiled = partial(nn.Module._call_impl, part)
    if compiled is None:
        handles = (
            # before the user's hooks, which change the arguments once more where a call is repeated
            part.register_forward_pre_hook(_Hook(begin, copies), with_kwargs=True, prepend=True),
            part.register_forward_hook(_Hook(finish, copies), with_kwargs=True),
        )

        def remove() -> None:
            for handle in handles:
                _remove_hook(part, handle, copies)

        return remove

    def call(*args: Any, **kwargs: Any) -> Any:  # after `module.compile()`, hooks would be compiled
        begin(part, args, kwargs)
        output = compiled(*args, **kwargs)
        finish(part, args, kwargs, output)
        return output

    before = own.get("_compiled_call_impl")  # set in the dictionary, since a scripted module takes no attributes
    own["_compiled_call_impl"] = call
    return partial(own.__setitem__, "_compiled_call_impl", before)


def around_method(kind: type, name: str, begin: Callable[..., None], finish: Callable[..., None]) -> Callable[[], None]:
    """The same around a method of a class, for all of its instances."""
    original = vars(kind)[name]

    @functools.wraps(original)
    def method(module: Any, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return original(module, *args, **kwargs)
        begin(module, args, kwargs)
        output = original(module, *args, **kwargs)
        finish(module, args, kwargs, output)
        return output

    setattr(kind, name, method)
    return partial(setattr, kind, name, original)


def around_methods_of_compiled(begin: Callable[..., None], finish: Callable[..., None]) -> Callable[[], None]:
    """The same around methods that are called on the result of `torch.compile(module)`, which forwards them.

    These methods run uncompiled, and compiled code does not look them up there.
    """
    kind = torch._dynamo.OptimizedModule
    original = vars(kind)["__getattr__"]

    def look_up(module: Any, name: str) -> Any:
        found = original(module, name)
        owner = type(getattr(found, "__self__", None))
        if not (isinstance(found, MethodType) and issubclass(owner, nn.Module) and _is_watched(owner, name)):
            return found

        @functools.wraps(found)
        def method(*args: Any, **kwargs: Any) -> Any:
            begin(name, module, args, kwargs)
            output = found(*args, **kwargs)
            finish(name, module, args, kwargs, output)
            return output

        return method

    kind.__getattr__ = look_up  # type: ignore[method-assign]
    return partial(setattr, kind, "__getattr__", original)


def _is_watched(kind: type, name: str) -> bool:
    """Whether a method is defined by the user's class."""
    known = hasattr(LightningModule, name) or name.startswith(("_", "on_"))
    owner = next((one for one in kind.__mro__ if name in vars(one)), kind)
    return not known and not f"{owner.__module__}.".startswith(PACKAGES)


def _remove_hook(part: nn.Module, handle: RemovableHandle, copies: list[dict[int, Any]]) -> None:
    handle.remove()
    for memo in copies:
        for name in HOOK_DICTS:
            memo.get(id(getattr(part, name)), {}).pop(handle.id, None)


class _Hook:
    """A hook that is dropped from copies and pickles of its module."""

    def __init__(self, function: Callable[..., Any], copies: list[dict[int, Any]]) -> None:
        self.function, self.copies = function, copies

    def __call__(self, *args: Any) -> None:
        self.function(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        if not any(memo is other for other in self.copies):
            self.copies.append(memo)  # what has been copied, by the identity of the original
        return nothing

    def __reduce__(self) -> Any:
        return _no_hook, ()


def nothing(*args: Any) -> None:
    """What a copy of a module has in the place of a hook until the recorder ends; where nothing is to be called."""


def _no_hook() -> Callable[..., None]:
    return nothing


def open_modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules by path, each once, without those inside compiled ones."""
    closed: list[str] = []
    for path, part in root.named_modules():
        if any(path.startswith(prefix) for prefix in closed):
            continue
        yield path, part
        if _is_compiled(part):
            closed.append(f"{path}." if path else "")


def _is_compiled(part: nn.Module) -> bool:
    kinds = (torch._dynamo.OptimizedModule, torch.jit.ScriptModule)
    return isinstance(part, kinds) or part._compiled_call_impl is not None


def methods(root: nn.Module, parts: list[nn.Module]) -> Iterator[tuple[type, str]]:
    """Methods besides ``forward`` that the classes of modules define, by class and name.

    Those of torch and Lightning are left out, and those of classes of which a module is compiled.
    """
    open_parts = {id(part) for part in parts if not _is_compiled(part)}
    closed = {kind for part in root.modules() if id(part) not in open_parts for kind in type(part).__mro__}
    kinds = dict.fromkeys(kind for part in parts if id(part) in open_parts for kind in type(part).__mro__)
    for kind in kinds:
        if kind in closed:
            continue
        for name, value in list(vars(kind).items()):
            if isinstance(value, FunctionType) and _is_watched(kind, name):
                yield kind, name
