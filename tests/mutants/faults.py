"""The faults that are planted in a file: comparisons, arithmetic, constants and conditions, one at a time."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

SWAPS: dict[type, type] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.USub: ast.UAdd,
}  # fmt: skip


@dataclass
class Mutant:
    """One change of a syntax tree, and where it stands."""

    lines: range
    """Of the statement, without the statements in it."""
    in_function: bool
    names: frozenset[str]
    """Of what is defined by a statement that is evaluated on import."""
    line: int
    before: str
    after: str
    apply: Callable[[], None]


def mutants(tree: ast.Module) -> Iterator[Mutant]:
    """All faults that are planted in a file, from top to bottom. Texts, those with values too, and annotations stay."""

    def visit(node: ast.AST, lines: range, names: frozenset[str], in_function: bool) -> Iterator[Mutant]:
        if isinstance(node, ast.stmt):
            names = frozenset() if in_function else defined(node)
            body = getattr(node, "body", None) or getattr(node, "cases", None)
            first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
            lines = range(first, body[0].lineno if body else (node.end_lineno or node.lineno) + 1)
        for owner, key, new in changes(node):
            old = owner[key]
            before = ast.unparse(node)
            owner[key] = new
            after = ast.unparse(node)
            owner[key] = old
            line = getattr(old, "lineno", getattr(node, "lineno", lines.start))
            shown = (before.splitlines()[0], after.splitlines()[0])
            yield Mutant(lines, in_function, names, line, *shown, partial(owner.__setitem__, key, new))
        inside = isinstance(node, (ast.FunctionDef, ast.Lambda))
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns"):
                continue
            for child in value if isinstance(value, list) else [value]:
                guard = isinstance(child, ast.keyword) and child.arg == "strict"  # of a zip, against faults elsewhere
                if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr) and not guard:
                    # defaults and decorators of a function are evaluated where it is defined
                    yield from visit(child, lines, names, in_function or (inside and name == "body"))

    return visit(tree, range(0), frozenset(), False)


def defined(statement: ast.stmt) -> frozenset[str]:
    """The names of variables or of a class that a statement defines; a call of a function reaches its first line."""
    if isinstance(statement, ast.ClassDef):
        return frozenset([statement.name])
    targets = getattr(statement, "targets", [getattr(statement, "target", statement)])
    return frozenset(one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name))


def changes(node: ast.AST) -> Iterator[tuple[Any, Any, Any]]:
    """Containers, keys and new values in a node."""
    fields = vars(node)
    for key, value in fields.items():
        for owner, index, one in (
            [(value, i, v) for i, v in enumerate(value)] if key == "ops" else [(fields, key, value)]
        ):
            if key in ("op", "ops") and type(one) in SWAPS:
                yield owner, index, SWAPS[type(one)]()
    if isinstance(node, ast.Constant) and isinstance(node.value, (bool, int, float)):
        value = node.value
        new = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else 2 * value or 1.0
        yield fields, "value", new
    if isinstance(node, (ast.If, ast.IfExp, ast.While)) and not isinstance(node.test, (ast.Compare, ast.BoolOp)):
        yield fields, "test", ast.copy_location(ast.UnaryOp(ast.Not(), copy.copy(node.test)), node.test)
