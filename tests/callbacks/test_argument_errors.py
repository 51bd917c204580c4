"""Each wrong use ends in an error that says what to do."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from synbench_lightning import BenchmarkCallback, GaussianTask, ProbePlan, SynBenchCallback
from synbench_lightning.callbacks.config_warnings import setup_warnings
from tests.callbacks.runs import probing, trainer
from tests.encoders import Autoencoder, Batches


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"encoder": 3}, "`encoder` must be None, a dotted attribute .* got 3"),
        ({"encoder": nn.Linear(2, 2)}, "`encoder` must not be a module or class itself.*name the attribute"),
        ({"epsilons": 0.2}, "`epsilons` must be a sequence of numbers, got 0.2"),
        ({"epsilons": (0.0, 0.201, 0.204)}, "`epsilons` must differ in their first two decimals"),
        ({"threshold": "0.7"}, "`threshold` must be an accuracy"),
        ({"max_overhead": "0.1"}, "`max_overhead` must be a fraction"),
        ({"every_n_train_steps": True}, "`every_n_train_steps` must be an integer of at least 1, got True"),
        ({"probe_at_start": "no"}, "`probe_at_start` must be True or False, got 'no'"),
        ({"prefix": 5}, "`prefix` must be a non-empty string"),
        ({"input_shape": (3, 0)}, "`input_shape` must be the shape of one example"),
        ({"input_shape": torch.zeros(3)}, "`input_shape` must be the shape of one example"),
        ({"plan": "cheap"}, "`plan` must be 'fast', 'official' or a ProbePlan, got 'cheap'"),
        ({"epsilons": (0.0, 1.0)}, r"`epsilons` must be different numbers in \[0, 1\)"),
        ({"epsilons": (0.2,)}, "`epsilons` must hold 0"),
        ({"threshold": 1.0}, r"`threshold` must be an accuracy in \[0.5, 1\), got 1.0"),
        ({"every_n_train_steps": 0}, "`every_n_train_steps` must be an integer of at least 1, got 0"),
        ({"every_n_train_steps": 2.5}, "`every_n_train_steps` must be an integer of at least 1, got 2.5"),
        ({"every_n_epochs": 0}, "`every_n_epochs` must be an integer of at least 1, got 0"),
        ({"max_overhead": 0.0}, r"`max_overhead` must be a fraction in \(0, 1\] or None, got 0.0"),
        ({"max_overhead": 5}, "`max_overhead`"),
        ({"batch_size": -1}, "`batch_size` must be an integer of at least 1, got -1"),
        ({"seed": 1.5}, "`seed` must be an integer of at least 0, got 1.5"),
        ({"prefix": ""}, "`prefix` must be a non-empty string without '/'"),
        ({"prefix": "a/b"}, "`prefix` must be a non-empty string without '/'"),
        (
            {"inputs": np.zeros((40, 1, 8, 8))},
            r"`inputs` must be 'auto', a tensor .* got a ndarray \(float64\)",
        ),
        (
            {"batch_size": torch.zeros(500)},
            r"`batch_size` must be an integer .* got a Tensor \(torch.float32\) of",
        ),
        ({"on_error": "ignore"}, "`on_error` must be 'warn' or 'raise', got 'ignore'"),
    ],
)
def test_at_construction(arguments, message):
    with pytest.raises(ValueError, match=message):
        SynBenchCallback(**arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"tasks": GaussianTask("a", torch.ones(1, 8, 8))}, ValueError, "`tasks` must be .* sequence of GaussianTask"),
        ({"tasks": None}, ValueError, "`tasks` must be .* sequence of GaussianTask, at least one, .* got None"),
        ({"normalize": (float("nan"), 1.0)}, ValueError, "`normalize`: std must be positive and both finite"),
        ({"plan": ProbePlan(max_scale=0.4)}, ValueError, "best possible accuracy is 0.655, below the threshold 0.7"),
        ({"encoder": "trunk"}, ValueError, "`encoder='trunk'` does not exist.*children are 'encoder', 'decoder'"),
        ({"encoder": "encoder.9"}, ValueError, r"'encoder' has no attribute '9'. Its children are '0', '1'"),
        (
            {"tasks": "hard"},
            ValueError,
            "`tasks` must be 'default', 'dc', .* or a sequence of GaussianTask, got 'hard'",
        ),
        ({"tasks": [GaussianTask("a", torch.ones(3))]}, ValueError, r"task 'a' has shape \(3,\).*shape \(1, 8, 8\)"),
        ({"normalize": ((0.5, 0.5), (1.0, 1.0))}, ValueError, "mean must be a number or 1 numbers"),
        (
            {"input_shape": (3, 32, 32)},
            RuntimeError,
            r"encoder failed .* \(256, 3, 32, 32\).*shapes cannot be multiplied",
        ),
        ({"encoder": lambda module, x: (len(x), x[0])}, TypeError, r"returned a tuple of int, Tensor\(1, 8, 8\)"),
        ({"encoder": lambda module, x: x.argmax(-1)}, ValueError, "returned a tensor of torch.int64"),
        ({"encoder": lambda module, x: x.mean()}, ValueError, r"returned a tensor of shape \(\)"),
        ({"encoder": lambda module, x: x.flatten(1).to_sparse()}, ValueError, "layout torch.sparse_coo: make it dense"),
        (
            {"encoder": lambda module, x: torch.nested.nested_tensor(list(x.flatten(1)), layout=torch.jagged)},
            ValueError,
            "returned a nested tensor: pad it",
        ),
        ({"encoder": lambda module, x: None}, TypeError, "The encoder returned a NoneType"),
        (
            {"encoder": lambda module, x: x.flatten(1) * 1e-20},
            ValueError,
            "features reach [0-9]e-20, whose square",
        ),
        (
            {"encoder": lambda module, x: x.flatten(1) * 1e20},
            ValueError,
            r"features reach [0-9]e\+20, whose square",
        ),
        ({"encoder": lambda module, x: x.flatten(1) * torch.nan}, ValueError, "features are NaN or infinite"),
    ],
)
def test_before_the_first_step(arguments, error, message):
    with pytest.raises(error, match=message):
        trainer(SynBenchCallback(**arguments)).fit(Autoencoder())


def test_token_ids_that_nothing_makes_vectors_of():
    class Ids(Autoencoder):
        def __init__(self):
            super().__init__()
            self.encoder = Counts()

        def training_step(self, batch, batch_idx):
            return self.encoder(batch["input_ids"]).square().mean()

        def train_dataloader(self):
            return DataLoader(Batches(lambda g: {"input_ids": torch.ones(6).long(), "labels": 1}), batch_size=8)

    class Counts(nn.Linear):
        def __init__(self):
            super().__init__(10, 4)

        def forward(self, ids):
            return super().forward(nn.functional.one_hot(ids, 10).sum(1).float())

    callback = probing(every=2)
    with pytest.warns(UserWarning, match="nothing in it takes real vectors"):
        trainer(callback, max_steps=4).fit(Ids())
    assert callback.history == []


def test_no_encoder_at_all():
    class Nothing(BoringModel):
        forward = LightningModule.forward

        def training_step(self, batch, batch_idx):
            return self.layer.weight.square().mean()

    with pytest.raises(ValueError, match=r"No encoder was found in Nothing.*one of 'layer' or a callable"):
        trainer(SynBenchCallback(), limit_val_batches=0).fit(Nothing())


class Unrepeatable(Autoencoder):
    """Its encoder returns something else in each call, and nothing in it is an encoder by itself."""

    def __init__(self):
        super().__init__()

        class Drawing(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.ones(8))

            def forward(self, x):
                return (x * self.weight * torch.tensor(list(os.urandom(8)))).flatten(1)

        self.encoder = Drawing()

    def training_step(self, batch, batch_idx):
        return self.decoder(self.encoder(batch[0])[:, :16]).square().mean()


def test_an_encoder_that_does_not_do_again_what_it_did():
    message = "No encoder was found: training called `encoder`, and repeating these calls returned different outputs"
    model = Unrepeatable()
    with pytest.raises(ValueError, match=message):
        trainer(SynBenchCallback(inputs=None)).fit(model)
    assert not any(part._forward_hooks for part in model.modules())


def test_a_named_encoder_that_training_does_not_call_is_told_with_what_it_calls():
    model = Autoencoder()
    model.backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    for arguments in ({}, {"input_shape": (1, 8, 8)}):
        with pytest.warns(UserWarning, match=r"did not call `encoder='backbone'`. It called `encoder`"):
            trainer(probing(encoder="backbone", **arguments), max_steps=2).fit(model)


def test_an_encoder_that_is_not_initialised_before_the_first_batch():
    model = Autoencoder()
    model.encoder = nn.Sequential(nn.Flatten(), nn.LazyLinear(16))
    with pytest.raises(ValueError, match=r"'encoder.1.weight' is not initialized yet.*run one batch"):
        trainer(SynBenchCallback(encoder="encoder", input_shape=(1, 8, 8))).fit(model)


@pytest.mark.parametrize(
    ("second", "names"),
    [("synbench", "SynBenchCallback and SynBenchCallback"), ("benchmark", "SynBenchCallback and Ben")],
)
def test_two_callbacks_with_one_prefix(second, names):
    x = torch.randn(40, 1, 8, 8)
    others = {
        "synbench": lambda: probing(prefix="mine"),
        "benchmark": lambda: BenchmarkCallback(
            {"a": TensorDataset(x, torch.arange(40) % 2)}, support=20, prefix="mine"
        ),
    }
    run = trainer(probing(prefix="mine"), others[second](), max_steps=1)
    with pytest.raises(ValueError, match=f"{names}.* of one trainer have the same `prefix='mine'`.*its own `prefix=`"):
        run.fit(Autoencoder())


def test_a_monitored_key_that_is_not_logged_is_told_with_the_one_that_is():
    checkpoint = ModelCheckpoint(monitor="synbench/scores", mode="max", every_n_train_steps=5)
    run = trainer(probing(), checkpoint, max_steps=1, enable_checkpointing=True)
    with pytest.warns(UserWarning, match=r"'synbench/scores'\): that key is not logged.*Did you mean 'synbench/score'"):
        run.fit(Autoencoder())


def test_a_checkpoint_that_would_keep_the_worst_weights():
    checkpoint = ModelCheckpoint(monitor="synbench/score", every_n_train_steps=5)
    run = trainer(probing(), checkpoint, max_steps=1, enable_checkpointing=True)
    with pytest.warns(UserWarning, match=r"ModelCheckpoint\(monitor='synbench/score', mode='min'\) prefers low scores"):
        run.fit(Autoencoder())


@pytest.mark.skipif(not hasattr(lightning_callbacks, "EMAWeightAveraging"), reason="since Lightning 2.6")
def test_averaged_weights_are_said_not_to_be_the_ones_that_are_probed():
    run = trainer(lightning_callbacks.EMAWeightAveraging(), probing(), max_steps=1)
    with pytest.warns(UserWarning, match="Probes measure the weights in training, not the averages that EMAWeight"):
        run.fit(Autoencoder())


class ScheduleFree(torch.optim.SGD):
    """Has the weights of evaluation in its state, as optimizers without a schedule do."""

    def train(self):
        pass

    def eval(self):
        pass


class WithoutASchedule(Autoencoder):
    def configure_optimizers(self):
        return ScheduleFree(self.parameters(), 1e-2)


class OwnAverage(lightning_callbacks.Callback):
    def __init__(self):
        self.average = AveragedModel(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("make", "callbacks", "message"),
    [
        (WithoutASchedule, (), r"the averages that ScheduleFree computes. Its `eval\(\)` sets these"),
        (Autoencoder, (OwnAverage(),), "the averages that OwnAverage computes. .*pass `encoder=` a function"),
    ],
)
def test_averages_wherever_they_are_kept_are_said_not_to_be_probed(make, callbacks, message):
    with pytest.warns(UserWarning, match=f"Probes measure the weights in training, not {message}"):
        trainer(*callbacks, probing(), max_steps=1).fit(make())


def test_a_strategy_that_was_never_tried_is_told_before_the_first_step():
    assert list(setup_warnings(trainer(probing(), max_steps=1))) == []
    strategy = DeepSpeedStrategy.__new__(DeepSpeedStrategy)  # its constructor asks for the package
    [advice] = setup_warnings(SimpleNamespace(strategy=strategy, callbacks=[], optimizers=[]))
    assert "is untested with DeepSpeedStrategy" in advice
