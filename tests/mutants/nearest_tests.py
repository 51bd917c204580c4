"""Which tests are run for a file: those that import it, and of them those that reach the changed line."""

from __future__ import annotations

import ast
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import synbench_lightning

ROOT = Path(__file__).parents[2]
PACKAGE = synbench_lightning.__name__
LEFT_OUT = ("distributed", "clients", "test_argument_fuzz.py", "test_public_names.py")
"""Tests that start processes of their own, in which the package is as it is on the disk; and those of all files."""


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


def nearest_tests(path: Path, distance: int | None = None) -> list[Path]:
    """The file itself (for its doctests), and the tests that may reach it.

    Those in the folder of the tests of its folder that import it, by whatever number of steps; where there are none, or
    where a distance is given, also those of other folders that import it by the fewest steps, or by so many more.
    """
    graph = {one: imports(one) for folder in (PACKAGE, "tests") for one in sorted((ROOT / folder).rglob("*.py"))}
    near, level = {path: 0}, 0
    while new := {one for one, of in graph.items() if one not in near and of & near.keys()}:
        near |= dict.fromkeys(new, level := level + 1)
    tests = {one: steps for one, steps in near.items() if one.name.startswith("test_")}
    tests = {one: steps for one, steps in tests.items() if not {one.name, one.parent.name} & {*LEFT_OUT}}
    mirror = ROOT / "tests" / path.parent.relative_to(ROOT / PACKAGE) / f"test_{path.name}"
    chosen = {one for one in tests if one.parent == mirror.parent}
    if not chosen or distance is not None:
        chosen |= {one for one in tests if tests[one] <= min(tests.values()) + (distance or 0)}
    return [path, *sorted(chosen, key=lambda one: (one != mirror, tests[one], one))]


@dataclass(eq=False)  # pytest keeps plugins in sets
class Reached:
    """A pytest plugin: how long each test takes, and which lines of some files it runs."""

    paths: frozenset[str]
    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    """Files and lines, by test."""
    failed: set[str] = field(default_factory=set)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        seen: set[tuple[str, int]] = set()

        def trace(frame: Any, event: str, _: Any) -> Any:
            if frame.f_code.co_filename not in self.paths:
                return None
            seen.add((frame.f_code.co_filename, frame.f_lineno))
            return trace

        start = time.perf_counter()
        threading.settrace(trace)
        sys.settrace(trace)
        result = yield
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        if item.nodeid not in self.failed:
            self.seconds[item.nodeid], self.lines[item.nodeid] = time.perf_counter() - start, seen
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)

    def tests_of(self, path: Path, lines: range | None, files: Iterable[Path]) -> list[str]:
        """The tests in some files that run one of the lines of a file, or any test; the quickest first."""
        inside = {str(one.relative_to(ROOT)) for one in files}
        wanted = {(str(path), line) for line in lines or ()}
        found = [one for one in self.seconds if lines is None or not wanted.isdisjoint(self.lines[one])]
        return sorted((one for one in found if one.partition("::")[0] in inside), key=self.seconds.__getitem__)
