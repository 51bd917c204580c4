"""Lightning comes as two packages, ``lightning.pytorch`` and ``pytorch_lightning``, whose classes are not related.

A trainer, modules and callbacks of either work. This file alone imports from them, and it imports one: the package
that the program has imported already, else the first that is installed.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lightning_utilities.core.rank_zero import rank_zero_info as rank_zero_info  # of both packages
from lightning_utilities.core.rank_zero import rank_zero_warn as rank_zero_warn

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
FABRICS = {"lightning.pytorch": "lightning.fabric", "pytorch_lightning": "lightning_fabric"}


def _packages() -> tuple[str, ...]:
    """Those that are imported, one at least."""
    imported = tuple(package for package in PACKAGES if package in sys.modules)
    installed = (package for package in PACKAGES if find_spec(package.partition(".")[0]))
    return imported or (next(installed, PACKAGES[0]),)


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
    _lightning = [import_module(package) for package in _packages()]
    Trainer, LightningModule = _lightning[0].Trainer, _lightning[0].LightningModule
    EarlyStopping, ModelCheckpoint = _lightning[0].callbacks.EarlyStopping, _lightning[0].callbacks.ModelCheckpoint
    Strategy = _lightning[0].strategies.Strategy
    is_oom_error = import_module(f"{_lightning[0].__name__}.utilities.memory").is_oom_error
    move_data_to_device = import_module(f"{FABRICS[_lightning[0].__name__]}.utilities").move_data_to_device

    # Hooks are called by name, whatever the class. A few places ask for it: `Trainer(callbacks=one)` without a list,
    # and the command line. Where both packages are imported, a callback is one of either.
    _callbacks = tuple(dict.fromkeys(package.Callback for package in _lightning))
    Callback = _callbacks[0] if len(_callbacks) == 1 else type("Callback", _callbacks, {"__module__": __name__})


def lightning_classes(*paths: str) -> tuple[type[Any], ...]:
    """Classes of either package for ``isinstance``, as far as the package is imported and has them.

    Args:
        paths: dotted, within the package.

    Example:
        >>> {kind.__name__ for kind in lightning_classes("Trainer", "callbacks.EarlyStopping", "NoSuchClass")}
        {...'EarlyStopping'...}
    """
    return _classes(paths, tuple(package in sys.modules for package in PACKAGES))


def lacks_forward(module: Any) -> bool:
    """Whether it is a LightningModule that defines no ``forward``."""
    return getattr(type(module), "forward", None) in [kind.forward for kind in lightning_classes("LightningModule")]


@cache
def _classes(paths: tuple[str, ...], _imported: tuple[bool, ...]) -> tuple[type[Any], ...]:
    found = []
    for path in paths:
        *inner, name = path.split(".")
        modules = [sys.modules.get(".".join([package, *inner])) for package in PACKAGES]
        found += [getattr(module, name) for module in modules if hasattr(module, name)]
    return tuple(found)
