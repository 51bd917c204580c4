"""Imports from the two Lightning packages, ``lightning.pytorch`` and ``pytorch_lightning``, with unrelated classes.

Trainers, modules and callbacks of either package work. Only this file imports from them; if the program has already
imported one of them, the other is not imported.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_info as rank_zero_info  # of both packages
from lightning_utilities.core.rank_zero import rank_zero_warn as rank_zero_warn

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
FABRICS = {"lightning.pytorch": "lightning.fabric", "pytorch_lightning": "lightning_fabric"}


def _packages() -> list[Any]:
    """The packages that the program has imported; if none yet, all that are installed."""
    imported = [sys.modules[package] for package in PACKAGES if package in sys.modules]
    if not imported:
        for package in reversed(PACKAGES):  # the one imported last takes the messages of both
            with suppress(ImportError):
                imported.insert(0, import_module(package))
    return imported or [import_module(PACKAGES[0])]


if TYPE_CHECKING:
    from lightning.fabric.utilities import move_data_to_device as move_data_to_device
    from lightning.pytorch import Callback as Callback
    from lightning.pytorch import LightningModule as LightningModule
    from lightning.pytorch import Trainer as Trainer
    from lightning.pytorch.callbacks import EarlyStopping as EarlyStopping
    from lightning.pytorch.callbacks import ModelCheckpoint as ModelCheckpoint
    from lightning.pytorch.strategies import Strategy as Strategy
    from lightning.pytorch.utilities.memory import is_oom_error as is_oom_error
else:
    _lightning = _packages()
    Trainer, LightningModule = _lightning[0].Trainer, _lightning[0].LightningModule
    EarlyStopping, ModelCheckpoint = _lightning[0].callbacks.EarlyStopping, _lightning[0].callbacks.ModelCheckpoint
    Strategy = _lightning[0].strategies.Strategy
    is_oom_error = import_module(f"{_lightning[0].__name__}.utilities.memory").is_oom_error
    move_data_to_device = import_module(f"{FABRICS[_lightning[0].__name__]}.utilities").move_data_to_device

    # Trainers and LightningCLI check callbacks with `isinstance` of their own class: before Lightning 2.6 each one,
    # since then one that is not in a list. If both packages are imported, a callback derives from both classes.
    _callbacks = tuple(dict.fromkeys(package.Callback for package in _lightning))
    Callback = _callbacks[0] if len(_callbacks) == 1 else type("Callback", _callbacks, {"__module__": __name__})


def lightning_classes(*paths: str) -> tuple[type[Any], ...]:
    """Classes of both packages for ``isinstance``, as far as the packages are imported and have them.

    Args:
        paths: dotted paths within the package.

    Example:
        >>> {kind.__name__ for kind in lightning_classes("Trainer", "callbacks.EarlyStopping", "NoSuchClass")}
        {...'EarlyStopping'...}
    """
    return _classes(paths, tuple(map(sys.modules.__contains__, PACKAGES)))


def lacks_forward(module: Any) -> bool:
    """Whether a LightningModule defines no ``forward`` of its own."""
    return getattr(type(module), "forward", None) in [kind.forward for kind in lightning_classes("LightningModule")]


def trainer_of(module: Any) -> Trainer | None:
    """The trainer that a LightningModule is attached to, if it is one and is attached."""
    try:
        trainer = module.trainer if isinstance(module, lightning_classes("LightningModule")) else None
    except RuntimeError:  # attached to none
        return None
    return trainer if isinstance(trainer, lightning_classes("Trainer")) else None


@cache
def _classes(paths: tuple[str, ...], _imported: tuple[bool, ...]) -> tuple[type[Any], ...]:
    found = []
    for path in paths:
        *inner, name = path.split(".")
        modules = [sys.modules.get(".".join([package, *inner])) for package in PACKAGES]
        found += [getattr(module, name) for module in modules if hasattr(module, name)]
    return tuple(found)
