"""`lightning.pytorch` and `pytorch_lightning`: the same history, values and training to the bit."""

import ast
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import synbench_lightning

pytestmark = pytest.mark.xdist_group("runs of both packages")  # each of them is made once
ROOT = Path(__file__).parents[2]
WORKER = "tests.integration.runs_of_a_package"
PACKAGES = ("lightning.pytorch", "pytorch_lightning")
IMPORTS = {
    "lightning.pytorch": ["lightning.pytorch", "synbench_lightning"],
    "pytorch_lightning": ["pytorch_lightning", "synbench_lightning"],
    "pytorch_lightning, imported last": ["synbench_lightning", "pytorch_lightning"],
    "pytorch_lightning, both imported": ["pytorch_lightning", "lightning.pytorch", "synbench_lightning"],
}
RUNS = (
    "fit", "weights", "resume", "SynBenchEarlyStopping", "ModelCheckpoint", "EarlyStopping", "stale ModelCheckpoint",
    "averaging", "TensorBoard", "TQDMProgressBar", "RichProgressBar", "BenchmarkCallback",
    "a callback that is in no list", "LightningCLI",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What runs with a package have left, each made once; and what they printed."""

    @functools.cache
    def run(imports, world):
        folder = tmp_path_factory.mktemp("runs")
        command = [sys.executable, "-m"]
        if world > 1:
            command += ["torch.distributed.run", "--standalone", f"--nproc_per_node={world}", "-m"]
        command += [WORKER, *(["ddp"] if world > 1 else []), *IMPORTS[imports]]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        return folder, subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)

    def made(imports, world=1):
        folder, done = run(imports, world)
        assert done.returncode == 0, done.stderr[-4000:]
        names = [f"found{rank}.json" for rank in range(world)] if world > 1 else ["found.json"]
        return [json.loads((folder / name).read_text()) for name in names], done.stderr

    return made


@pytest.fixture(params=IMPORTS)
def imports(request):
    return request.param


def test_the_runs_are_those_that_were_meant(runs):
    ((found,), _) = runs("lightning.pytorch")
    assert [result["step"] for result in found["fit"]["history"]] == [0, 5, 10, 15, 20]
    assert found["fit"]["told"] == []
    assert found["resume"]["steps"] == [0, 5, 10, 15, 20]
    assert found["resume"]["first"] == found["fit"]["history"][:3]
    assert found["SynBenchEarlyStopping"]["steps"] == 10
    assert found["ModelCheckpoint"]["kept"] == "step=5.ckpt"
    assert "`SynBenchEarlyStopping(monitor='synbench/score', patience=3)`" in found["EarlyStopping"][0]
    assert "saves every 7 steps, but a probe is made every 5 steps" in found["stale ModelCheckpoint"][0]
    assert found["averaging"] is None or "the averages that EMAWeightAveraging" in found["averaging"][0]
    assert [step for step, _ in found["TensorBoard"]["scores"]] == [0, 5, 10, 15, 20]
    assert found["TensorBoard"]["images"] == dict.fromkeys(
        [f"synbench_figures/{name}" for name in ("curve", "layers", "scales", "task_map")], 20
    )
    assert found["TQDMProgressBar"][0]
    assert any(found["RichProgressBar"])
    assert [result["num_points"] for result in found["BenchmarkCallback"]] == [60, 60, 18, 18, 18]
    assert [result["step"] for result in found["LightningCLI"]] == [0, 5, 10]


@pytest.mark.parametrize("what", RUNS)
def test_either_package_gives_the_same(runs, imports, what):
    ((found,), _), ((reference,), _) = runs(imports), runs("lightning.pytorch")
    assert found[what] == reference[what]


def test_training_is_the_same_to_the_bit(runs, imports):
    ((found,), _) = runs(imports)
    assert found["weights"] == found["weights without a callback"]


def test_messages_are_seen(runs, imports):
    _, printed = runs(imports)
    assert "SynBench probes `trunk`, a Sequential, with inputs of shape (12,), every 5 steps" in printed
    assert "Stopped after step 10." in printed


@pytest.mark.parametrize(
    ("package", "parts"),
    [("lightning.pytorch", {"lightning"}), ("pytorch_lightning", {"lightning_fabric", "pytorch_lightning"})],
)
def test_the_package_that_is_not_used_is_not_imported(runs, package, parts):
    ((found,), _) = runs(package)
    assert set(found["imported"]) == parts


@pytest.mark.parametrize("package", PACKAGES)
def test_two_processes_agree(runs, package):
    found, _ = runs(package, world=2)
    reference, _ = runs("lightning.pytorch", world=2)
    assert [result["step"] for result in found[0]["history"]] == [0, 5, 10]
    assert found[0]["history"] == found[1]["history"]
    for one, other in zip(found, reference, strict=True):
        assert {**one, "imported": []} == {**other, "imported": []}


def test_one_file_alone_imports_lightning():
    importing = set()
    package = Path(synbench_lightning.__file__).parent
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {module.partition(".")[0] for module in modules} & {
                "lightning", "lightning_fabric", "lightning_utilities", "pytorch_lightning",
            }:  # fmt: skip
                importing.add(str(path.relative_to(package)))
    assert importing == {"runtime/lightning_packages.py"}
