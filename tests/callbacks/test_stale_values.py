"""Whoever reads a probed value more often than there are probes gets a warning with a change that helps."""

import ast
import re
import warnings
from datetime import timedelta

import pytest
import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, StochasticWeightAveraging
from torch.optim.lr_scheduler import ReduceLROnPlateau

from synbench_lightning import ProbePlan, SynBenchCallback, evaluate
from tests.callbacks.runs import SMALL, probing, trainer
from tests.encoders import Autoencoder
from tests.integration.modules import Plain

KEY = "synbench/score"


class Plateau(Autoencoder):
    """Ten batches in an epoch; keeps what its scheduler has read."""

    def __init__(self, mode="max", kind=ReduceLROnPlateau, **config):
        super().__init__()
        self.config, self.mode, self.kind, self.read = config, mode, kind, []

    def configure_optimizers(self):
        optimizer = super().configure_optimizers()
        scheduler = self.kind(optimizer, mode=self.mode, patience=0, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": KEY, **self.config}}

    def lr_scheduler_step(self, scheduler, metric):
        self.read.append(float(metric))
        super().lr_scheduler_step(scheduler, metric)

    def validation_step(self, batch, batch_idx):
        pass

    def val_dataloader(self):
        return torch.zeros(8, 1)


class OwnPlateau(ReduceLROnPlateau):
    """A subclass of the user's."""


def advice(model, *callbacks, **arguments):
    """The warnings at the start of a fit of one step."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(*callbacks, max_steps=-1, max_epochs=1, limit_val_batches=0, **arguments).fit(model)
    return [text for warning in caught if (text := str(warning.message)).find("synbench/") > 0]


STALE = {
    "each epoch": ({}, {"every": 25}, {}),
    "every second epoch": ({"frequency": 2}, {"every": 35}, {}),
    "each step": ({"interval": "step"}, {"every": 4}, {}),
    "every third step": ({"interval": "step", "frequency": 3}, {"every": 25}, {}),
    "accumulation": ({"interval": "step", "frequency": 2}, {"every": 4}, {"accumulate_grad_batches": 2}),
    "epochs": ({"interval": "epoch"}, {"every_n_epochs": 3}, {}),
    "steps and epochs": ({"interval": "step"}, {"every_n_epochs": 1}, {}),
}


def reads(config, schedule, arguments):
    """What a scheduler reads in twelve epochs, and at how many probes."""
    probes, model = probing(**schedule), Plateau(**config)
    trainer(probes, max_steps=-1, max_epochs=12, limit_val_batches=0, **arguments).fit(model)
    return model.read, len(probes.history)


@pytest.mark.parametrize("row", STALE)
@pytest.mark.filterwarnings("ignore:.*counts as no improvement")
def test_a_scheduler_that_would_read_a_value_twice_is_told_of_settings_with_which_it_does_not(row):
    config, schedule, arguments = STALE[row]
    [text] = advice(Plateau(**config), probing(**schedule), **arguments)
    assert "ReduceLROnPlateau(monitor='synbench/score') checks every" in text
    before, _ = reads(config, schedule, arguments)
    assert len(set(before)) < len(before)
    change = ast.literal_eval("{" + re.search(r'("interval".*?)}`', text).group(1) + "}")
    after, probes = reads({**config, **change}, schedule, arguments)
    assert 2 <= len(set(after)) == len(after) <= probes
    if "or `SynBenchCallback(" in text:
        every_n_epochs = int(re.search(r"or `SynBenchCallback\(every_n_epochs=(\d)\)`", text).group(1))
        after, _ = reads(config, {"every_n_epochs": every_n_epochs}, arguments)
        assert 2 <= len(set(after)) == len(after)
    assert advice(Plateau(**{**config, **change}), probing(**schedule), **arguments) == []


@pytest.mark.parametrize(
    ("config", "schedule"),
    [({}, {"every": 10}), ({"frequency": 3}, {"every": 25}), ({"interval": "step", "frequency": 5}, {"every": 5})],
)
def test_a_scheduler_that_reads_each_value_once_is_not_warned_of(config, schedule):
    assert advice(Plateau(**config), probing(**schedule)) == []


def test_a_scheduler_that_takes_low_scores_for_good_ones_is_warned_of_by_its_own_name():
    [text] = advice(Plateau(mode="min", kind=OwnPlateau), probing(every=5))
    assert "OwnPlateau(monitor='synbench/score', mode='min') prefers low scores: set mode='max'." in text


class Best(Callback):
    """Remembers the best value, as many a callback of users does."""

    def __init__(self, monitor=KEY):
        self.monitor, self.best = monitor, 0.0

    def on_train_epoch_end(self, trainer, pl_module):
        self.best = max(self.best, float(trainer.callback_metrics[self.monitor]))


class OwnCheckpoint(ModelCheckpoint):
    """A subclass of the user's."""


class Reports(Callback):
    """Reports values under other names, as callbacks for searches of hyperparameters do."""

    def __init__(self):
        self._metrics = {"quality": KEY}

    def on_validation_end(self, trainer, pl_module):
        {name: trainer.callback_metrics.get(key) for name, key in self._metrics.items()}


class EachBatch(Callback):
    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.callback_metrics.get("synbench/score", 1.0) < 0


class EachEpoch(Callback):
    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.callback_metrics.get("synbench/score", 1.0) < 0


class EachProbe(EachBatch):
    def on_probe_end(self, trainer, pl_module, metrics):
        """Whoever has this knows of probes."""


CONSUMERS = {
    "a callback that has the key in a dict": (Reports, {}, r"Reports\(monitor='synbench/score'\) may check at the end"),
    "code of each batch": (EachBatch, {}, r"`EachBatch.on_train_batch_end` reads 'synbench/score', .*on_probe_end"),
    "code of each epoch": (EachEpoch, {}, r"`EachEpoch.on_train_epoch_end` reads 'synbench/score', but a .* 25 steps"),
    "a callback of the user's": (Best, {}, r"Best\(monitor='synbench/score'\) may check at the end.*on_probe_end"),
    "early stopping": (
        lambda: EarlyStopping(KEY, mode="max"), {}, r"EarlyStopping\(monitor='synbench/score'\) checks at the end",
    ),
    "a checkpoint at times": (
        lambda: OwnCheckpoint(monitor=KEY, mode="max", train_time_interval=timedelta(seconds=9)), {},
        r"OwnCheckpoint\(monitor='synbench/score'\) saves at intervals of time, .*`OwnCheckpoint\(.*steps=25",
    ),
    "a checkpoint at each validation": (
        lambda: ModelCheckpoint(monitor=KEY, mode="max"), {"val_check_interval": 5, "limit_val_batches": 1},
        r"saves at each validation, every 5 steps, but a probe is made every 25 steps",
    ),
    "a checkpoint in epochs with a validation": (
        lambda: ModelCheckpoint(monitor=KEY, mode="max"), {"check_val_every_n_epoch": 2, "limit_val_batches": 1},
        r"saves every 2 epochs of 10 steps",
    ),
    "the name of a file": (
        lambda: ModelCheckpoint(filename="{epoch}-{synbench/score:.3f}", save_top_k=-1), {},
        r"ModelCheckpoint\(filename='\{epoch\}-\{synbench/score:.3f\}'\) saves every 1 epochs of 10 steps, but a",
    ),
}  # fmt: skip


@pytest.mark.parametrize("row", CONSUMERS)
def test_whoever_may_read_a_stale_value_is_warned_of(row):
    make, arguments, message = CONSUMERS[row]
    consumer = make()
    arguments = {"limit_val_batches": 0, "enable_checkpointing": isinstance(consumer, ModelCheckpoint), **arguments}
    run = trainer(probing(every=25), consumer, max_steps=1, **arguments)
    with pytest.warns(UserWarning, match=message):
        run.fit(Plateau(frequency=9))


def test_values_that_are_fresh_are_read_without_a_warning():
    files = ModelCheckpoint(filename="{synbench/score:.3f}", auto_insert_metric_name=False, save_top_k=-1)
    consumers = [
        Best(),
        Reports(),
        EachEpoch(),
        EachProbe(),
        EarlyStopping(KEY, mode="max"),
        ModelCheckpoint(monitor=KEY, mode="max"),
        files,
    ]
    synbench = SynBenchCallback(every_n_epochs=1, plan=SMALL, log_figures=False)
    assert advice(Autoencoder(), synbench, *consumers, enable_checkpointing=True) == []


def test_an_average_that_is_kept_and_not_probed_is_warned_of_and_can_be_probed_after_the_fit():
    seed_everything(0)
    plan = ProbePlan(forwards=2048)
    model, callback = Autoencoder(), probing(every=5, tasks="dc", encoder="encoder", input_shape=(1, 8, 8), plan=plan)
    average = StochasticWeightAveraging(swa_lrs=0.5, swa_epoch_start=1)
    with pytest.warns(UserWarning, match="not the averages that StochasticWeightAveraging computes.*`evaluate\\(\\)`"):
        trainer(average, callback, max_steps=-1, max_epochs=4).fit(model)
    kept = evaluate(model.encoder, (1, 8, 8), plan=plan)
    trained, end = callback.history[-2:]  # the end is after an epoch in which the averages' BatchNorm is renewed
    assert (trained.step, end.step) == (40, 41)
    assert kept.score() - trained.score() > 0.1
    assert kept.accuracy == end.accuracy


class Manual(Plain):
    """Steps a plateau scheduler by hand, with what it reads under a key."""

    key = "synbench/score"

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 1e-2)
        return [optimizer], [ReduceLROnPlateau(optimizer, mode="max")]


class StepsOnStaleValues(Manual):
    def on_train_batch_end(self, *args):
        self.lr_schedulers().step(self.trainer.callback_metrics.get("synbench/score", 0.0))


class StepsOnTheLoss(Manual):
    def on_train_batch_end(self, *args):
        self.lr_schedulers().step(float(self.trainer.callback_metrics.get("loss", 0.0)))


class ReadsOnly(Manual):
    def on_train_batch_end(self, *args):
        self.trainer.callback_metrics.get("synbench/score", 0.0)


@pytest.mark.parametrize("make", [StepsOnStaleValues, StepsOnTheLoss, ReadsOnly])
def test_a_module_that_steps_a_plateau_by_hand_on_a_stale_value_is_warned(make, recwarn):
    trainer(probing(), max_steps=3).fit(make())
    told = [str(one.message) for one in recwarn if "ReduceLROnPlateau" in str(one.message)]
    if make is StepsOnStaleValues:
        assert len(told) == 1
        assert told[0].startswith(
            "`on_train_batch_end` steps ReduceLROnPlateau and reads 'synbench/score', but a probe is made every 5 steps"
        )
        assert "`on_probe_end(trainer, pl_module, metrics)`" in told[0]
    else:
        assert not told
