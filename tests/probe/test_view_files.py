"""Views that are made once are the same for every run that is given their file."""

import numpy as np
import pytest
import torch
from torch import nn

from synbench_lightning import SynBenchCallback, evaluate, rank, save_views
from synbench_lightning.probe.view_files import write_views
from synbench_lightning.probe.views import viewed_inputs
from tests.callbacks.runs import SMALL, probing, trainer
from tests.encoders import Autoencoder

SHAPE = (1, 8, 8)
CPU = torch.device("cpu")


def images(number=40):
    return torch.randn(number, *SHAPE, generator=torch.Generator().manual_seed(0))


def shifted(batch):
    return batch + torch.randn(len(batch), 1, 1, 1)


def test_information_from_the_file_is_that_under_the_function():
    save_views("views.pt", images(), shifted, seed=3)
    drawn = evaluate(nn.Flatten(), SHAPE, plan=SMALL, inputs=images(), views=shifted, seed=3)
    given = evaluate(nn.Flatten(), SHAPE, plan=SMALL, views="views.pt", seed=3)
    assert given.information == pytest.approx(drawn.information, rel=1e-6)
    assert given.information_error == pytest.approx(drawn.information_error, rel=1e-6)
    assert (given.information_kind, given.best_key) == ("pairs", "information")


@pytest.mark.parametrize("name", ["views.pt", "views.npy"])
def test_the_callback_and_evaluate_take_a_file_or_the_tensor_itself(name):
    views = save_views("views.pt", images(), shifted)
    if name.endswith("npy"):
        np.save(name, views.numpy())
    found = [evaluate(nn.Flatten(), SHAPE, plan=SMALL, views=given).information for given in (views, name)]
    assert found[0] == found[1] == evaluate(nn.Flatten(), SHAPE, plan=SMALL, inputs=name).information
    callback = SynBenchCallback(views=name)
    assert torch.equal(callback.inputs, views)
    assert callback.views is None


def test_runs_with_different_data_are_comparable_under_one_file():
    save_views("views.pt", images(), shifted)
    histories = {}
    for seed in range(2):
        torch.manual_seed(seed)
        callback = probing(every=5, inputs="auto", views="views.pt", log_figures=False)
        trainer(callback, max_steps=5).fit(Autoencoder())
        histories[f"run {seed}"] = callback.history
    found = rank(histories)
    assert (found.key, found.holds, found.excluded, len(found.ranked)) == ("information", True, {}, 2)
    assert all(one.paired for one in found.ranked)


class Augmenting(Autoencoder):
    def training_step(self, batch, batch_idx):
        return super().training_step([shifted(batch[0])], batch_idx)


def test_a_run_writes_the_views_that_it_has_read_for_the_others():
    callback = probing(every=5, inputs="auto")
    with pytest.raises(ValueError, match="No views of training examples have been read"):
        callback.save_views("views.pt")
    trainer(callback, max_steps=5).fit(Augmenting())
    views = callback.save_views("views.pt")
    assert views.shape == (80, 16, *SHAPE)
    other = probing(every=5, views="views.pt", inputs="auto")
    torch.manual_seed(1)
    trainer(other, max_steps=5).fit(Autoencoder())
    assert other.history[-1].information_kind == "pairs"
    assert torch.equal(torch.load("views.pt", weights_only=True), views)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"views": "nowhere.pt"}, "`views`: nowhere.pt could not be read: FileNotFoundError"),
        ({"inputs": "nowhere.npy"}, "`inputs`: nowhere.npy could not be read: FileNotFoundError"),
        ({"inputs": "weights.pt"}, "`inputs`: weights.pt must contain a tensor, got a dict"),
        ({"views": torch.zeros(40, 8)}, r"`views` must be a tensor \(N, V, \*input_shape\) with at least two views"),
        ({"views": torch.zeros(40, 1, 8)}, r"`views` must be a tensor \(N, V, \*input_shape\) with at least two views"),
        ({"views": "object.pt"}, "`views`: object.pt could not be read: UnpicklingError"),
        ({"views": torch.zeros(40, 2, 8), "inputs": torch.zeros(40, 8)}, "omit `inputs`, or pass a function"),
        ({"views": "augment"}, "`views` must be a function .* a .pt or .npy file of one, or None, got 'augment'"),
    ],
)
def test_files_and_tensors_that_are_no_views_are_refused(arguments, message):
    torch.save({}, "weights.pt")
    torch.save(nn.Flatten(), "object.pt")
    with pytest.raises(ValueError, match=message):
        SynBenchCallback(**arguments)


def test_vectors_and_two_views_of_each_are_enough():
    views = save_views("views.pt", images()[:, 0, 0], lambda batch: batch + torch.randn_like(batch))
    assert views.shape == (40, 32, 8)
    assert torch.equal(SynBenchCallback(views=views[:, :2]).inputs, views[:, :2])


def test_what_has_no_views_is_not_written():
    with pytest.raises(ValueError, match=r"`inputs` must be a tensor \(N, \*input_shape\), got a Tensor"):
        save_views("views.pt", torch.zeros(40), shifted)
    with pytest.raises(ValueError, match="`views` must be a function"):
        save_views("views.pt", images(), None)
    with pytest.raises(ValueError, match="These inputs have no views to save: they are encoded with noise"):
        write_views("views.pt", viewed_inputs(images(), None, SHAPE, 0, torch.device("cpu")))
    with pytest.raises(ValueError, match=r"`inputs` must be a tensor \(N, \*input_shape\), got"):
        save_views("views.pt", {"a": images()}, shifted)
    two = viewed_inputs({"a": images(), "b": images()}, lambda x: {k: shifted(v) for k, v in x.items()}, None, 0, CPU)
    with pytest.raises(ValueError, match="this one takes 2"):
        write_views("views.pt", two)
