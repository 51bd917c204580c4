"""Which of the two Lightning packages is used, where one of them or both are imported or installed.

The second one is pretended: the real one would stay imported for the tests that follow.
"""

import importlib.util
import sys
from types import ModuleType

import lightning.pytorch
import pytest

from synbench_lightning.runtime import lightning_packages
from synbench_lightning.runtime.lightning_packages import _packages, lacks_forward, lightning_classes

FIRST, SECOND = lightning_packages.PACKAGES


def pretended():
    """The parts of `pytorch_lightning` that are used, by name."""
    names = [SECOND, *(f"{SECOND}.{part}" for part in ("callbacks", "strategies", "utilities.memory"))]
    found = {name: ModuleType(name) for name in [*names, "lightning_fabric.utilities"]}
    package = found[SECOND]
    package.callbacks, package.strategies = found[f"{SECOND}.callbacks"], found[f"{SECOND}.strategies"]
    for owner, kind in (
        (package, "Trainer"), (package, "LightningModule"), (package, "Callback"), (package.callbacks, "EarlyStopping"),
        (package.callbacks, "ModelCheckpoint"), (package.strategies, "Strategy"),
    ):  # fmt: skip
        setattr(owner, kind, type(kind, (), {"__module__": SECOND}))
    found[f"{SECOND}.utilities.memory"].is_oom_error = lambda error: "of the second"
    found["lightning_fabric.utilities"].move_data_to_device = lambda value, device: "by the second"
    return found


@pytest.fixture(autouse=True)
def nothing_is_kept():
    yield
    lightning_packages._classes.cache_clear()


@pytest.fixture
def imported(monkeypatch):
    """Gives this process some of the packages, and then imports ours anew."""

    def with_packages(*names):
        for name, module in pretended().items():
            if SECOND in names:
                monkeypatch.setitem(sys.modules, name, module)
            else:
                monkeypatch.delitem(sys.modules, name, raising=False)
        if FIRST not in names:
            monkeypatch.delitem(sys.modules, FIRST)
        spec = importlib.util.find_spec(lightning_packages.__name__)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return with_packages


def test_the_package_that_is_imported_is_used(imported):
    found = imported(FIRST)
    assert found.Trainer is lightning.pytorch.Trainer
    assert found.LightningModule is lightning.pytorch.LightningModule
    assert found.EarlyStopping is lightning.pytorch.callbacks.EarlyStopping
    assert found.ModelCheckpoint is lightning.pytorch.callbacks.ModelCheckpoint
    assert found.Strategy is lightning.pytorch.strategies.Strategy
    assert found.Callback is lightning.pytorch.Callback
    assert found.is_oom_error(RuntimeError("CUDA out of memory.")) is True
    assert found.move_data_to_device([3], "cpu") == [3]


def test_the_other_package_is_used_if_it_alone_is_imported(imported):
    found = imported(SECOND)
    package = sys.modules[SECOND]
    assert (found.Trainer, found.LightningModule, found.Callback) == (
        package.Trainer, package.LightningModule, package.Callback,
    )  # fmt: skip
    assert found.EarlyStopping is package.callbacks.EarlyStopping
    assert found.ModelCheckpoint is package.callbacks.ModelCheckpoint
    assert found.Strategy is package.strategies.Strategy
    assert found.is_oom_error(RuntimeError()) == "of the second"
    assert found.move_data_to_device(3, "cpu") == "by the second"


def test_a_callback_is_one_of_both_packages_if_both_are_imported(imported):
    found = imported(FIRST, SECOND)
    assert found.Trainer is lightning.pytorch.Trainer
    assert found.Callback.__mro__[1:3] == (lightning.pytorch.Callback, sys.modules[SECOND].Callback)
    assert set(lightning_classes("Trainer", "callbacks.EarlyStopping", "callbacks.NoSuchClass", "nothing.Trainer")) == {
        lightning.pytorch.Trainer, sys.modules[SECOND].Trainer,
        lightning.pytorch.callbacks.EarlyStopping, sys.modules[SECOND].callbacks.EarlyStopping,
    }  # fmt: skip


def test_only_classes_of_imported_packages_are_looked_for(monkeypatch):
    monkeypatch.delitem(sys.modules, SECOND, raising=False)
    assert lightning_classes("Trainer") == (lightning.pytorch.Trainer,)
    for name, module in pretended().items():
        monkeypatch.setitem(sys.modules, name, module)
    assert len(lightning_classes("Trainer")) == 2


@pytest.mark.parametrize("installed", [(FIRST, SECOND), (FIRST,), (SECOND,)])
def test_all_installed_packages_are_imported_if_none_has_been(installed, monkeypatch):
    asked = []

    def import_module(name):
        asked.append(name)
        if name not in installed:
            raise ImportError(name)
        return name

    for name in (FIRST, SECOND):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(lightning_packages, "import_module", import_module)
    assert tuple(_packages()) == installed
    assert asked == [SECOND, FIRST]  # the one imported last takes the messages of both


def test_without_any_package_the_error_names_the_first(monkeypatch):
    def import_module(name):
        raise ImportError(f"No module named {name!r}")

    for name in (FIRST, SECOND):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(lightning_packages, "import_module", import_module)
    with pytest.raises(ImportError, match=f"No module named '{FIRST}'"):
        _packages()


def test_a_module_has_a_forward_if_it_defines_one():
    class Plain(lightning.pytorch.LightningModule):
        pass

    class Calling(Plain):
        def forward(self, x):
            return x

    assert lacks_forward(Plain())
    assert not lacks_forward(Calling())
