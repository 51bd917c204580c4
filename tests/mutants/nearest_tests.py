"""Which tests are run for a file: those that import it, and of them those that reach the changed line."""

from __future__ import annotations

import ast
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import synbench_lightning

ROOT = Path(__file__).parents[2]
PACKAGE = synbench_lightning.__name__
UNSEEN = ("distributed",)
"""Folders of tests that start processes of their own, in which the package is as it is on the disk."""


def imports(path: Path) -> set[Path]:
    """Files of the package and of the tests that a file imports; public names are traced to where they are defined."""
    named: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            named |= {(str(node.module), alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            named |= {(alias.name, "") for alias in node.names}
    found = set()
    for module, name in named:
        module = getattr(getattr(synbench_lightning, name, None), "__module__", module) if module == PACKAGE else module
        inner = ROOT / (f"{module}.{name}".replace(".", "/") + ".py")
        outer = ROOT / (module.replace(".", "/") + ".py")
        found |= {one for one in (inner, outer) if one.is_file()}
    return found


def nearest_tests(path: Path, distance: int) -> list[Path]:
    """The file itself (for its doctests), and tests that reach it in at most so many imports more than the nearest."""
    graph = {one: imports(one) for folder in (PACKAGE, "tests") for one in sorted((ROOT / folder).rglob("*.py"))}
    near, level = {path: 0}, 0
    while new := {one for one, of in graph.items() if one not in near and of & near.keys()}:
        near |= dict.fromkeys(new, level := level + 1)
    tests = {one: near[one] for one in near if one.name.startswith("test_") and one.parent.name not in UNSEEN}
    mirror = ROOT / "tests" / path.parent.relative_to(ROOT / PACKAGE) / f"test_{path.name}"
    chosen = [one for one in tests if tests[one] <= min(tests.values()) + distance or one == mirror]
    return [path, *sorted(chosen, key=lambda one: (one != mirror, tests[one], one))]


@dataclass
class Reached:
    """A pytest plugin: how long each test takes, and which lines of a file it runs."""

    path: str
    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, set[int]] = field(default_factory=dict)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        seen: set[int] = set()

        def trace(frame: Any, event: str, _: Any) -> Any:
            if frame.f_code.co_filename != self.path:
                return None
            seen.add(frame.f_lineno)
            return trace

        start = time.perf_counter()
        threading.settrace(trace)
        sys.settrace(trace)
        result = yield
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        self.seconds[item.nodeid], self.lines[item.nodeid] = time.perf_counter() - start, seen
        return result
