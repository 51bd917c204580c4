"""`SynBenchCallback(inputs=..., views=..., labels=...)`."""

import pytest
import torch
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader, IterableDataset

from synbench_lightning import SynBenchEarlyStopping, evaluate
from tests.callbacks.runs import SMALL, probing, trainer
from tests.callbacks.test_information import Large, first_batch
from tests.encoders import Autoencoder


def jitter(batch):
    return batch + 0.3 * torch.randn_like(batch)


class Stream(IterableDataset):
    """Two views of each of 80 examples, and a smaller one."""

    def __iter__(self):
        for index in range(80):
            generator = torch.Generator().manual_seed(index)
            x = torch.randn(1, 8, 8, generator=generator)
            yield [x + 0.3 * torch.randn(1, 8, 8, generator=generator) for _ in range(2)] + [torch.zeros(1, 4, 4)]


class Pairs(Autoencoder):
    """A stream of views in batches of 20, of which the encoder is given two."""

    def training_step(self, batch, batch_idx):
        return super().training_step(batch[:1], batch_idx) + super().training_step(batch[1:], batch_idx)

    def train_dataloader(self):
        return DataLoader(Stream(), batch_size=20)


@pytest.mark.filterwarnings("ignore:.*inputs of `labels` are in the first batch of training")
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


def test_training_is_the_same_to_the_bit():
    weights = []
    for callbacks in ([], [probing(every=3, inputs=first_batch(), views=jitter)]):
        seed_everything(0)
        model = Large()
        trainer(*callbacks, max_steps=12).fit(model)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_who_monitors_the_score_is_told_of_the_better_key(caplog):
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        trainer(probing(inputs=first_batch(), views=jitter), SynBenchEarlyStopping(), max_steps=1).fit(Large())
    assert "Monitor `synbench/information` instead, which is also logged" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"views": jitter}, "`views` needs `inputs`"),
        ({"inputs": torch.randn(40, 4), "views": "crop"}, "`views` must be a function .*, got 'crop'"),
        ({"labels": torch.zeros(40).long()}, r"`labels` of shape \(40,\) need a tensor of `inputs`"),
        ({"inputs": "auto", "labels": torch.zeros(40).long()}, "pass a pair"),
        ({"inputs": torch.randn(40, 4), "labels": torch.randn(40)}, "`labels` must be integers"),
        (
            {"labels": (torch.randn(40, 4), torch.zeros(40).long().numpy())},
            r"got a ndarray \(int64\) .*as_tensor",
        ),
        ({"inputs": torch.randn(40, 4).numpy()}, r"`inputs` must be .* a tensor .* ndarray .*torch.as_tensor"),
    ],
)
def test_wrong_arguments_are_refused_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        probing(**arguments)
