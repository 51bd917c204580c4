"""Each wrong use ends in an error that says what to do."""

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import nn
from torch.utils.data import DataLoader

from synbench_lightning import GaussianTask, SynBenchCallback
from tests.callbacks.runs import trainer
from tests.encoders import Autoencoder, Batches


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": 3}, "`encoder` must be None, a dotted attribute .* got a int"),
        ({"input_shape": (3, 0)}, "`input_shape` must be the shape of one example"),
        ({"input_shape": torch.zeros(3)}, "`input_shape` must be the shape of one example"),
        ({"plan": "cheap"}, "`plan` must be 'fast', 'official' or a ProbePlan, got 'cheap'"),
        ({"epsilons": (0.0, 1.0)}, r"`epsilons` must be different numbers in \[0, 1\)"),
        ({"epsilons": (0.2,)}, "`epsilons` must hold 0"),
        ({"threshold": 1.0}, r"`thresholds` must be accuracies in \[0.5, 1\)"),
        ({"every_n_train_steps": 0}, "`every_n_train_steps` must be an integer of at least 1, got 0"),
        ({"every_n_train_steps": 2.5}, "`every_n_train_steps` must be an integer of at least 1, got 2.5"),
        ({"every_n_epochs": 0}, "`every_n_epochs` must be an integer of at least 1, got 0"),
        ({"max_overhead": 0.0}, r"`max_overhead` must be a fraction in \(0, 1\] or None, got 0.0"),
        ({"max_overhead": 5}, "`max_overhead`"),
        ({"batch_size": -1}, "`batch_size` must be a positive integer, got -1"),
        ({"seed": 1.5}, "`seed` must be an integer of at least 0, got 1.5"),
        ({"prefix": ""}, "`prefix` must be a non-empty text without '/'"),
        ({"prefix": "a/b"}, "`prefix` must be a non-empty text without '/'"),
        ({"on_error": "ignore"}, "`on_error` must be 'warn' or 'raise', got 'ignore'"),
    ],
)
def test_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        SynBenchCallback(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"encoder": "trunk"}, ValueError, "`encoder='trunk'` does not exist.*children are 'encoder', 'decoder'"),
        ({"encoder": "encoder.9"}, ValueError, r"'encoder' has no attribute '9'. Its children are '0', '1'"),
        ({"tasks": "hard"}, ValueError, "`tasks` must be 'dc', 'default' or a sequence of GaussianTask, got 'hard'"),
        ({"tasks": [GaussianTask("a", torch.ones(3))]}, ValueError, r"task 'a' has shape \(3,\).*shape \(1, 8, 8\)"),
        ({"normalize": ((0.5, 0.5), (1.0, 1.0))}, ValueError, "mean must be a number or 1 numbers"),
        (
            {"input_shape": (3, 32, 32)},
            RuntimeError,
            r"encoder failed .* \(256, 3, 32, 32\).*shapes cannot be multiplied",
        ),
        ({"encoder": lambda module, x: (x, x)}, TypeError, r"returned a tuple of Tensor\(256, 1, 8, 8\)"),
        ({"encoder": lambda module, x: x.argmax(-1)}, ValueError, "returned a tensor of torch.int64"),
        ({"encoder": lambda module, x: x.mean()}, ValueError, r"returned a tensor of shape \(\)"),
        ({"encoder": lambda module, x: x.flatten(1) * torch.nan}, ValueError, "features are NaN or infinite"),
    ],
)
def test_before_the_first_step(arguments, error, message):
    with pytest.raises(error, match=message):
        trainer(SynBenchCallback(**arguments)).fit(Autoencoder())


def test_token_ids_as_inputs():
    class Tokens(Autoencoder):
        def train_dataloader(self):
            return DataLoader(Batches(lambda g: {"input_ids": torch.ones(6).long(), "labels": 1}), batch_size=8)

    message = r"`input_shape` could not be read off the first training batch.*int64\(8, 6\), int64\(8,\).*inputs_embeds"
    with pytest.raises(ValueError, match=message):
        trainer(SynBenchCallback()).fit(Tokens())


def test_no_encoder_at_all():
    class Nothing(BoringModel):
        forward = LightningModule.forward

    with pytest.raises(ValueError, match=r"No encoder was found in Nothing.*one of 'layer' or a callable"):
        trainer(SynBenchCallback()).fit(Nothing())


def test_an_encoder_that_needs_more_arguments():
    class Two(nn.Module):
        def forward(self, x, mask):
            return x

    model = Autoencoder()
    model.encoder = Two()
    with pytest.raises(RuntimeError, match=r"missing 1 required positional argument: 'mask'.*pass a callable"):
        trainer(SynBenchCallback()).fit(model)
