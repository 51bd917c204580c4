"""The joined history of an interrupted run is that of the uninterrupted one: no probe twice, none missing."""

import os
import signal

import pytest
from lightning.pytorch import Callback, __version__, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from packaging.version import Version
from torch.utils.data import DataLoader

from synbench_lightning import SynBenchCallback, SynBenchEarlyStopping
from tests.callbacks.runs import SMALL, probing, steps, trainer
from tests.encoders import Autoencoder
from tests.integration.modules import Plain

TAKES_UP_BATCHES = Version(__version__) >= Version("2.5")


class SaveBefore(Callback):
    """Saves when a step has ended, before the callbacks that stand behind it in the list."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            trainer.save_checkpoint("saved.ckpt")


class Terminate(Callback):
    """The signal of a cluster that wants its node back."""

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 13:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("step", [1, 7, 10, 11, 12, 13, 24])
@pytest.mark.parametrize("before", [True, False], ids=["before the probe", "after the probe"])
def test_a_run_resumed_from_any_step_goes_on_with_the_same_steps(step, before):
    first = probing(every=5)
    saving = SaveBefore(step)
    trainer(*([saving, first] if before else [first, saving]), max_steps=30).fit(Plain())
    resumed = probing(every=5)
    trainer(resumed, max_steps=30).fit(Plain(), ckpt_path="saved.ckpt")
    assert steps(resumed) == steps(first) == [0, 5, 10, 15, 20, 25, 30]


def test_the_values_are_those_of_the_uninterrupted_run_to_the_bit():
    class InOrder(Plain):
        def train_dataloader(self):
            return DataLoader(super().train_dataloader().dataset, batch_size=8)

    def fit(callback, **arguments):
        seed_everything(0)
        model = InOrder()
        model.encoder[3].p = 0.0  # a resumed run does not draw dropout where the other did: not the callback's matter
        saving = ModelCheckpoint("epochs", "{epoch}", save_top_k=-1)
        run = trainer(callback, saving, max_steps=-1, max_epochs=3, enable_checkpointing=True)
        run.fit(model, **arguments)

    def values(callback):
        return [(result.step, result.accuracy, result.bound) for result in callback.history]

    whole, resumed = probing(every=5), probing(every=5)
    fit(whole)
    fit(resumed, ckpt_path="epochs/epoch=0.ckpt")
    assert steps(whole) == [0, 5, 10, 15, 20, 25, 30, 35, 36]
    assert values(resumed) == values(whole)


@pytest.mark.skipif(not TAKES_UP_BATCHES, reason="without callbacks too, Lightning's epoch is one batch longer then")
def test_epochs_are_counted_on():
    first = SynBenchCallback(every_n_epochs=2, plan=SMALL)
    trainer(first, SaveBefore(30), max_steps=-1, max_epochs=6).fit(Plain())
    resumed = SynBenchCallback(every_n_epochs=2, plan=SMALL)
    trainer(resumed, max_steps=-1, max_epochs=6).fit(Plain(), ckpt_path="saved.ckpt")
    assert steps(resumed) == steps(first) == [0, 24, 48, 72]


def test_a_run_that_was_terminated_goes_on():
    first = probing(every=5)
    saving = ModelCheckpoint(".", "last", every_n_train_steps=1)
    with pytest.raises(SIGTERMException):
        trainer(first, saving, Terminate(), max_steps=30, enable_checkpointing=True).fit(Plain())
    resumed = probing(every=5)
    saving = ModelCheckpoint(".", "last", every_n_train_steps=1)
    trainer(resumed, saving, max_steps=30, enable_checkpointing=True).fit(Plain(), ckpt_path="last.ckpt")
    assert steps(resumed) == [0, 5, 10, 15, 20, 25, 30]


def test_a_run_that_had_no_callback_is_probed_from_where_it_is_resumed():
    trainer(SaveBefore(7), max_steps=10).fit(Plain())
    for start, expected in ((True, [7, 10, 15, 20]), (False, [10, 15, 20])):
        late = probing(every=5, probe_at_start=start)
        trainer(late, max_steps=20).fit(Plain(), ckpt_path="saved.ckpt")
        assert steps(late) == expected


@pytest.mark.parametrize("changed", [{"seed": 1}, {"tasks": "dc"}, {"plan": "fast"}, {"epsilons": (0.0, 0.1)}])
def test_other_arguments_keep_the_history_and_mark_the_break(changed):
    first = probing(every=5)
    trainer(first, SaveBefore(12), max_steps=15).fit(Autoencoder())
    resumed = probing(every=5, **changed)
    with pytest.warns(UserWarning, match="scores up to step 10, from the checkpoint, were made with other arguments"):
        trainer(resumed, max_steps=20).fit(Autoencoder(), ckpt_path="saved.ckpt")
    assert steps(resumed) == [0, 5, 10, 15, 20]
    assert len({result.settings for result in resumed.history}) == 2


def test_early_stopping_keeps_its_patience_over_a_resume():
    def encoder(module, x):
        return x.flatten(1)[:, :4]  # no probe is better than the first

    def callbacks():
        return [probing(5, encoder=encoder, input_shape=(4,)), SynBenchEarlyStopping(patience=4)]

    trainer(*callbacks(), SaveBefore(12), max_steps=15).fit(Autoencoder())
    resumed = trainer(*callbacks(), max_steps=60)
    resumed.fit(Autoencoder(), ckpt_path="saved.ckpt")
    assert resumed.global_step == 20
