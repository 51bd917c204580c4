"""What belongs to the run, and which of it code that names it restores."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Timer
from torch import nn
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from synbench_lightning.runtime import module_snapshot
from synbench_lightning.runtime.isolation import isolated
from synbench_lightning.runtime.module_snapshot import ModuleSnapshot
from synbench_lightning.runtime.named_in_code import MISSING
from synbench_lightning.runtime.run_state import behind_trainer, belongs_to_run, named_attributes, packages_of_run


class Data(Dataset):
    """A dataset whose variables a step may name."""

    def __init__(self):
        self.kept = [[0], torch.zeros(4), np.zeros(4)]
        self.reads = 0


class Reading(nn.Module):
    """A module whose forward changes what its dataset holds."""

    def __init__(self):
        super().__init__()
        self.data = Data()

    def forward(self):
        self.data.kept[0].append(1)
        self.data.kept[1].add_(1)
        self.data.kept[2] += 1


OPTIMIZER = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)


@pytest.mark.parametrize(
    ("value", "belongs"),
    [
        (Data(), True), (DataLoader(range(3)), True), (RandomSampler(range(3)), True), (OPTIMIZER, True),
        (torch.optim.lr_scheduler.StepLR(OPTIMIZER, 1), True), (LightningDataModule(), True),
        (Timer(), True), (nn.Linear(1, 1), False), ([1], False), (SimpleNamespace(), False),
    ],
)  # fmt: skip
def test_data_optimizers_schedulers_and_lightnings_own_objects_belong_to_the_run(value, belongs):
    assert belongs_to_run(value) == belongs


def test_of_an_object_of_the_run_named_attributes_are_kept_and_of_a_scheduler_all():
    data, scheduler = Data(), torch.optim.lr_scheduler.StepLR(OPTIMIZER, 1)
    assert named_attributes(data, {"reads", "other"}) == {"reads": 0, "other": MISSING}
    assert named_attributes(scheduler, {"other"}) == {**vars(scheduler), "other": MISSING}


def test_schedulers_of_a_trainer_are_reached_where_code_names_them():
    trainer = SimpleNamespace(lr_scheduler_configs=[SimpleNamespace(scheduler="s")], optimizers=["o"], callbacks=["c"])
    for name in ("lr_schedulers", "lr_scheduler_configs"):
        assert list(behind_trainer(trainer, {name, "optimizers"})) == [("optimizers", ["o"]), ("lr_schedulers", "s")]
    assert list(behind_trainer(trainer, {"optimizers", "callbacks", "forward"})) == [("optimizers", ["o"])]


def test_packages_are_those_of_the_module_its_datamodule_and_its_callbacks():
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    module, kind = LightningModule(), type("Own", (LightningDataModule,), {"__module__": "somebodys.data"})
    assert packages_of_run(nn.Linear(1, 1)) == packages_of_run(module) == packages_of_run(None) == set()
    module.trainer, trainer.datamodule = trainer, kind()
    trainer.callbacks = [type("Own", (Callback,), {"__module__": "another.hooks"})()]
    assert packages_of_run(module) == {"lightning", "somebodys", "another"}


@pytest.mark.parametrize(("longest", "followed"), [(4, True), (3, False)])
def test_lists_that_the_run_holds_are_followed_up_to_a_length(longest, followed, monkeypatch):
    monkeypatch.setattr(module_snapshot, "MOST_ELEMENTS", longest)
    module = Reading()
    with isolated(module):
        module()
    assert [len(module.data.kept[0]), float(module.data.kept[1][0])] == ([1, 0.0] if followed else [2, 1.0])


@pytest.mark.parametrize(("largest", "named"), [(32, []), (31, ["array"]), (15, ["tensor", "array"])])
def test_tensors_and_arrays_that_the_run_holds_are_copied_up_to_a_size_and_named_beyond(largest, named, monkeypatch):
    monkeypatch.setattr(module_snapshot, "COPY_BYTES", largest)
    module = Reading()
    state = ModuleSnapshot(module)
    module()
    places = {"tensor": "Reading.data.kept[1]", "array": "Reading.data.kept[2]"}
    assert state.restore() == [places[kind] for kind in named]
    assert bool(module.data.kept[1].any()) == ("tensor" in named)
    assert bool(module.data.kept[2].any()) == ("array" in named)


def test_large_tensors_of_the_module_itself_are_copied_whatever_their_size(monkeypatch):
    monkeypatch.setattr(module_snapshot, "COPY_BYTES", 1)
    monkeypatch.setattr(module_snapshot, "MOST_ELEMENTS", 1)
    module = nn.Linear(4, 4)
    module.kept = [[1], [2], [3]]
    before = module.weight.detach().clone()
    with isolated(module):
        module.weight.add_(1)
        module.kept[2].append(4)
    assert torch.equal(module.weight, before)
    assert module.kept == [[1], [2], [3]]


def test_datasets_of_a_class_are_left_as_they_are_where_no_code_names_what_they_hold():
    module = nn.Linear(1, 1)
    module.data = TensorDataset(torch.zeros(2))
    with isolated(module):
        module.data.tensors[0].add_(1)
    assert module.data.tensors[0].tolist() == [1, 1]


def test_an_optimizer_is_reached_behind_a_trainer_whose_code_names_both():
    class Stepping(LightningModule):
        def forward(self):
            self.trainer.optimizers[0].kept.append(1)

    module = Stepping()
    module.trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    optimizer.kept = []
    module.trainer.strategy.optimizers = [optimizer]
    with isolated(module):
        module()
    assert optimizer.kept == []
