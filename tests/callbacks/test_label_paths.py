"""Which integers of a validation batch are labels, and of how many examples."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from synbench_lightning.callbacks.label_collection import _label_path
from tests.callbacks.runs import probing, trainer
from tests.callbacks.test_label_collection import Validated


def classes(rows, number):
    return torch.arange(rows) % number


@pytest.mark.parametrize(
    ("leaf", "labels"),
    [
        (classes(8, 2), True), (classes(8, 4), True), (classes(8, 5), False), (classes(8, 1), False),
        (classes(9, 4), True), (classes(9, 5), False), (classes(8, 2).to(torch.int8), True), (classes(8, 2) > 0, False),
        (classes(8, 2).float(), False), (classes(8, 2).to(torch.complex64), False), (classes(8, 2)[:, None], False),
        (torch.tensor(3), False),
    ],
)  # fmt: skip
def test_labels_are_integers_of_which_each_comes_twice_on_the_average(leaf, labels):
    x = torch.rand(len(leaf) if leaf.ndim else 1, 3)
    assert _label_path([x, leaf]) == ((1,) if labels else None)
    assert _label_path({"x": x, "y": leaf}) == (("y",) if labels else None)


def test_of_several_the_first_are_taken():
    first, second = classes(8, 2), classes(8, 3)
    assert _label_path([torch.rand(8), torch.arange(8), {"a": first, "b": second}]) == (2, "a")


def labelled(number, loaders=1):
    x = torch.randn(number, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    class Run(Validated):
        def val_dataloader(self):
            first = DataLoader(TensorDataset(x, classes(number, 2)), batch_size=16)
            return first if loaders == 1 else [first, DataLoader(TensorDataset(x[:5]), batch_size=5)][:loaders]

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.encoder(batch[0])

    return Run()


@pytest.mark.parametrize(
    ("number", "loaders", "said"),
    [
        (
            19,
            1,
            "not measured: the validation loader has none: 19 labelled examples of one shape, at least 20 are need",
        ),
        (20, 1, "measured on 20 held-out examples of the validation loader, with `batch[1]` for labels (2 classes)"),
        (20, 2, "measured on 20 held-out examples of the validation loader, with `batch[1]` for labels (2 classes)"),
        (530, 1, "measured on 512 held-out examples of the validation loader, with `batch[1]` for labels (2 classes)"),
    ],
)
def test_twenty_are_needed_and_512_are_taken_from_the_first_loader(number, loaders, said, caplog):
    callback = probing(labels="auto", tasks="dc")
    with caplog.at_level("INFO"):
        trainer(callback, max_steps=1).fit(labelled(number, loaders))
    assert f"`synbench/readout` is {said}" in caplog.text
    assert (callback.history[0].readout is None) == (number == 19)
