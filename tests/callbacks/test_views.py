"""`SynBenchCallback(inputs=..., views=..., labels=...)`, and views that batches hold already."""

import pytest
import torch
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader

from synbench_lightning import SynBenchEarlyStopping, evaluate
from tests.callbacks.runs import SMALL, probing, steps, trainer
from tests.callbacks.test_information import Large, first_batch
from tests.encoders import Autoencoder, Batches
from tests.integration.test_resume import SaveBefore


def jitter(batch):
    return batch + 0.3 * torch.randn_like(batch)


def pair(generator):
    x = torch.randn(1, 8, 8, generator=generator)
    return [x + 0.3 * torch.randn(1, 8, 8, generator=generator) for _ in range(2)] + [torch.zeros(1, 4, 4)]


class Pairs(Autoencoder):
    """Two views of each example and a smaller one, in batches of 20."""

    def train_dataloader(self):
        return DataLoader(Batches(pair, length=80), batch_size=20)


def test_views_and_labels_are_those_of_evaluate_on_the_same_weights():
    model, x = Large(), first_batch()
    labels = (x.mean((1, 2, 3)) > 0).long()
    callback = probing(inputs=x, views=jitter, labels=labels)
    run = trainer(callback, max_steps=10)
    run.fit(model)
    offline = evaluate(model.encoder, (1, 8, 8), tasks="default", plan=SMALL, inputs=x, views=jitter, labels=labels)
    last = callback.history[-1]
    assert (last.information, last.information_kind) == (offline.information, "views")
    assert (last.readout, last.readout_error) == (offline.readout, offline.readout_error)
    assert run.callback_metrics["synbench/readout"] == pytest.approx(offline.readout)
    assert last.settings == offline.settings


def test_pairs_are_taken_from_the_first_batches_and_kept_over_a_resume(caplog):
    callback = probing(inputs="first_batch")
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        trainer(callback, SaveBefore(7), max_steps=10).fit(Pairs())
    assert "the batches hold several views of each example" in caplog.text
    assert "`synbench/information` is about 80 inputs in 2 views each" in caplog.text
    assert "do not compare" not in caplog.text
    assert [result.information_kind for result in callback.history] == [None, "pairs", "pairs"]
    examples = [pair(torch.Generator().manual_seed(index))[:2] for index in range(80)]
    pairs = torch.stack([torch.stack(views) for views in examples]).half().float()
    offline = evaluate(Pairs().encoder, (1, 8, 8), plan=SMALL, inputs=pairs)
    assert callback.history[-1].inputs == offline.inputs

    resumed = probing(inputs="first_batch")
    trainer(resumed, max_steps=20).fit(Pairs(), ckpt_path="saved.ckpt")
    assert steps(resumed) == [0, 5, 10, 15, 20]
    assert {result.inputs for result in resumed.history[1:]} == {offline.inputs}


def test_a_stop_on_information_waits_for_the_views():
    stop = SynBenchEarlyStopping("synbench/information", patience=50)
    trainer(probing(inputs="first_batch"), stop, max_steps=10).fit(Pairs())
    assert stop.best_score > 0


def test_too_few_pairs_are_told_and_training_goes_on():
    class Few(Pairs):
        def train_dataloader(self):
            return DataLoader(Batches(pair, length=20), batch_size=10)

    callback = probing(inputs="first_batch")
    with pytest.warns(UserWarning, match="the first 2 batches hold views of 20 examples, at least 32 are needed"):
        trainer(callback, max_steps=6).fit(Few())
    assert callback.history[-1].information is None


def test_batches_with_one_view_fall_back_to_noise_and_say_so(caplog):
    callback = probing(inputs="first_batch")
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        trainer(callback, max_steps=1).fit(Large())
    assert callback.history[-1].information_kind == "noise"
    assert "the first batch holds no two views of an example" in caplog.text


@pytest.mark.parametrize("arguments", [{"inputs": "first_batch"}, {"views": jitter}])
def test_training_is_the_same_to_the_bit(arguments):
    weights = []
    model_class = Pairs if "views" not in arguments else Large
    for probed in (False, True):
        callbacks = [probing(every=3, **{"inputs": first_batch(), **arguments})] if probed else []
        seed_everything(0)
        model = model_class()
        trainer(*callbacks, max_steps=12).fit(model)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_who_monitors_the_score_is_told_of_the_better_key(caplog):
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        trainer(probing(inputs=first_batch(), views=jitter), SynBenchEarlyStopping(), max_steps=1).fit(Large())
    assert "`synbench/information` is logged too, and is the one to monitor" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"views": jitter}, "`views` needs `inputs`"),
        ({"inputs": torch.randn(40, 4), "views": "crop"}, "`views` must be a function .*, got 'crop'"),
        ({"labels": torch.zeros(40).long()}, r"`labels` of shape \(40,\) need a tensor of `inputs`"),
        ({"inputs": "first_batch", "labels": torch.zeros(40).long()}, "give a pair"),
        ({"inputs": torch.randn(40, 4), "labels": torch.randn(40)}, "`labels` must be integers"),
        (
            {"labels": (torch.randn(40, 4), torch.zeros(40).long().numpy())},
            r"got a ndarray \(int64\) .*as_tensor",
        ),
        ({"inputs": torch.randn(40, 4).numpy()}, r"`inputs` must be a tensor .* ndarray .*torch.as_tensor"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        probing(**arguments)
