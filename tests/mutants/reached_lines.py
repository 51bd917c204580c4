"""Which lines of the package each test reaches, and how long it takes; kept until a file that matters is changed."""

from __future__ import annotations

import ast
import hashlib
import os
import pickle
import platform
import re
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

import synbench_lightning

ROOT = Path(__file__).parents[2]
PACKAGE = synbench_lightning.__name__
CACHE = ROOT / ".mutants_cache"
MARK = re.compile(r"\s*#.*\bmutants: \S.*")
LEFT_OUT = ("distributed", "clients", "examples", "mutants", "test_examples.py", "test_readmes.py")
"""Tests that start processes of their own, in which the package is as it is on the disk; and those that run scripts."""


@cache
def imports(path: Path) -> frozenset[Path]:
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
    return frozenset(found)


@cache
def needed(path: Path) -> frozenset[Path]:
    """A file and what it imports, by whatever number of steps."""
    found, new = {path}, {path}
    while new := {one for file in new for one in imports(file)} - found:
        found |= new
    return frozenset(found)


def files_with_tests(paths: Iterable[Path]) -> list[Path]:
    """The files with tests that import one of some files; their own doctests are tests too."""
    paths = set(paths)
    tests = [one for one in (ROOT / "tests").rglob("test_*.py") if not set(one.relative_to(ROOT).parts) & {*LEFT_OUT}]
    doctests = [one for one in (ROOT / PACKAGE).rglob("*.py") if ">>> " in one.read_text()]
    return sorted(one for one in [*tests, *doctests] if paths & needed(one))


def in_mirror(test: str, path: Path) -> bool:
    """Whether a test stands in the folder of tests that mirrors a file's, or in the file itself."""
    own = ROOT / test.partition("::")[0]
    return own == path or own.parent == ROOT / "tests" / path.parent.relative_to(ROOT / PACKAGE)


def as_bits(lines: Iterable[int]) -> int:
    """Lines as the bits of a number."""
    return sum(1 << line for line in set(lines))


@dataclass
class Trace:
    """One test: how long it takes without waiting, and the lines that it runs as the bits of a number, by file."""

    seconds: float
    lines: dict[str, int]
    failed: bool = False

    def reaches(self, file: str, lines: int | None = None) -> bool:
        """Whether one of some lines of a file was run, or any."""
        own = self.lines.get(file, 0)
        return bool(own if lines is None else own & lines)


@dataclass(eq=False)  # pytest keeps plugins in sets
class Recorder:
    """A pytest plugin: the trace of each test."""

    traces: dict[str, Trace] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        package = f"{ROOT / PACKAGE}{os.sep}"
        seen: dict[str, set[int]] = {}

        def line_of(frame: Any, event: str, _: Any) -> Any:
            seen[frame.f_code.co_filename].add(frame.f_lineno)
            return line_of

        def call(frame: Any, event: str, _: Any) -> Any:
            name = frame.f_code.co_filename
            if name not in seen:
                if not name.startswith(package):
                    return None
                seen[name] = set()
            return line_of(frame, event, None)

        start = time.process_time()
        threading.settrace(call)
        sys.settrace(call)
        result = yield
        sys.settrace(None)
        threading.settrace(None)  # type: ignore[arg-type]
        lines = {os.path.relpath(name, ROOT): as_bits(of) for name, of in seen.items()}
        self.traces[item.nodeid] = Trace(time.process_time() - start, lines, item.nodeid in self.failed)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed.add(report.nodeid)


@cache
def _content(path: Path) -> bytes:
    """Without marks: to set one moves no line."""
    return hashlib.sha256("\n".join(MARK.sub("", line) for line in path.read_text().splitlines()).encode()).digest()


@cache
def _key(test_file: Path) -> str:
    """What the traces of a file depend on, as it was when it was first asked for in this process."""
    known = hashlib.sha256(platform.python_version().encode())
    for one in sorted(needed(test_file) | {ROOT / "tests/conftest.py", test_file.parent / "conftest.py"}):
        if one.is_file():
            known.update(str(one.relative_to(ROOT)).encode() + _content(one))
    return known.hexdigest()


def _kept_in(test_file: Path) -> Path:
    return CACHE / (".".join(test_file.relative_to(ROOT).with_suffix("").parts) + ".pickle")


def keep(test_file: Path, traces: dict[str, Trace]) -> None:
    """Write the traces of a file's tests, with the state of the files that they were made with."""
    CACHE.mkdir(exist_ok=True)
    new = _kept_in(test_file).with_suffix(f".{os.getpid()}")
    new.write_bytes(pickle.dumps((_key(test_file), traces)))
    new.replace(_kept_in(test_file))


def kept(test_file: Path) -> dict[str, Trace] | None:
    """The traces of a file's tests, if neither it nor any file that it imports has been changed since."""
    wanted = _key(test_file)  # before any test is run
    if not _kept_in(test_file).is_file():
        return None
    key, traces = pickle.loads(_kept_in(test_file).read_bytes())
    return traces if key == wanted else None
