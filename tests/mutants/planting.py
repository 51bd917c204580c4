"""How a changed syntax tree takes the place of a file, in this process alone."""

from __future__ import annotations

import ast
import gc
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any


def replace_functions(path: Path, tree: ast.Module, lines: range) -> bool:
    """Give the outermost functions around some lines, wherever they are in use, the code of a tree.

    Returns:
        Whether there was such a function.
    """
    changed = compile(ast.fix_missing_locations(tree), str(path), "exec")
    codes = {_place(code): code for code in _functions(changed)}
    replaced = False
    for one in functions_by_file().get(str(path), ()):
        code = codes.get(_place(one.__code__))
        if code is not None and any(line in lines for *_, line in _lines(code)):
            one.__code__, replaced = code, True
    return replaced


@cache
def functions_by_file() -> dict[str, list[types.FunctionType]]:
    """All functions that are there at the first call, before any fork: to look for them copies the whole memory."""
    found: dict[str, list[types.FunctionType]] = {}
    for one in gc.get_objects():
        if type(one) is types.FunctionType:  # by `type`: to ask an object for its class may have effects
            found.setdefault(one.__code__.co_filename, []).append(one)
    return found


def _place(code: types.CodeType) -> tuple[int, str]:
    return code.co_firstlineno, code.co_name


def _functions(code: types.CodeType) -> Iterator[types.CodeType]:
    """All code objects within one."""
    for one in code.co_consts:
        if isinstance(one, types.CodeType):
            yield one
            yield from _functions(one)


def _lines(code: types.CodeType) -> Iterator[Any]:
    for one in (code, *_functions(code)):
        yield from (place for place in one.co_lines() if place[2] is not None)


@dataclass
class ImportChanged:
    """Imports one module from a tree; stands first among the finders."""

    module: str
    tree: ast.Module

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.module:
            return None
        spec = PathFinder.find_spec(name, path)
        assert spec is not None
        spec.loader = _Changed(name, str(spec.origin))
        spec.loader.tree = self.tree
        return spec


class _Changed(SourceFileLoader):
    """Gives a module the code of a tree instead of its file."""

    tree: ast.Module

    def get_code(self, fullname: str) -> Any:
        return compile(ast.fix_missing_locations(self.tree), self.path, "exec")
