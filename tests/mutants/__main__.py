"""Which faults in a file no test notices: `python -m tests.mutants FILE ...`; see the README of this folder.

The files on disk are never written. The suite is run once without a fault to see which lines each test reaches. Each
fault is then planted in a forked process, which runs the tests that reach its line until one fails.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import io
import os
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.mutants.faults import Mutant, mutants
from tests.mutants.planting import ImportChanged, functions_by_file, replace_functions
from tests.mutants.reached_lines import (
    MARK,
    PACKAGE,
    ROOT,
    Recorder,
    Trace,
    as_bits,
    files_with_tests,
    in_mirror,
    keep,
    kept,
)


@dataclass
class Examined:
    """A file, its faults, and what became of them."""

    path: Path
    tree: ast.Module
    found: list[Mutant]
    marked: int
    planted: list[Mutant] = field(default_factory=list)
    survived: list[Mutant] = field(default_factory=list)
    timed_out: int = 0
    ended: int = 0

    def report(self) -> None:
        name = self.path.relative_to(ROOT)
        for one in sorted(self.survived, key=lambda one: one.line):
            print(f"{name}:{one.line}: {one.before}  ->  {one.after}")
        said = [f"{len(self.survived)} of {len(self.planted)} survived", f"{self.marked} marked"]
        said += [f"{self.timed_out} ran out of time"] if self.timed_out else []
        print(f"{name}: {'; '.join(said)}", flush=True)


def read(path: Path, only_marked: bool) -> Examined:
    """A file and its faults, those in marked lines or those in others."""
    text = path.read_text()
    tree, marks = ast.parse(text), {n for n, line in enumerate(text.splitlines(), 1) if MARK.search(line)}
    found = list(mutants(tree))
    marked = sum(one.line in marks for one in found)
    return Examined(path, tree, [one for one in found if (one.line in marks) == only_marked], marked)


def choose(files: Sequence[Examined], options: argparse.Namespace) -> None:
    """Which faults are planted: all, or a random sample of those of all files together."""
    places = [(file, index) for file in files for index in range(len(file.found))]
    if options.sample is not None and options.sample < len(places):
        places = sorted(random.Random(options.seed).sample(places, options.sample), key=places.index)
    for file, index in places:
        file.planted.append(file.found[index])


@dataclass(eq=False)
class Examination:
    """A pytest plugin: in place of running the collected tests, runs those that matter for each fault."""

    files: Sequence[Examined]
    budget: float
    workers: int
    plant: bool

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        traces = self.traces(session)
        waiting = [(file, mutant) for file in self.files for mutant in file.planted]
        functions_by_file()

        def start() -> tuple[int, float, tuple[Examined, Mutant]]:
            file, mutant = waiting.pop(0)
            wanted = tests_of(file.path, mutant, traces, self.budget)
            child = in_fork(partial(run_with_fault, session, file, mutant, wanted, self.plant))
            return child, 60 + 30 * sum(traces[test].seconds for test in wanted), (file, mutant)

        for (file, mutant), code in self.in_turn(waiting, start):
            file.timed_out += code is None
            file.survived += [mutant] if code in (0, 5) else []  # 5: there was no such test
            file.ended += 1
            if file.ended == len(file.planted):
                say(file.report)
        return True

    def traces(self, session: pytest.Session) -> dict[str, Trace]:
        """Of the collected tests, in the files as they are: those that were kept, and the others made now."""
        tests: dict[Path, list[str]] = {}
        for item in session.items:
            tests.setdefault(ROOT / item.nodeid.partition("::")[0], []).append(item.nodeid)
        waiting = [file for file in tests if kept(file) is None]
        if waiting:
            say(lambda: print(f"runs the tests of {len(waiting)} files without a fault", flush=True))

        def start() -> tuple[int, float, Path]:
            file = waiting.pop(0)
            return in_fork(partial(record, session, file, tests[file])), 1800, file

        for file, code in self.in_turn(waiting, start):
            if code != 0:
                say(partial(print, f"{file.relative_to(ROOT)} is left out: its tests ended with {code}", flush=True))
        found = {name: trace for file in tests for name, trace in (kept(file) or {}).items()}
        if failed := sorted(name for name, trace in found.items() if trace.failed):
            say(partial(print, f"left out, since they fail without a fault: {', '.join(failed)}", flush=True))
        wanted = {item.nodeid for item in session.items}
        return {name: trace for name, trace in found.items() if name in wanted and not trace.failed}

    def in_turn(self, waiting: Sequence[Any], start: Callable[[], tuple[int, float, Any]]) -> Iterator[tuple[Any, Any]]:
        """Run processes, so many at a time; gives what each was about, and its exit code, None if it took too long."""
        running: dict[int, tuple[float, Any]] = {}
        while waiting or running:
            while waiting and len(running) < self.workers:
                child, limit, about = start()
                running[child] = time.monotonic() + limit, about
            for child, (end, about) in list(running.items()):
                if late := time.monotonic() > end:
                    os.killpg(child, signal.SIGKILL)
                done, status = os.waitpid(child, 0 if late else os.WNOHANG)
                if done:
                    del running[child]
                    yield about, None if late else os.waitstatus_to_exitcode(status)
            time.sleep(0.02)


def tests_of(path: Path, mutant: Mutant, traces: dict[str, Trace], budget: float) -> list[str]:
    """The tests that reach a fault, those of the mirroring folder first, then the quickest; so many as have the time.

    What is evaluated on import is reached where its name is used, and perhaps by whatever else runs a line of the file.
    """
    own = str(path.relative_to(ROOT))
    uses = uses_of(mutant.names) if mutant.names else {own: as_bits(mutant.lines)}

    def rank(test: str) -> int | None:
        if any(traces[test].reaches(file, lines) for file, lines in uses.items()):
            return 0 if in_mirror(test, path) else 1
        return None if mutant.in_function or not traces[test].reaches(own) else 2

    found = sorted((one, traces[test].seconds, test) for test in traces if (one := rank(test)) is not None)
    times = accumulate(seconds for _, seconds, _ in found)
    return [test for (*_, test), time in zip(found, times, strict=True) if time <= budget]


@cache
def uses_of(names: frozenset[str]) -> dict[str, int]:
    """The lines in which names stand, by file of the package."""
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, names))})\b")
    found = {}
    for path in (ROOT / PACKAGE).rglob("*.py"):
        if lines := [n for n, line in enumerate(path.read_text().splitlines(), 1) if pattern.search(line)]:
            found[str(path.relative_to(ROOT))] = as_bits(lines)
    return found


def record(session: pytest.Session, file: Path, tests: Sequence[str]) -> int:
    """Run the tests of a file and keep what they reach."""
    recorder = Recorder()
    session.config.pluginmanager.register(recorder)
    run_items(session, tests)
    keep(file, recorder.traces)
    return 0


def say(what: Callable[[], None]) -> None:
    """Print although pytest captures the output."""
    with os.fdopen(os.dup(OUT), "w") as out, redirect_stdout(out):
        what()


def in_fork(work: Callable[[], int]) -> int:
    """Start a process that ends with what ``work`` returns, in a group of its own, and prints nothing."""
    if child := os.fork():
        return child
    try:
        os.setpgid(0, 0)  # in the session, and so the priority, of the command
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(silence, stream)
        code = work()
    except BaseException:
        code = 99
    os._exit(code)


def run_items(session: pytest.Session, wanted: Sequence[str]) -> None:
    items = {item.nodeid: item for item in session.items}
    for index, test in enumerate(wanted):
        following = items[wanted[index + 1]] if index + 1 < len(wanted) else None
        items[test].ihook.pytest_runtest_protocol(item=items[test], nextitem=following)


class EndAtFailure:
    """A pytest plugin: the first test that fails ends the process."""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            os._exit(1)


@dataclass(eq=False)
class Only:
    """A pytest plugin: some of the tests, in a given order."""

    wanted: Sequence[str]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        place = {test: index for index, test in enumerate(self.wanted)}
        items[:] = sorted((item for item in items if item.nodeid in place), key=lambda item: place[item.nodeid])


def run_with_fault(session: pytest.Session, file: Examined, mutant: Mutant, wanted: Sequence[str], plant: bool) -> int:
    """Plant a fault in this process, and run tests until one fails."""
    if not wanted:
        return 0
    if plant:
        mutant.apply()
    module = ".".join(file.path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    if mutant.in_function and replace_functions(file.path, file.tree, mutant.lines):
        session.config.pluginmanager.register(EndAtFailure())
        run_items(session, wanted)
        return 0
    # what is evaluated on import reaches other files: the package and the tests are imported again
    for name in [one for one in sys.modules if re.match(rf"({PACKAGE}|tests\.(?!mutants))\b", one)]:
        del sys.modules[name]
    sys.meta_path.insert(0, ImportChanged(module, file.tree))
    importlib.import_module(module)  # before pytest, which has a finder of its own for files that it is given
    files = list(dict.fromkeys(ROOT / test.partition("::")[0] for test in wanted))
    return pytest_run(files, Only(wanted), options=["-x"])


def pytest_run(paths: Sequence[Path], *plugins: object, options: Sequence[str] = ()) -> int:
    arguments = ["-p", "no:cacheprovider", "-p", "no:xdist", *options, *map(str, paths)]
    return int(pytest.main(arguments, plugins=plugins))


OUT = 1
"""The descriptor of the output, which pytest captures."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a file of the package")
    parser.add_argument("--sample", type=int, help="so many faults of all files together (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time")
    parser.add_argument("--tests", nargs="+", default=[], help="these test files instead of the suite")
    parser.add_argument("--budget", type=float, default=60, help="seconds of tests for one fault")
    parser.add_argument("--marked", action="store_true", help="only the faults in lines marked as equivalent")
    parser.add_argument("--without-fault", action="store_true", help="plant nothing: a check, all must survive")
    options = parser.parse_args()
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    files = [read(file.resolve(), options.marked) for file in options.files]
    choose(files, options)
    global OUT
    OUT = os.dup(1)
    if planted := [file for file in files if file.planted]:
        tests = [Path(one).resolve() for one in options.tests] or files_with_tests(file.path for file in planted)
        with redirect_stdout(io.StringIO()):
            code = pytest_run(
                tests, Examination(planted, options.budget, options.workers, plant=not options.without_fault)
            )
        if code not in (0, 5):
            raise SystemExit(f"pytest ended with {code}")
    survived, total = sum(len(file.survived) for file in files), sum(len(file.planted) for file in files)
    marked, found = sum(file.marked for file in files), sum(len(file.found) for file in files)
    print(f"{survived} of {total} survived ({survived / max(total, 1):.1%}), of {found} faults; {marked} more marked")


if __name__ == "__main__":
    main()
