"""Clients of experiment trackers that a user's code calls itself, without a logger of Lightning."""

from __future__ import annotations

import sys
import types
from typing import Any

PACKAGES = ("torch.utils.tensorboard", "tensorboardX", "wandb", "mlflow", "comet_ml", "neptune", "aim", "clearml")
PREFIXES = ("log_", "add_", "report_", "track_")
"""Names of functions that write to a tracker begin so, or are one of these without the underscore."""


def is_tracker(value: Any) -> bool:
    """Whether an object is of a tracker's package and has functions that write, as a ``SummaryWriter``."""
    of_package = f"{type(value).__module__}.".startswith(tuple(f"{package}." for package in PACKAGES))
    return of_package and hasattr(value, "__dict__") and bool(writing_functions(value))


def imported_trackers() -> list[types.ModuleType]:
    """The packages of trackers that were imported, which have functions that write, as ``wandb.log``."""
    return [sys.modules[package] for package in PACKAGES if package in sys.modules]


def writing_functions(owner: Any) -> tuple[str, ...]:
    """The names of the functions of an object or a package that write to a tracker."""
    names = vars(owner) if isinstance(owner, types.ModuleType) else dir(type(owner))
    return tuple(name for name in names if f"{name}_".startswith(PREFIXES))
