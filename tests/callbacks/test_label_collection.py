"""`SynBenchCallback(labels="auto")`: held-out labels of the validation loader."""

import pytest
import torch
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader, TensorDataset

from synbench_lightning import evaluate
from tests.callbacks.runs import SMALL, probing, trainer
from tests.encoders import Autoencoder

X = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(3))
Y = (X.mean((1, 2, 3)) > 0).long()


class Validated(Autoencoder):
    """A validation loader with row numbers, which are no labels, before the classes."""

    def val_dataloader(self):
        return DataLoader(TensorDataset(X, torch.arange(60), Y), batch_size=16)

    def validation_step(self, batch, batch_idx):
        self.log("seen", self.encoder(batch[0]).mean())


def test_they_are_those_of_the_validation_loader_and_the_log_says_which(caplog):
    model, callback = Validated(), probing(labels="auto")
    with caplog.at_level("INFO"):
        trainer(callback, max_steps=5).fit(model)
    assert "`synbench/readout` is measured on 60 held-out examples of the validation loader" in caplog.text
    assert "`batch[2]` for labels (2 classes)" in caplog.text
    offline = evaluate(model.encoder, (1, 8, 8), plan=SMALL, labels=(X.half().float(), Y))  # whatever the order
    assert callback.history[-1].readout == pytest.approx(offline.readout, abs=1e-4)


def test_two_runs_have_the_same_ones():
    first, second = (probing(labels="auto") for _ in range(2))
    for callback in (first, second):
        trainer(callback, max_steps=1).fit(Validated())
    assert first.history[0].labels == second.history[0].labels


def test_without_a_validation_loader_or_labels_in_it_there_is_no_readout_and_the_log_says_why(caplog):
    class Unlabelled(Validated):
        def val_dataloader(self):
            return DataLoader(TensorDataset(X, torch.arange(60)), batch_size=16)

    with caplog.at_level("INFO"):
        for model, why in ((Autoencoder(), "there is no validation loader"), (Unlabelled(), "has none")):
            callback = probing(labels="auto")
            trainer(callback, max_steps=1).fit(model)
            assert callback.history[0].readout is None
            assert f"`synbench/readout` is not measured: {why}" in caplog.text.replace("the validation loader ", "")


def test_training_and_validation_are_the_same_bit_for_bit():
    found = []
    for callbacks in ([], [probing(every=2, labels="auto")]):
        seed_everything(0)
        model = Validated()
        run = trainer(*callbacks, max_steps=12)
        run.fit(model)
        found.append((model.state_dict(), torch.get_rng_state(), run.callback_metrics["seen"]))
    (plain, state, seen), (probed, its_state, its_seen) = found
    assert all(torch.equal(plain[name], probed[name]) for name in plain)
    assert torch.equal(state, its_state)
    assert seen == its_seen
