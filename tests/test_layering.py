"""Dependencies point one way: callbacks, cli -> probe, runtime -> tasks, plan, result -> functional."""

import ast
from pathlib import Path

import pytest

import synbench_lightning

ROOT = Path(synbench_lightning.__file__).parent
LEVELS = {
    "checks": 0,
    "functional": 0,
    "losses": 1,
    "tasks": 1,
    "plan": 1,
    "result": 1,
    "families": 2,
    "sampling": 2,
    "plots": 2,
    "metrics": 2,
    "linear_probe": 2,
    "benchmark_plots": 2,
    "runtime": 2,
    "encoding": 3,
    "probe": 3,
    "benchmark": 3,
    "best": 4,
    "callbacks": 4,
    "cli": 5,
    "__init__": 5,
}
LAZY = {("result", "plots")}  # a method that draws imports what draws when it is called
FILES = sorted(ROOT.rglob("*.py"))


def layer(parts: tuple[str, ...]) -> str:
    return parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.module]
    whole = {alias.name for n in nodes if n.module == "synbench_lightning" for alias in n.names}
    parts = {n.module.split(".")[1] for n in nodes if n.module.startswith("synbench_lightning.")}
    return parts | {name if name in LEVELS else "__init__" for name in whole}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_its_own_layer_and_below(path):
    own = layer(path.relative_to(ROOT).parts)
    for other in imported(path):
        assert LEVELS[other] <= LEVELS[own] or (own, other) in LAZY, f"{own} imports {other}"


@pytest.mark.parametrize("path", sorted((ROOT / "functional").glob("*.py")), ids=lambda path: path.name)
def test_the_mathematics_knows_nothing_of_lightning(path):
    assert "lightning." not in path.read_text().replace("synbench_lightning.", "")
