"""Module-level variables and class attributes that a user's code refers to."""

from __future__ import annotations

import builtins
import inspect
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator, Set
from functools import cache
from typing import Any

LIBRARIES = ("torch", "torchvision", "torchmetrics", "lightning", "pytorch_lightning", "synbench_lightning", "numpy")
"""Packages that are not the user's, wherever they are installed."""
MISSING = object()


class UsersCode:
    """What functions of the user refer to.

    Args:
        packages: installed packages that count as the user's, too: those that the trained module and its callbacks
            come from.
    """

    def __init__(self, packages: Iterable[str] = ()) -> None:
        self._packages = frozenset(packages) - set(LIBRARIES)

    def owns(self, module: str | None) -> bool:
        """Whether a Python module, by its name, is the user's."""
        return is_users(module) or (module is not None and module.partition(".")[0] in self._packages)

    def names(self, function: types.FunctionType) -> set[str]:
        """What a function names: variables, attributes, and texts, as `getattr` takes them."""
        return _names(function.__code__, texts=True) if self.owns(function.__module__) else set()

    def global_variables(self, function: types.FunctionType) -> Iterator[tuple[str, Any]]:
        """The module-level variables that a function names, inner functions included; `MISSING` if not set."""
        if not self.owns(function.__module__):
            return
        for name in sorted(_names(function.__code__)):
            value = function.__globals__.get(name, MISSING)
            if value is MISSING and hasattr(builtins, name):
                continue
            if not isinstance(value, (types.ModuleType, type, types.BuiltinFunctionType)):
                yield name, value

    def named_namespaces(
        self, function: types.FunctionType
    ) -> Iterator[tuple[type | types.ModuleType, dict[str, Any]]]:
        """The user's classes and Python modules that a function names, with those of their variables.

        Of a Python module, those that the function names, too; of a class, its attributes.
        """
        names = _names(function.__code__)
        enclosed = inspect.getclosurevars(function).nonlocals if function.__closure__ else {}
        for name in sorted(names | enclosed.keys()):
            value = enclosed.get(name, function.__globals__.get(name))
            if isinstance(value, type) and self.owns(value.__module__):
                yield value, _variables_of_class(value)
            elif isinstance(value, types.ModuleType) and self.owns(value.__name__):
                closed = (types.ModuleType, type, types.BuiltinFunctionType)
                yield value, {n: v for n, v in vars(value).items() if n in names and not isinstance(v, closed)}

    def class_attributes(self, value: Any) -> Iterator[tuple[type, dict[str, Any]]]:
        """The user's classes of an object, and their attributes that are not methods, properties or descriptors."""
        for kind in type(value).__mro__:
            if self.owns(kind.__module__):
                yield kind, _variables_of_class(kind)

    def methods(self, kind: type, names: Set[str]) -> Iterator[tuple[str, types.FunctionType]]:
        """The functions behind those methods and properties of a class that have one of some names."""
        for owner in kind.__mro__:
            for name in sorted(names & vars(owner).keys()) if self.owns(owner.__module__) else ():
                function = vars(owner)[name]
                function = function.fget if isinstance(function, property) else getattr(function, "__func__", function)
                if isinstance(function, types.FunctionType):
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


def _names(code: types.CodeType, texts: bool = False) -> set[str]:
    inner = [_names(constant, texts) for constant in code.co_consts if isinstance(constant, types.CodeType)]
    found = [constant for constant in code.co_consts if texts and isinstance(constant, str)]
    return {*code.co_names, *found}.union(*inner)
