"""The modes that a Trainer has: the probe is made where it makes sense, and never in the way."""

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, IterableDataset

from synbench_lightning import SynBenchCallback
from tests.callbacks.runs import SMALL, curves, probing, steps, trainer
from tests.encoders import Autoencoder
from tests.integration.modules import Plain


class Validating(Plain):
    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch[0]))

    def val_dataloader(self):
        return DataLoader(self.train_dataloader().dataset, batch_size=8)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"fast_dev_run": True}, [0, 1]),
        ({"fast_dev_run": 6}, [0, 5, 6]),
        ({"overfit_batches": 2}, [0, 5, 10, 12]),
        ({"limit_train_batches": 3}, [0, 5, 10, 12]),
        ({"limit_train_batches": 0.5}, [0, 5, 10, 12]),
        ({"val_check_interval": 2}, [0, 5, 10, 12]),
        ({"num_sanity_val_steps": 2}, [0, 5, 10, 12]),
        ({"reload_dataloaders_every_n_epochs": 1, "limit_train_batches": 4}, [0, 5, 10, 12]),
        ({"logger": False}, [0, 5, 10, 12]),
        ({"check_val_every_n_epoch": None, "val_check_interval": 5}, [0, 5, 10, 12]),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:.*DataLoader.*shuffl", "ignore:You requested to overfit")
def test_probes_are_where_they_belong(arguments, expected):
    callback = probing(inputs="auto")
    trainer(callback, **{"max_steps": 12, **arguments}).fit(Validating())
    assert steps(callback) == expected


def test_barebones():
    callback = probing()
    Trainer(barebones=True, max_steps=6, callbacks=[callback], accelerator="cpu").fit(Plain())
    assert steps(callback) == [0, 5, 6]


def test_no_step_at_all():
    for arguments in ({"max_steps": 0}, {"max_epochs": 0, "max_steps": -1}, {"limit_train_batches": 0}):
        callback = probing()
        trainer(callback, **arguments).fit(Autoencoder())
        assert callback.history == []


def test_an_iterable_dataset_without_length():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(torch.randn(72, 12, generator=torch.Generator().manual_seed(0))[:, None])

    class Streaming(Plain):
        def train_dataloader(self):
            return DataLoader(Stream(), batch_size=8)

        def training_step(self, batch, batch_idx):
            return self.loss(batch[:, 0])

    by_epoch = SynBenchCallback(every_n_epochs=1, plan=SMALL, encoder="encoder", input_shape=(12,))
    trainer(by_epoch, max_steps=-1, max_epochs=2).fit(Streaming())
    assert steps(by_epoch) == [0, 9, 18]


def test_validation_in_between_leaves_one_point_for_each_probe():
    logger, callback = TensorBoardLogger("runs"), probing()
    trainer(callback, max_steps=12, val_check_interval=2, logger=logger, log_every_n_steps=1).fit(Validating())
    assert [step for step, _ in curves(logger)["synbench/score"]] == [0, 5, 10, 12]


def test_fit_twice_goes_on():
    callback = probing()
    run, model = trainer(callback, max_steps=7), Autoencoder()
    run.fit(model)
    run.fit_loop.epoch_loop.max_steps = 14
    run.fit(model)
    assert steps(callback) == [0, 5, 7, 10, 14]


def test_validate_alone_and_test_alone():
    callback = probing()
    run = trainer(callback)
    run.validate(BoringModel(), verbose=False)
    run.test(BoringModel(), verbose=False)
    assert callback.history == []


def test_validation_end_checkpoints_see_the_probe_of_the_last_step():
    checkpoint = ModelCheckpoint("c", monitor="synbench/score", mode="max", save_top_k=-1)
    callback = SynBenchCallback(every_n_epochs=1, plan=SMALL)
    trainer(callback, checkpoint, max_steps=-1, max_epochs=3, enable_checkpointing=True).fit(Validating())
    scores = sorted(float(score) for score in checkpoint.best_k_models.values())
    assert scores == pytest.approx(sorted(result.score() for result in callback.history[1:]))
