"""`SynBenchCallback(inputs=...)`: information about unlabelled inputs, beside the score."""

import pytest
import torch
from torch.utils.data import DataLoader

from synbench_lightning import evaluate
from tests.callbacks.runs import SMALL, probing, trainer
from tests.encoders import Autoencoder
from tests.integration.test_resume import SaveBefore


class Large(Autoencoder):
    """Batches of 40, in the same order in every run."""

    def train_dataloader(self):
        return DataLoader(super().train_dataloader().dataset, batch_size=40)


def first_batch():
    return next(iter(Large().train_dataloader()))[0]


def information(callback):
    return [result.information for result in callback.history]


def test_it_is_logged_and_is_that_of_evaluate_on_the_same_weights():
    model, x = Large(), first_batch()
    callback = probing(inputs=x)
    run = trainer(callback, max_steps=10)
    run.fit(model)
    offline = evaluate(model.encoder, (1, 8, 8), tasks="default", plan=SMALL, inputs=x)
    assert callback.history[-1].information == offline.information
    assert run.callback_metrics["synbench/information"] == pytest.approx(offline.information)
    assert run.callback_metrics["synbench/information_se"] == pytest.approx(offline.information_error)


def test_inputs_that_were_given_are_not_written_into_checkpoints():
    trainer(probing(inputs=first_batch()), SaveBefore(2), max_steps=3).fit(Large())
    (state,) = torch.load("saved.ckpt", weights_only=True)["callbacks"].values()
    assert state["views"] is None


@pytest.mark.parametrize(("given", "said"), [("last_batch", ""), ("first_batch", ": 'auto' takes views from")])
def test_other_values_are_refused_at_construction(given, said):
    with pytest.raises(ValueError, match=f"`inputs` must be 'auto', inputs .*or None, got '{given}'{said}"):
        probing(inputs=given)


def test_a_fall_is_told_of_the_information_where_it_is_measured(caplog):
    class Forgetting(Large):
        """Loses what it knows about inputs while its loss falls."""

        def training_step(self, batch, batch_idx):
            with torch.no_grad():
                self.encoder[5].weight[1:] *= 0.5
            return super().training_step(batch, batch_idx) * 0 + 1 / (1 + self.global_step)

    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        trainer(probing(every=5, inputs=first_batch()), max_steps=20).fit(Forgetting())
    assert sum("the information has fallen" in message for message in caplog.messages) == 1
    assert "the score has fallen" not in caplog.text
