"""`python -m synbench_lightning`: print the versions that a bug report needs."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

import synbench_lightning

PACKAGES = ("torch", "lightning", "pytorch-lightning", "torchmetrics", "numpy", "scipy")


def versions() -> dict[str, str]:
    """Collect the versions of this package, of Python, of the packages that it needs, and the machine's accelerator.

    Returns:
        Text by name, in the order in which it is printed; ``"not installed"`` for a package that is missing.
    """
    found = {"synbench-lightning": synbench_lightning.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {"platform": platform.platform(), "accelerator": _accelerator()}


def _accelerator() -> str:
    """Count and name the accelerators that torch can use, as ``"2 x cuda (NVIDIA H200)"``."""
    device = torch.accelerator.current_accelerator()
    if device is None or not torch.accelerator.is_available():
        return "none"
    name = f" ({torch.cuda.get_device_name()})" if device.type == "cuda" else ""
    return f"{torch.accelerator.device_count()} x {device.type}{name}"


if __name__ == "__main__":
    for name, text in versions().items():
        print(f"{name}: {text}")
