import ast
import subprocess
import sys

import pytest

from tests.mutants.faults import mutants
from tests.mutants.nearest_tests import PACKAGE, ROOT, nearest_tests

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


def test_the_tests_of_a_file_are_those_that_import_it_and_those_of_its_folder():
    chosen = nearest_tests(ROOT / PACKAGE / "functional/gaussian/cross_fitting.py")
    names = {str(path.relative_to(ROOT)) for path in chosen}
    assert "tests/functional/gaussian/test_asymptotic.py" in names
    assert not any("distributed" in name for name in names)


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
    assert blind[-1].startswith("6 of 6 survived")
    assert "blocks - 1  ->  blocks + 1" in "".join(blind)
    assert file.read_bytes() == before


@pytest.mark.slow
def test_faults_without_an_effect_survive_in_a_function_and_where_they_are_evaluated_on_import():
    file = ROOT / PACKAGE / "functional/benchmark/clustering.py"
    assert survivors(file, "benchmark/test_clustering.py", "--marked")[-1].startswith("4 of 4 survived")
