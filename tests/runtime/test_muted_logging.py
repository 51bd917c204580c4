"""What a forward logs in a probe, and what it does to the trainer, has no effect."""

import lightning.pytorch as pl
import pytest
import torch
from lightning import Fabric
from lightning.pytorch.loggers import Logger
from torch import nn

from synbench_lightning.runtime.muted_logging import MutedLogger, muted_logging


class Listing(Logger):
    name, version, root_dir, log_dir, save_dir = "list", 3, "root", "log", "save"
    limit = 5

    def __init__(self):
        super().__init__()
        self.logged = []

    @property
    def experiment(self):
        return self.logged

    def log_metrics(self, metrics, step=None):
        self.logged.append(metrics)

    def log_hyperparams(self, *_):
        self.logged.append("hyperparameters")


class Counting(pl.Callback):
    def __init__(self):
        self.logged = []

    def log(self, *values):
        self.logged.append(values)


@pytest.fixture
def module():
    """One that a trainer with a logger, a callback and an optimizer trains."""
    found = pl.LightningModule()
    found.net = nn.Linear(2, 2)
    found.trainer = pl.Trainer(
        logger=Listing(), callbacks=[Counting()], enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    found.trainer.strategy._optimizers = [torch.optim.SGD(found.net.parameters(), lr=0.5)]
    return found


def test_loggers_are_as_they_were_and_know_nothing_of_what_was_logged(module):
    trainer, (logger,) = module.trainer, module.trainer.loggers
    with muted_logging(module.modules()):
        (muted,) = trainer.loggers
        assert trainer.logger is muted
        muted.log_metrics({"loss": 1.0})
        muted.log_hyperparams({})
        muted.experiment.add_scalar("loss", 1.0)
        muted.experiment["loss"].append(1.0)
        muted.experiment["loss"] = 2.0
        assert (muted.name, muted.version, muted.root_dir, muted.log_dir, muted.save_dir, muted.limit) == (
            "list", 3, "root", "log", "save", 5,
        )  # fmt: skip
        assert isinstance(muted, MutedLogger)
    assert trainer.loggers == [logger]
    assert logger.logged == []


def test_what_modules_and_callbacks_log_has_no_effect(module):
    (callback,) = (one for one in module.trainer.callbacks if isinstance(one, Counting))
    before = dict(vars(module))
    with muted_logging([module]):
        module.log("loss", 1.0)  # which raises outside of a fit
        module.log_dict({"loss": 1.0})
        module.print("loss")
        callback.log("loss", 1.0)
    assert vars(module) == before
    assert callback.logged == []
    callback.log("loss")
    assert callback.logged == [("loss",)]


def test_a_log_of_its_own_is_back_afterwards(module):
    own = module.log = lambda *_: "mine"
    with muted_logging([module]):
        assert module.log() is None
    assert module.log is own


def test_a_stop_and_other_learning_rates_are_forgotten(module):
    trainer = module.trainer
    (group,) = trainer.optimizers[0].param_groups
    params = group["params"]
    with muted_logging([module]):
        trainer.should_stop = True
        group.update(lr=0.1, params=[*params])
    assert not trainer.should_stop
    assert group["lr"] == 0.5
    assert [id(one) for one in group["params"]] == [id(one) for one in params]


def test_modules_without_a_trainer_of_lightning_are_muted_alone():
    alone, with_fabric = pl.LightningModule(), pl.LightningModule()
    with_fabric.fabric = Fabric(accelerator="cpu", devices=1)
    with muted_logging([alone, with_fabric, nn.Linear(2, 2)]):
        alone.log("loss", 1.0)
        with_fabric.print("loss")
    assert "log" not in vars(alone)


def test_clients_of_trackers_are_muted():
    class Client:
        def __init__(self):
            self.logged = []

        def log(self, *values):
            self.logged.append(values)

    client = Client()
    with muted_logging([], [client]):
        client.log("loss", 1.0)
    assert client.logged == []
    client.log("loss")
    assert client.logged == [("loss",)]
