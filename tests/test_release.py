"""What is released: the wheel, its metadata, and the versions that it allows."""

import subprocess
import sys
import zipfile
from importlib.metadata import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import synbench_lightning

ROOT = Path(__file__).parents[1]


def pins():
    lines = (ROOT / ".ci" / "lowest.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_the_lowest_versions_that_are_tested_are_those_that_are_allowed():
    needed = [Requirement(text) for text in metadata("synbench-lightning").get_all("Requires-Dist")]
    floors = {one.name: str(one.specifier) for one in needed if one.specifier}
    for name, pin in pins().items():
        floor = floors[name].removeprefix(">=")
        assert pin == floor or pin.startswith(f"{floor}."), (name, pin, floor)


def test_the_version_is_one_that_can_be_released():
    assert all(part.isdigit() for part in synbench_lightning.__version__.split("."))


@pytest.mark.slow
def test_the_wheel_holds_the_package_with_its_types_and_nothing_else(tmp_path):
    pytest.importorskip("build")
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        info = f"synbench_lightning-{synbench_lightning.__version__}.dist-info"
        text = archive.read(f"{info}/METADATA").decode()
        scripts = archive.read(f"{info}/entry_points.txt").decode()
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "synbench_lightning").rglob("*.py")}
    held = {name for name in names if not name.startswith(info)}
    assert held == modules | {"synbench_lightning/py.typed"}
    assert f"{info}/licenses/LICENSE" in names
    assert "synbench = synbench_lightning.cli:main" in scripts
    assert all(f"Provides-Extra: {extra}" in text for extra in ("plots", "cli", "examples"))
