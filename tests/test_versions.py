"""`python -m synbench_lightning` prints what a report needs."""

import platform
import subprocess
import sys
from importlib import metadata

import torch

import synbench_lightning
from synbench_lightning.__main__ import versions


def test_the_package_prints_the_versions_that_a_report_needs():
    found = subprocess.run([sys.executable, "-m", "synbench_lightning"], capture_output=True, text=True, check=True)
    lines = dict(line.split(": ", 1) for line in found.stdout.splitlines())
    assert lines["synbench-lightning"] == synbench_lightning.__version__
    assert lines["python"] == platform.python_version()
    for package in ("torch", "lightning", "pytorch-lightning", "torchmetrics", "numpy", "scipy"):
        assert lines[package] == metadata.version(package)
    assert lines["platform"] == platform.platform()
    assert (lines["accelerator"] == "none") == (not torch.accelerator.is_available())


def test_a_package_that_is_missing_is_named(monkeypatch):
    def missing(package):
        if package == "pytorch-lightning":
            raise metadata.PackageNotFoundError(package)
        return "1.0"

    monkeypatch.setattr("synbench_lightning.__main__.version", missing)
    assert versions()["pytorch-lightning"] == "not installed"
    assert versions()["scipy"] == "1.0"
