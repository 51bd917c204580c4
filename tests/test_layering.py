"""Dependencies point one way: cli, callbacks -> probe, benchmark, plots -> runtime -> functional; none goes round."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import synbench_lightning

ROOT = Path(synbench_lightning.__file__).parent
FLOORS = [
    {"checks"},
    {"functional"},
    {"runtime", "plots", "losses", "linear_probe"},
    {"probe"},
    {"benchmark", "metrics"},
    {"callbacks"},
    {"__init__"},
    {"cli", "__main__"},
]
LEVELS = {room: level for level, floor in enumerate(FLOORS) for room in floor}
FILES = sorted(ROOT.rglob("*.py"))
SUBJECTS = ("gaussian", "representation", "benchmark")


def name(path: Path) -> str:
    return ".".join(["synbench_lightning", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")


MODULES = {name(path): path for path in FILES}


def imported(path: Path) -> set[str]:
    """The modules of the package that a file imports, also inside functions and for types alone."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (inner & MODULES.keys()) or {str(node.module)}
    return found & MODULES.keys()


def room(module: str) -> str:
    return [*module.split("."), "__init__"][1]


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_floor_and_below(module):
    for other in imported(MODULES[module]):
        same = room(other) == room(module)
        assert same or LEVELS[room(other)] < LEVELS[room(module)], f"{module} imports {other}"


def test_no_imports_go_round():
    tuple(TopologicalSorter({module: imported(path) for module, path in MODULES.items()}).static_order())


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_subjects_of_the_mathematics_do_not_know_each_other(subject):
    others = tuple(f"synbench_lightning.functional.{other}." for other in SUBJECTS if other != subject)
    for path in (ROOT / "functional" / subject).glob("*.py"):
        assert not any(module.startswith(others) for module in imported(path))


@pytest.mark.parametrize("path", sorted((ROOT / "functional").rglob("*.py")), ids=lambda path: path.name)
def test_the_mathematics_knows_nothing_of_lightning(path):
    assert "lightning." not in path.read_text().replace("synbench_lightning.", "")
