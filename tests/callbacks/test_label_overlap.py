"""A warning where labels are of examples that the run is trained on."""

import copy
import warnings

import pytest
import torch
from torch.utils.data import DataLoader

from synbench_lightning.callbacks.label_overlap import WATCHED, LabelOverlap
from tests.callbacks.runs import probing, trainer
from tests.encoders import Autoencoder


def training_examples(module):
    return torch.stack([module.train_dataloader().dataset[index][0] for index in range(80)])


def warned(module, labels, **arguments):
    callback = probing(every=10, labels=labels, **arguments)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        trainer(callback, max_steps=10).fit(module)
    assert callback.history[-1].readout is not None
    return [str(one.message) for one in found if "inputs of `labels` are in" in str(one.message)]


def test_labels_of_training_examples_are_warned_of_once():
    module = Autoencoder()
    (words,) = warned(module, (training_examples(module)[:40], torch.arange(40) % 2))
    assert "of the 40 inputs of `labels` are in the first batch of training" in words
    assert "give held-out labeled examples (their labels may be noisy)" in words


def test_labels_of_inputs_that_are_trained_on_too():
    module = Autoencoder()
    assert len(warned(module, torch.arange(40) % 2, inputs=training_examples(module)[:40])) == 1


def test_held_out_labels_and_changed_inputs_give_none():
    module = Autoencoder()
    x = training_examples(module)[:40]
    assert warned(copy.deepcopy(module), (torch.randn(40, 1, 8, 8), torch.arange(40) % 2)) == []
    assert warned(module, (x + 1e-6, torch.arange(40) % 2)) == []


class WithValidation(Autoencoder):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch[0], batch_idx)

    def validation_step(self, batch, batch_idx):
        self.encoder(batch[0][0])

    def train_dataloader(self):
        generator = torch.Generator().manual_seed(0)
        x, y = torch.randn(80, 1, 8, 8, generator=generator), torch.arange(80) % 2
        return DataLoader([((x[index],), y[index]) for index in range(80)], batch_size=8, shuffle=True)

    val_dataloader = train_dataloader


def test_a_validation_loader_of_training_examples_is_found_too():
    assert len(warned(WithValidation(), "auto")) == 1


def test_training_is_the_same_and_the_batches_are_not_kept():
    weights = []
    for labels in (None, "of training"):
        torch.manual_seed(0)
        module = Autoencoder()
        if labels is not None:
            labels = (training_examples(module)[:40], torch.arange(40) % 2)
        torch.manual_seed(0)
        callback = probing(every=10, labels=labels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer(callback, max_steps=10).fit(module)
        weights.append([value.clone() for value in module.state_dict().values()])
        assert callback._label_overlap is None
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


def test_one_duplicate_is_chance_and_some_batches_are_enough():
    x = torch.randn(200, 8)
    overlap = LabelOverlap(x)
    assert overlap.see([x[:1], x[:1]]) is None
    assert overlap.see(x[:2]) is None  # one in a hundred, by now
    assert "3 of the 200 inputs of `labels` are in the first 3 batches" in overlap.see({"x": x[2:3]})
    assert overlap.see(x) is None  # said once
    late = LabelOverlap(x)
    assert all(late.see(torch.randn(4, 8)) is None for _ in range(WATCHED))
    assert late.see(x) is None


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float64, torch.float32])
def test_the_largest_tensor_of_a_structure_is_compared_whatever_its_type(dtype):
    x = torch.randint(0, 250, (50, 12), generator=torch.Generator().manual_seed(0))
    overlap = LabelOverlap({"ids": x, "mask": torch.ones(50, 3)})
    assert "50 of the 50" in overlap.see((x.to(dtype), torch.ones(50)))


def test_inputs_that_share_the_values_that_are_compared_first_are_compared_whole():
    x = torch.zeros(40, 1000)
    x[:, 7] = torch.arange(40)  # none of the first
    other = torch.zeros(40, 1000)
    other[:, 7] = 0.5
    overlap = LabelOverlap(x)
    assert overlap.see(other) is None
    assert "40 of the 40" in overlap.see(x.clone())


@pytest.mark.parametrize("inputs", [[torch.ones(3, 2)], torch.arange(4), {}])
def test_inputs_of_other_kinds_are_not_looked_for(inputs):
    assert LabelOverlap(inputs).see(torch.ones(3, 2)) is None


@pytest.mark.parametrize(("number", "seen", "warned"), [(40, 1, False), (40, 2, True), (300, 3, False), (300, 4, True)])
def test_one_in_a_hundred_may_be_a_duplicate_and_one_in_any_case(number, seen, warned):
    x = torch.randn(number, 6, generator=torch.Generator().manual_seed(0))
    assert (LabelOverlap(x).see(x[:seen].clone()) is not None) == warned


def test_a_negative_zero_is_a_zero():
    x = torch.randn(40, 6, generator=torch.Generator().manual_seed(0))
    x[:, ::2] = 0.0
    batch = x.clone()
    batch[:, ::2] = -0.0
    assert "40 of the 40 inputs" in LabelOverlap(x).see(batch)
