"""Which faults in a file no test notices: `python -m tests.mutants FILE ...`; see the README of this folder.

The file on disk is never written: each mutant runs in a forked process, which imports the package with the changed
module and runs the tests that reach the changed line, quickest first, until one fails.
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
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.mutants.faults import Mutant, mutants
from tests.mutants.nearest_tests import PACKAGE, ROOT, Reached, nearest_tests

MARK = re.compile(r"#.*\bmutants: \S")


class Changed(SourceFileLoader):
    """Gives a module the code of a tree instead of its file."""

    tree: ast.Module

    def get_code(self, fullname: str) -> Any:
        return compile(ast.fix_missing_locations(self.tree), self.path, "exec")


@dataclass
class Hook:
    """Imports one module from a tree; stands first among the finders."""

    module: str
    tree: ast.Module

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != self.module:
            return None
        spec = PathFinder.find_spec(name, path)
        assert spec is not None
        spec.loader = Changed(name, str(spec.origin))
        spec.loader.tree = self.tree
        return spec


@dataclass(eq=False)
class Only:
    """A pytest plugin: some of the tests, in a given order."""

    wanted: Sequence[str]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        place = {test: index for index, test in enumerate(self.wanted)}
        items[:] = sorted((item for item in items if item.nodeid in place), key=lambda item: place[item.nodeid])


def in_fork(work: Callable[[], int]) -> int:
    """Start a process that ends with what ``work`` returns, in a group of its own, and prints nothing."""
    if child := os.fork():
        return child
    try:
        os.setsid()
        silence = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(silence, stream)
        for name in [one for one in sys.modules if re.match(rf"({PACKAGE}|tests\.(?!mutants))\b", one)]:
            del sys.modules[name]
        code = work()
    except BaseException:
        code = 99
    os._exit(code)


def pytest_run(paths: Sequence[Path], *plugins: Any, options: Sequence[str] = ()) -> int:
    arguments = ["-p", "no:cacheprovider", "-p", "no:xdist", *options, *map(str, paths)]
    return int(pytest.main(arguments, plugins=plugins))


def without_fault(path: Path, tests: Sequence[Path]) -> Reached:
    """What the tests reach in the file as it is."""
    with tempfile.NamedTemporaryFile() as kept:

        def work() -> int:
            reached = Reached(str(path))
            code = pytest_run(tests, reached)
            Path(kept.name).write_bytes(pickle.dumps(reached))
            return code

        code = os.waitstatus_to_exitcode(os.waitpid(in_fork(work), 0)[1])
        if code not in (0, 1):
            raise RuntimeError(f"pytest ended with {code} on {', '.join(map(str, tests))}")
        reached: Reached = pickle.loads(Path(kept.name).read_bytes())
        return reached


@dataclass
class Outcome:
    """What became of the mutants of one file."""

    survived: list[Mutant] = field(default_factory=list)
    planted: int = 0
    marked: int = 0
    timed_out: int = 0
    failed: list[str] = field(default_factory=list)
    """Tests that fail without a fault, and are left out."""


def examine(path: Path, options: argparse.Namespace) -> Outcome:
    """Plant the faults of one file, and see which survive."""
    text = path.read_text()
    tree, marks = ast.parse(text), {n for n, line in enumerate(text.splitlines(), 1) if MARK.search(line)}
    found = list(mutants(tree))
    outcome = Outcome(marked=sum(one.line in marks for one in found))
    found = [one for one in found if (one.line in marks) == options.marked]
    if options.sample is not None and options.sample < len(found):
        chosen = random.Random(f"{options.seed} {path.name}").sample(range(len(found)), options.sample)
        found = [found[index] for index in sorted(chosen)]
    tests = [Path(one).resolve() for one in options.tests] or nearest_tests(path, options.distance)
    hook = Hook(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"), tree)
    with redirect_stdout(io.StringIO()):  # other packages that the tests import are then there for every process
        pytest_run(tests, options=["--collect-only"])

    reached = without_fault(path, tests)
    outcome.failed = sorted(reached.failed)

    def planted(mutant: Mutant, wanted: Sequence[str]) -> int:
        mutant.apply()
        sys.meta_path.insert(0, hook)
        importlib.import_module(hook.module)  # before pytest, which has a finder of its own for files that it is given
        files = [one for one in tests if any(of_file(test, one) for test in wanted)]
        return pytest_run(files, Only(wanted), options=["-x"])

    outcome.planted, waiting = len(found), list(found)
    running: dict[int, tuple[Mutant, float]] = {}
    while waiting or running:
        while waiting and len(running) < options.workers:
            mutant = waiting.pop(0)
            wanted = [
                test
                for test in sorted(reached.seconds, key=lambda test: reached.seconds[test])
                if not mutant.in_function or not reached.lines[test].isdisjoint(mutant.lines)
            ]
            while sum(map(reached.seconds.__getitem__, wanted)) > options.budget:
                wanted.pop()
            if not wanted:
                outcome.survived.append(mutant)
                continue
            limit = 20 + 5 * sum(reached.seconds[test] for test in wanted)
            running[in_fork(partial(planted, mutant, wanted))] = mutant, time.monotonic() + limit
        for child, (mutant, end) in list(running.items()):
            if time.monotonic() > end:
                os.killpg(child, signal.SIGKILL)
                outcome.timed_out += 1
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                del running[child]
                if os.waitstatus_to_exitcode(status) in (0, 5):  # passed, or there was no such test any more
                    outcome.survived.append(mutant)
        time.sleep(0.02)
    outcome.survived.sort(key=lambda one: one.line)
    return outcome


def of_file(test: str, path: Path) -> bool:
    return ROOT / test.partition("::")[0] == path


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a file of the package")
    parser.add_argument("--sample", type=int, help="faults drawn from each file (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time")
    parser.add_argument("--distance", type=int, default=0, help="also tests that are so many more imports away")
    parser.add_argument("--tests", nargs="+", default=[], help="these test files instead of the nearest")
    parser.add_argument("--budget", type=float, default=60, help="seconds of tests for one fault")
    parser.add_argument("--marked", action="store_true", help="only the faults in lines marked as equivalent")
    options = parser.parse_args()
    os.chdir(ROOT)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    all_planted = all_survived = 0
    for file in options.files:
        outcome = examine(file.resolve(), options)
        name = file.resolve().relative_to(ROOT)
        for one in outcome.survived:
            print(f"{name}:{one.line}: {one.before}  ->  {one.after}")
        all_planted, all_survived = all_planted + outcome.planted, all_survived + len(outcome.survived)
        said = [f"{len(outcome.survived)} of {outcome.planted} survived", f"{outcome.marked} marked"]
        said += [f"{outcome.timed_out} ran out of time"] if outcome.timed_out else []
        said += [f"without the tests that fail as it is: {', '.join(outcome.failed)}"] if outcome.failed else []
        print(f"{name}: {'; '.join(said)}", flush=True)
    share = all_survived / max(all_planted, 1)
    print(f"{all_survived} of {all_planted} survived ({share:.0%}), torch {torch.__version__}")


if __name__ == "__main__":
    main()
