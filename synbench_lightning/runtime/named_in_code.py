"""Module-level variables and class attributes that a user's code refers to."""

from __future__ import annotations

import builtins
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterator
from functools import cache
from typing import Any

LIBRARIES = ("torch", "torchvision", "torchmetrics", "lightning", "pytorch_lightning", "synbench_lightning", "numpy")
"""Packages that are not the user's, wherever they are installed."""
MISSING = object()


def global_variables(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The module-level variables that a function of the user names, inner functions included; `MISSING` if not set."""
    if not is_users(function.__module__):
        return
    for name in sorted(_names(function.__code__)):
        value = function.__globals__.get(name, MISSING)
        if value is MISSING and hasattr(builtins, name):
            continue
        if not isinstance(value, (types.ModuleType, type, types.BuiltinFunctionType)):
            yield name, value


def named_namespaces(function: types.FunctionType) -> Iterator[tuple[type | types.ModuleType, dict[str, Any]]]:
    """The user's classes and Python modules that a function of the user names, with those of their variables.

    Of a Python module, those that the function names, too; of a class, its attributes.
    """
    names = _names(function.__code__)
    for name in sorted(names):
        value = function.__globals__.get(name)
        if isinstance(value, type) and is_users(value.__module__):
            yield value, _variables_of_class(value)
        elif isinstance(value, types.ModuleType) and is_users(value.__name__):
            closed = (types.ModuleType, type, types.BuiltinFunctionType)
            yield value, {n: v for n, v in vars(value).items() if n in names and not isinstance(v, closed)}


def class_attributes(value: Any) -> Iterator[tuple[type, dict[str, Any]]]:
    """The user's classes of an object, and their attributes that are not methods, properties or other descriptors."""
    for kind in type(value).__mro__:
        if is_users(kind.__module__):
            yield kind, _variables_of_class(kind)


def code_of(value: Any) -> Iterator[tuple[str, types.FunctionType]]:
    """The functions that run when an object is called, if they are the user's.

    These are its ``forward`` or ``__call__``, and the methods that they name, and so on.
    """
    waiting, seen = ["forward", "__call__"], set[str]()
    while waiting:
        name = waiting.pop()
        function = inspect.getattr_static(type(value), name, None)
        function = getattr(function, "__func__", function)  # of a class method or a static one
        if name in seen or not isinstance(function, types.FunctionType) or not is_users(function.__module__):
            continue
        seen.add(name)
        waiting += sorted(_names(function.__code__))
        yield name, function


def _variables_of_class(kind: type) -> dict[str, Any]:
    own = vars(kind).items()
    return {n: v for n, v in own if not (n.startswith(("__", "_abc_")) or hasattr(v, "__get__"))}


@cache
def is_users(module: str | None) -> bool:
    """Whether a Python module, by its name, is neither installed nor of the standard library."""
    if module is None or module.partition(".")[0] in LIBRARIES or module == "builtins":
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:  # a notebook or a prompt, unless it is built in
        return module not in sys.builtin_module_names
    return not (
        "site-packages" in file or "dist-packages" in file or file.startswith(sysconfig.get_paths()["stdlib"] + "/")
    )


def _names(code: types.CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, types.CodeType))
    return set(code.co_names).union(*map(_names, inner))
