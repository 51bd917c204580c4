import ast
import subprocess
import sys

import pytest

from tests.mutants import reached_lines
from tests.mutants.faults import mutants
from tests.mutants.reached_lines import PACKAGE, ROOT, Trace, as_bits, files_with_tests, in_mirror, keep, kept, needed

ZIP = "zip(x, strict=True)"
SOURCE = '''
LIMIT = 3

def reached(x: int | None, y=0.5):
    """Whether 1 < 2."""
    if x:
        return x <= LIMIT and not y - 1 == 2.0 and zip(x, strict=True)
    raise ValueError(f"got {x + 1}")
'''


def test_one_fault_is_planted_at_a_time():
    tree = ast.parse(SOURCE)
    found = list(mutants(tree))
    assert [(one.before, one.after) for one in found] == [
        ("3", "4"), ("0.5", "1.0"), ("if x:", "if not x:"),
        (f"x <= LIMIT and (not y - 1 == 2.0) and {ZIP}", f"x <= LIMIT or not y - 1 == 2.0 or {ZIP}"),
        ("x <= LIMIT", "x < LIMIT"),
        ("y - 1 == 2.0", "y - 1 != 2.0"), ("y - 1", "y + 1"), ("1", "2"), ("2.0", "4.0"),
    ]  # fmt: skip
    assert [one.in_function for one in found] == [False, False, *[True] * 7]
    assert ast.unparse(tree) == ast.unparse(ast.parse(SOURCE))
    found[4].apply()
    assert "x < LIMIT" in ast.unparse(tree)


def test_what_is_evaluated_on_import_has_the_names_that_it_defines():
    found = list(mutants(ast.parse("A = B = 1\nC: int = 2\nclass D:\n    e: int = 3\n\n    def f(self, x=4): ...")))
    assert [sorted(one.names) for one in found] == [["A", "B"], ["C"], ["e"], []]
    assert found[-1].lines == range(6, 6)


def test_the_tests_of_a_file_are_those_that_import_it_and_those_of_its_folder_come_first():
    path = ROOT / PACKAGE / "functional/gaussian/cross_fitting.py"
    names = {str(one.relative_to(ROOT)) for one in files_with_tests([path])}
    assert {"tests/functional/gaussian/test_asymptotic.py", "tests/callbacks/test_synbench.py"} <= names
    assert not any("distributed" in name for name in names)
    assert "tests/functional/test_jackknife.py" not in names
    assert in_mirror("tests/functional/gaussian/test_asymptotic.py::test_x", path)
    assert in_mirror("synbench_lightning/functional/gaussian/cross_fitting.py::doctest", path)
    assert not in_mirror("tests/functional/test_jackknife.py::test_x", path)


def test_lines_that_were_reached_are_kept_until_a_file_that_matters_is_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(reached_lines, "ROOT", tmp_path)
    monkeypatch.setattr(reached_lines, "CACHE", tmp_path / "cache")
    for name in ("synbench_lightning", "tests"):
        (tmp_path / name).mkdir()
    package, helper, test = (
        tmp_path / name for name in ("synbench_lightning/own.py", "tests/helper.py", "tests/test_own.py")
    )
    package.write_text("X = 1\n")
    helper.write_text("from synbench_lightning.own import X\n")
    test.write_text("import tests.helper\n")

    def later():
        """As another command would see it."""
        for function in (reached_lines.imports, needed, reached_lines._content, reached_lines._key):
            function.cache_clear()
        return kept(test)

    traces = {"tests/test_own.py::test_x": Trace(1.5, {"synbench_lightning/own.py": 0b1010})}
    assert later() is None
    keep(test, traces)
    assert later() == traces
    (trace,) = traces.values()
    assert [trace.reaches("synbench_lightning/own.py", as_bits([line])) for line in (1, 2, 3)] == [True, False, True]
    assert trace.reaches("synbench_lightning/own.py")
    assert not trace.reaches("synbench_lightning/other.py")
    package.write_text("X = 1  # mutants: memory alone\n")
    assert later() == traces
    for file in (package, helper, test):
        before = file.read_text()
        file.write_text(f"{before}Y = 2\n")
        assert later() is None
        file.write_text(before)
        assert later() == traces


def survivors(file, tests, *options):
    command = [
        sys.executable,
        "-m",
        "tests.mutants",
        str(file),
        "--tests",
        str(ROOT / "tests/functional" / tests),
        *options,
    ]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()


def test_a_missing_test_is_found_and_the_file_stays_as_it_is():
    file = ROOT / PACKAGE / "functional/jackknife.py"
    before = file.read_bytes()
    assert survivors(file, "test_jackknife.py")[-1].startswith("0 of 6 survived")
    blind = survivors(file, "test_minimax.py")
    assert survivors(file, "test_jackknife.py", "--without-fault")[-1].startswith("6 of 6 survived")
    assert blind[-1].startswith("6 of 6 survived")
    assert "blocks - 1  ->  blocks + 1" in "".join(blind)
    assert file.read_bytes() == before


@pytest.mark.slow
def test_faults_without_an_effect_survive_in_a_function_and_where_they_are_evaluated_on_import():
    file = ROOT / PACKAGE / "functional/benchmark/clustering.py"
    assert survivors(file, "benchmark/test_clustering.py", "--marked")[-1].startswith("4 of 4 survived")
