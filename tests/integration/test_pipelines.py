"""`SynBenchCallback()` in other people's pipelines: what information is measured on, and that nothing changes."""

from __future__ import annotations

import random
import re
import time
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything

from synbench_lightning import evaluate
from synbench_lightning.callbacks import reread_views
from tests.callbacks.runs import SMALL, probing, trainer
from tests.integration import pipelines
from tests.integration.pipelines import IMAGES, TOKENS, each, masked_tokens
from tests.integration.test_training_unchanged import assert_identical

DATA, STEP = "the dataset or the collate function", "the transfer hooks or the training step"
STREAM = "examples cannot be read again: {} is a stream"
READ = "128 training examples, each read 16 times (random in {})"
PAIRS = "{} training examples in 2 views each, as training fed them to the encoder ({})"
NOISE = "{} training examples with white noise, since {}"
FIXED = "training reads an example without any randomness"

KINDS: dict[type[pipelines.Pipeline], str] = {
    pipelines.InDataset: READ.format(DATA),
    pipelines.TwoViews: READ.format(DATA),
    pipelines.MultiCrop: READ.format(DATA),
    pipelines.MaskedWords: READ.format(DATA),
    pipelines.InCollate: READ.format(DATA),
    pipelines.InTransferHook: READ.format(STEP),
    pipelines.InDataModule: READ.format(STEP),
    pipelines.InStep: READ.format(STEP),
    pipelines.InStepConcatenated: READ.format(STEP),
    pipelines.Combined: READ.format(DATA),
    pipelines.Supervised: READ.format(DATA),
    pipelines.TwoViewStream: PAIRS.format(144, STREAM.format("Stream")),
    pipelines.StreamInStep: PAIRS.format(144, STREAM.format("Stream")),
    pipelines.ShardsInStep: PAIRS.format(144, STREAM.format("Shards")),
    pipelines.PlainStream: NOISE.format(128, STREAM.format("Stream")),
    pipelines.MaskBeside: NOISE.format(128, FIXED),
    pipelines.UnrelatedStreams: NOISE.format(128, STREAM.format("Stream")),
    pipelines.UnrelatedInOneCall: NOISE.format(128, STREAM.format("Stream")),
    pipelines.Workers: READ.format(DATA),
    pipelines.OwnSampler: READ.format(DATA),
    pipelines.OwnGenerator: READ.format(STEP),
    pipelines.MixedInOneCall: READ.format(STEP),
    pipelines.Shuffling: NOISE.format(
        128, "examples cannot be read again: an example that is read again is no nearer to itself than to others"
    ),
    pipelines.Random: NOISE.format(
        128, "examples cannot be read again: an example that is read again is no nearer to itself than to others"
    ),
    pipelines.Counting: NOISE.format(
        128, "examples cannot be read again: the dataset shares a counter or an array with other processes"
    ),
    pipelines.Iterating: NOISE.format(
        128,
        "examples cannot be read again: Iterating.others is an iterator, which cannot be restored once it is advanced",
    ),
}


def fit(make: type[pipelines.Pipeline], *callbacks: Any, **arguments: Any) -> dict[str, Any]:
    """Everything that training left behind."""
    seed_everything(0)
    model = make()
    datamodule = None if make.datamodule is None else make.datamodule()
    run = trainer(*callbacks, **{"max_steps": 12, **arguments})
    run.fit(model, datamodule=datamodule)
    loaders = run.train_dataloader
    loaders = list(loaders.values()) if isinstance(loaders, dict) else [loaders]
    return {
        "weights": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
        "progress": run.fit_loop.epoch_loop.state_dict(),
        "random": (random.random(), float(np.random.rand()), float(torch.rand(()))),
        "data": [one.dataset.state() for one in loaders if hasattr(one.dataset, "state")],
        "datamodule": None if datamodule is None else datamodule.state(),
        "own": model.own() if hasattr(model, "own") else None,
        "modes": [module.training for module in model.modules()],
        "hooks": [len(module._forward_pre_hooks) for module in model.modules()],
    }


def both(make: Any, caplog: Any, callback: Any = None, **arguments: Any) -> tuple[Any, str]:
    """A callback in a run that leaves behind what one without it does, and what it said of the information."""
    callback = probing(every=4, inputs="auto", tasks="dc") if callback is None else callback
    plain = fit(make, **arguments)
    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        probed = fit(make, callback, **arguments)
    assert_identical(plain, probed)
    said = [message for message in caplog.messages if "`synbench/information`" in message]
    return callback, "\n".join(said)


@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_the_views_of_the_run_are_found_and_training_is_identical_to_the_bit(make, caplog):
    callback, said = both(make, caplog)
    assert f"is measured on {KINDS[make]}" in said
    assert callback.history[-1].information > 0


@pytest.mark.parametrize(
    "make",
    [
        pipelines.InDataset, pipelines.TwoViews, pipelines.MultiCrop, pipelines.InCollate, pipelines.InTransferHook,
        pipelines.InDataModule, pipelines.InStep, pipelines.InStepConcatenated, pipelines.Combined,
        pipelines.Supervised, pipelines.MaskedWords,
    ],
    ids=lambda make: make.__name__,
)  # fmt: skip
def test_information_is_that_of_the_same_augmentation_given_as_views(make):
    callback = probing(every=4, inputs="auto", tasks="dc")
    fit(make, callback, max_steps=1)
    seed_everything(0)
    model, arguments = make(), {"inputs": IMAGES[:128], "views": each}
    shape = (3, 8, 8)
    encoder = model.encoder
    if make is pipelines.MaskedWords:
        inputs = {"input_ids": TOKENS[:128], "attention_mask": torch.ones(128, 12).long()}
        arguments = {
            "inputs": inputs, "views": lambda batch: {**batch, "input_ids": masked_tokens(batch["input_ids"])}
        }  # fmt: skip
        shape = None
    given = evaluate(encoder, shape, tasks="dc", plan=SMALL, **arguments)
    found = callback.history[0]
    error = np.hypot(found.information_error, given.information_error)
    assert abs(found.information - given.information) <= 2 * error
    assert given.information_error < 0.2 * given.information


@pytest.mark.parametrize(
    ("arguments", "number"),
    [
        ({"accumulate_grad_batches": 3}, 128),
        ({"overfit_batches": 3}, 48),
        ({"limit_train_batches": 4}, 128),
        ({"precision": "bf16-mixed"}, 128),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:You requested to overfit", "ignore:.*DataLoader.*shuffl")
def test_the_examples_are_those_that_the_trainer_takes(arguments, number, caplog):
    _, said = both(pipelines.InDataset, caplog, **arguments)
    assert f"{number} training examples, each read 16 times" in said


@pytest.mark.parametrize(("limit", "value"), [("READ_SECONDS", 4.0), ("VIEW_BYTES", 8 * 128 * 3 * 64 * 2)])
def test_slow_and_large_examples_are_read_less_often(monkeypatch, caplog, limit, value):
    class Slow(pipelines.Images):
        def __getitem__(self, index):
            time.sleep(3e-3 if limit == "READ_SECONDS" else 0)
            return super().__getitem__(index)

    make = type("Limited", (pipelines.InDataset,), {"dataset": staticmethod(Slow)})
    monkeypatch.setattr(reread_views, limit, value)
    monkeypatch.setattr("synbench_lightning.callbacks.information_inputs.READ_SECONDS", reread_views.READ_SECONDS)
    callback, said = both(make, caplog, callback=probing(every=20, inputs="auto", tasks="dc"))
    fewer = "8" if limit == "VIEW_BYTES" else "[48]"  # by how long it takes
    assert re.search(f"training examples, each read {fewer} times", said)
    assert callback.history[0].information_kind == "views"


def test_examples_that_take_too_long_are_not_read_and_the_log_says_so(monkeypatch, caplog):
    class Slow(pipelines.Images):
        def __getitem__(self, index):
            time.sleep(5e-3)
            return super().__getitem__(index)

    make = type("TooSlow", (pipelines.InDataset,), {"dataset": staticmethod(Slow)})
    monkeypatch.setattr("synbench_lightning.callbacks.information_inputs.READ_SECONDS", 0.05)
    monkeypatch.setattr("synbench_lightning.callbacks.view_collection.READ_SECONDS", 0.05)
    _, said = both(make, caplog)
    assert "with white noise, since examples cannot be read again: a batch of 32 examples takes" in said
