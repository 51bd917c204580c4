"""`SynBenchCallback(inputs=...)`: information about unlabelled inputs, beside the score."""

import pytest
import torch
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader

from synbench_lightning import evaluate
from tests.callbacks.runs import SMALL, probing, steps, trainer
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


def test_the_first_batch_is_taken_and_kept_over_a_resume():
    whole, first = probing(inputs="first_batch"), probing(inputs="first_batch")
    model = Large()
    trainer(whole, max_steps=5).fit(model)
    x = first_batch().half().float()
    assert whole.history[-1].inputs == evaluate(model.encoder, (1, 8, 8), plan=SMALL, inputs=x).inputs

    trainer(first, SaveBefore(7), max_steps=10).fit(Large())
    resumed = probing(inputs="first_batch")
    trainer(resumed, max_steps=20).fit(Large(), ckpt_path="saved.ckpt")  # whose first batch is another one
    assert steps(resumed) == [0, 5, 10, 15, 20]
    assert {result.inputs for result in resumed.history} == {whole.history[0].inputs}


def test_inputs_that_were_given_are_not_written_into_checkpoints():
    trainer(probing(inputs=first_batch()), SaveBefore(2), max_steps=3).fit(Large())
    (state,) = torch.load("saved.ckpt", weights_only=True)["callbacks"].values()
    assert state["first_batch"] is None


def test_another_run_takes_its_own_first_batch():
    class Reversed(Large):
        def train_dataloader(self):
            dataset = super().train_dataloader().dataset
            return DataLoader([dataset[index] for index in reversed(range(len(dataset)))], batch_size=40)

    callback = probing(inputs="first_batch")
    trainer(callback, max_steps=2).fit(Large())
    before = callback.history[0].inputs
    trainer(callback, max_steps=2).fit(Reversed())
    assert callback.history[0].inputs != before


def test_training_is_the_same_to_the_bit():
    weights = []
    for callbacks in ([], [probing(every=3, inputs="first_batch")]):
        seed_everything(0)
        model = Large()
        trainer(*callbacks, max_steps=12).fit(model)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_first_batch_that_is_too_small_or_has_no_such_input_is_refused():
    with pytest.raises(ValueError, match="the first batch holds 8 inputs of shape"):
        trainer(probing(inputs="first_batch"), max_steps=2).fit(Autoencoder())
    run = trainer(probing(inputs="first_batch", input_shape=(4,), encoder=lambda module, x: x), max_steps=2)
    with pytest.raises(ValueError, match=r"the first batch holds no input of shape \(4,\)"):
        run.fit(Large())


def test_other_values_are_refused_at_construction():
    with pytest.raises(ValueError, match=r"`inputs` must be a tensor .*, 'first_batch' or None, got 'last_batch'"):
        probing(inputs="last_batch")


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
