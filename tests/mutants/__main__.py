"""Which faults in a file no test notices: `python -m tests.mutants FILE ...`; see the README of this folder.

The files on disk are never written. The tests are collected once, and run once without a fault to see which lines they
reach. Each fault is then planted in a forked process, which runs the tests that reach its line, the quickest first,
until one fails.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import io
import os
import pickle
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.mutants.faults import Mutant, mutants
from tests.mutants.nearest_tests import PACKAGE, ROOT, Reached, nearest_tests
from tests.mutants.planting import ImportChanged, replace_functions

MARK = re.compile(r"#.*\bmutants: \S")


@dataclass
class Examined:
    """A file, its faults and its tests, and what became of them."""

    path: Path
    tree: ast.Module
    found: list[Mutant]
    marked: int
    tests: list[Path] = field(default_factory=list)
    planted: list[Mutant] = field(default_factory=list)
    survived: list[Mutant] = field(default_factory=list)
    timed_out: int = 0
    ended: int = 0

    def report(self, failed: set[str]) -> None:
        name = self.path.relative_to(ROOT)
        for one in sorted(self.survived, key=lambda one: one.line):
            print(f"{name}:{one.line}: {one.before}  ->  {one.after}")
        said = [f"{len(self.survived)} of {len(self.planted)} survived", f"{self.marked} marked"]
        said += [f"{self.timed_out} ran out of time"] if self.timed_out else []
        own = {str(one.relative_to(ROOT)) for one in self.tests}
        unused = sorted(test for test in failed if test.partition("::")[0] in own)
        said += [f"without the tests that fail as it is: {', '.join(unused)}"] if unused else []
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
    for file in files:
        if file.planted:
            file.tests = [Path(one).resolve() for one in options.tests] or nearest_tests(file.path, options.distance)


@dataclass(eq=False)
class Examination:
    """A pytest plugin: in place of running the collected tests, runs those that matter for each fault."""

    files: Sequence[Examined]
    budget: float
    workers: int

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        reached = self.without_fault(session)
        waiting = [(file, mutant) for file in self.files for mutant in file.planted]
        running: dict[int, tuple[Examined, Mutant, float]] = {}
        while waiting or running:
            while waiting and len(running) < self.workers:
                file, mutant = waiting.pop(0)
                wanted = reached.tests_of(file.path, mutant.lines if mutant.in_function else None, file.tests)
                while sum(map(reached.seconds.__getitem__, wanted)) > self.budget:
                    wanted.pop()
                if not wanted:
                    self.ended(file, mutant, True, reached)
                    continue
                limit = 30 + 10 * sum(reached.seconds[test] for test in wanted)
                child = in_fork(partial(run_with_fault, session, file, mutant, wanted))
                running[child] = file, mutant, time.monotonic() + limit
            for child, (file, mutant, end) in list(running.items()):
                if late := time.monotonic() > end:
                    os.killpg(child, signal.SIGKILL)
                    file.timed_out += 1
                done, status = os.waitpid(child, 0 if late else os.WNOHANG)
                if done:
                    del running[child]
                    code = os.waitstatus_to_exitcode(status)
                    self.ended(file, mutant, code in (0, 5), reached)  # 5: there was no such test any more
            time.sleep(0.02)
        return True

    def ended(self, file: Examined, mutant: Mutant, survived: bool, reached: Reached) -> None:
        file.survived += [mutant] if survived else []
        file.ended += 1
        if file.ended == len(file.planted):
            with os.fdopen(os.dup(OUT), "w") as out, redirect_stdout(out):
                file.report(reached.failed)

    def without_fault(self, session: pytest.Session) -> Reached:
        """What the tests reach in the files as they are."""
        with tempfile.NamedTemporaryFile() as kept:

            def work() -> int:
                reached = Reached(frozenset(str(file.path) for file in self.files))
                session.config.pluginmanager.register(reached)
                run_items(session, [item.nodeid for item in session.items])
                Path(kept.name).write_bytes(pickle.dumps(reached))
                return 0

            code = os.waitstatus_to_exitcode(os.waitpid(in_fork(work), 0)[1])
            if code:
                raise RuntimeError(f"the tests without a fault ended with {code}")
            reached: Reached = pickle.loads(Path(kept.name).read_bytes())
            return reached


def in_fork(work: Callable[[], int]) -> int:
    """Start a process that ends with what ``work`` returns, in a group of its own, and prints nothing."""
    if child := os.fork():
        return child
    try:
        os.setsid()
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


def run_with_fault(session: pytest.Session, file: Examined, mutant: Mutant, wanted: Sequence[str]) -> int:
    """Plant a fault in this process, and run tests until one fails."""
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
    files = [one for one in file.tests if any(ROOT / test.partition("::")[0] == one for test in wanted)]
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
    parser.add_argument("--distance", type=int, help="also tests of other folders that are so many more imports away")
    parser.add_argument("--tests", nargs="+", default=[], help="these test files instead of the nearest")
    parser.add_argument("--budget", type=float, default=60, help="seconds of tests for one fault")
    parser.add_argument("--marked", action="store_true", help="only the faults in lines marked as equivalent")
    options = parser.parse_args()
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    files = [read(file.resolve(), options.marked) for file in options.files]
    choose(files, options)
    global OUT
    OUT = os.dup(1)
    if planted := [file for file in files if file.planted]:
        tests = list(dict.fromkeys(test for file in planted for test in file.tests))
        with redirect_stdout(io.StringIO()):
            code = pytest_run(tests, Examination(planted, options.budget, options.workers))
        if code not in (0, 5):
            raise SystemExit(f"pytest ended with {code} on {', '.join(map(str, tests))}")
    survived, total = sum(len(file.survived) for file in files), sum(len(file.planted) for file in files)
    marked, found = sum(file.marked for file in files), sum(len(file.found) for file in files)
    print(f"{survived} of {total} survived ({survived / max(total, 1):.1%}), of {found} faults; {marked} more marked")


if __name__ == "__main__":
    main()
