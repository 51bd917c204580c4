"""A count that a user's code keeps in the run, wherever it is kept and counted, is that of a run without probes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningDataModule, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset, WeightedRandomSampler

from synbench_lightning import BenchmarkCallback
from tests.callbacks.runs import probing, steps, trainer
from tests.integration import modules
from tests.integration.test_training_unchanged import assert_identical

COUNT = 0


class Curriculum(TensorDataset):
    """A dataset with a weight for each example."""

    def __init__(self) -> None:
        super().__init__(torch.randn(96, 12, generator=torch.Generator().manual_seed(0)))
        self.weights = torch.ones(96)
        self.rounds = 0

    def __getitem__(self, index: int) -> Any:
        return (self.tensors[0][index] * self.weights[index],)

    def grow(self) -> int:
        self._next_round()
        return self.rounds

    def _next_round(self) -> None:
        self.rounds += 1
        self.weights *= 1.001


class Data(LightningDataModule):
    def __init__(self) -> None:
        super().__init__()
        self.calls, self.kept = 0, list[int]()
        self.dataset = Curriculum()

    def train_dataloader(self) -> Any:
        return DataLoader(self.dataset, batch_size=8, sampler=WeightedRandomSampler(torch.ones(96), 96))


class Counter:
    """Counts through a method, and through one that this calls."""

    def __init__(self) -> None:
        self.calls = 0

    def count(self) -> int:
        self._increment()
        return self.calls

    def _increment(self) -> None:
        global COUNT
        COUNT += 1
        self.calls += 1


SHARED = Counter()


def on_the_trainer(module: Any) -> int:
    module.trainer.calls = getattr(module.trainer, "calls", 0) + 1
    return int(module.trainer.calls)


def by_name(module: Any) -> int:
    setattr(module.trainer, "calls", getattr(module.trainer, "calls", 0) + 1)  # noqa: B010
    return int(module.trainer.calls)


def in_a_list_of_the_trainer(module: Any) -> int:
    if not hasattr(module.trainer, "kept"):
        module.trainer.kept = []
    module.trainer.kept.append(1)
    return len(module.trainer.kept)


def in_the_datamodule(module: Any) -> int:
    module.trainer.datamodule.calls += 1
    module.trainer.datamodule.kept.append(1)
    return int(module.trainer.datamodule.calls)


def in_the_dataset(module: Any) -> int:
    return int(module.trainer.train_dataloader.dataset.grow())


def in_a_dataset_of_the_module(module: Any) -> int:
    return int(module.dataset.grow())


def in_the_sampler(module: Any) -> int:
    weights = module.trainer.train_dataloader.sampler.weights
    weights[0] += 1
    return int(weights[0])


def on_the_strategy(module: Any) -> int:
    module.trainer.strategy.calls = getattr(module.trainer.strategy, "calls", 0) + 1
    return int(module.trainer.strategy.calls)


def in_a_loop(module: Any) -> int:
    progress = module.trainer.fit_loop.epoch_loop.batch_progress
    progress.calls = getattr(progress, "calls", 0) + 1
    return int(progress.calls)


def in_a_scheduler(module: Any) -> int:
    module.lr_schedulers().step()
    return int(module.lr_schedulers().last_epoch)


def in_the_optimizer_state(module: Any) -> int:
    state = module.trainer.optimizers[0].state
    state["calls"] = state.get("calls", 0) + 1
    return int(state["calls"])


def in_a_variable_of_the_file(module: Any) -> int:
    global COUNT
    COUNT += 1
    return COUNT


def in_an_object_of_the_file(module: Any) -> int:
    return SHARED.count()


def of_a_method(module: Any) -> int:
    return int(module.counted())


def of_a_property(module: Any) -> int:
    return int(module.count)


PLACES: list[Callable[[Any], int]] = [
    on_the_trainer, by_name, in_a_list_of_the_trainer, in_the_datamodule, in_the_dataset, in_a_dataset_of_the_module,
    in_the_sampler, on_the_strategy, in_a_loop, in_a_scheduler, in_the_optimizer_state, in_a_variable_of_the_file,
    in_an_object_of_the_file, of_a_method, of_a_property,
]  # fmt: skip


class Counts(modules.Plain):
    """Counts in the forward of the encoder, and scales its features by the count."""

    def __init__(self, place: Callable[[Any], int]) -> None:
        super().__init__()
        self.place, self.dataset = place, Curriculum()
        self.start()

    def start(self) -> None:
        self.encoder.register_forward_hook(lambda _module, _args, features: features * self.scale())

    def scale(self) -> float:
        return 1 + 1e-3 * self.place(self)

    def counted(self) -> int:
        return in_a_variable_of_the_file(self)

    @property
    def count(self) -> int:
        return in_an_object_of_the_file(self)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), 1e-2)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.9), "interval": "epoch"},
        }


class InTheStep(Counts):
    """Counts in the training step, which probes run up to the encoder."""

    def start(self) -> None:
        pass

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0] + 0.1 * torch.randn_like(batch[0])
        return nn.functional.mse_loss(self.head(self.encoder(x * self.scale())), x)


class AfterTheTransfer(Counts):
    """Counts in a transfer hook."""

    def start(self) -> None:
        pass

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [(batch[0] + 0.1 * torch.randn_like(batch[0])) * self.scale()]


def outcome(make: Callable[[], Any], *callbacks: Any) -> Any:
    global COUNT
    COUNT = SHARED.calls = 0
    seed_everything(0)
    model, data = make(), Data()
    run = trainer(*callbacks, max_steps=18)
    run.fit(model, datamodule=data)
    counted = model.scale()
    return model.state_dict(), run.optimizers[0].state_dict(), data.dataset.weights, counted


@pytest.mark.parametrize("place", PLACES)
def test_a_count_in_a_forward_is_as_without_probes(place):
    callback = probing(every=7)
    assert_identical(outcome(lambda: Counts(place)), outcome(lambda: Counts(place), callback))
    assert steps(callback) == [0, 7, 14, 18]


@pytest.mark.parametrize("place", [place for place in PLACES if place is not in_a_scheduler])
@pytest.mark.parametrize("where", [InTheStep, AfterTheTransfer])
@pytest.mark.filterwarnings("ignore:You have overridden `on_after_batch_transfer`")
def test_a_count_before_the_encoder_is_as_without_probes(where, place, caplog):
    callback = probing(every=7, inputs="auto")
    assert_identical(outcome(lambda: where(place)), outcome(lambda: where(place), callback))
    assert "random in the transfer hooks or the training step" in caplog.text


class CountingViews:
    """Views that count through their object and a variable of this file."""

    def __init__(self) -> None:
        self.counter = Counter()

    def __call__(self, batch: Tensor) -> Tensor:
        return batch + 0.1 * torch.randn_like(batch) + 0.0 * self.counter.count() * SHARED.count()


def test_what_views_count_is_as_before():
    def found(*callbacks: Any) -> Any:
        return outcome(lambda: InTheStep(in_an_object_of_the_file), *callbacks), COUNT

    views, inputs = CountingViews(), torch.randn(32, 12)
    given = probing(every=7, inputs=inputs, views=views)
    assert_identical(found(), found(given))
    assert len(given.history) == 4
    assert views.counter.calls == 0


def test_a_module_outside_that_an_encoder_calls_is_left_as_it_was():
    teacher = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout())
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    callback = probing(every=7, encoder=lambda module, x: module.encoder(x) + teacher(x))
    outcome(lambda: Counts(on_the_trainer), callback)
    assert len(callback.history) == 4
    assert_identical(dict(teacher.state_dict()), before)
    assert all(part.training for part in teacher.modules())


class CountingReads(TensorDataset):
    """Counts what is read, and has labels."""

    reads = 0

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return super().__getitem__(index)


class ScalesByReads(modules.Plain):
    """Trains on a dataset whose count is part of the loss."""

    def __init__(self, dataset: CountingReads) -> None:
        super().__init__()
        self.dataset = dataset

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch[0]) * (1 + 1e-3 * self.dataset.reads)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.dataset, batch_size=8, shuffle=True)


def test_a_dataset_that_training_and_a_benchmark_share_counts_as_before():
    def found(*probes: bool) -> Any:
        seed_everything(0)
        dataset = CountingReads(torch.randn(96, 12), torch.arange(96) % 2)
        model, tasks = ScalesByReads(dataset), {"some": Subset(dataset, range(80))}
        callbacks = [BenchmarkCallback(tasks, 0.5, support=20, every_n_train_steps=7) for _ in probes]
        run = trainer(*callbacks, max_steps=18)
        run.fit(model)
        assert [[result.step for result in one.history] for one in callbacks] == [[0, 7, 14, 18] for _ in probes]
        return model.state_dict(), run.optimizers[0].state_dict(), dataset.reads

    assert_identical(found(), found(True))


PACKAGE = """
import torch
CALLS = []

class Record:
    def __call__(self, module, args, features):
        note(features)
        return features * (1 + 1e-3 * len(CALLS))

def note(features):
    CALLS.append(float(features.detach().mean()))
"""


def test_an_installed_package_is_the_users_where_the_trained_module_is_of_it(tmp_path, monkeypatch):
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "somebodys.py").write_text(PACKAGE)
    monkeypatch.syspath_prepend(tmp_path / "site-packages")
    import somebodys  # type: ignore[import-not-found]

    class OfAPackage(Counts):
        __module__ = "somebodys"

        def start(self) -> None:
            somebodys.CALLS.clear()
            self.encoder.register_forward_hook(somebodys.Record())

        def scale(self) -> float:
            return len(somebodys.CALLS)

    def found(*callbacks: Any) -> Any:
        return outcome(lambda: OfAPackage(on_the_trainer), *callbacks)

    assert isinstance(sys.modules["somebodys"], ModuleType)
    assert_identical(found(), found(probing(every=7)))
