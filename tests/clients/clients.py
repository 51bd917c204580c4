"""Train a client of the callback twice, with and without it, and say what was probed."""

from __future__ import annotations

import logging
import random
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from synbench_lightning import ProbePlan, SynBenchCallback
from tests.integration.test_training_unchanged import assert_identical

PLAN = ProbePlan(forwards=48, num_scales=2)
"""The smallest there is: what is found counts, not its value."""
STEPS = 4
SIZE = 16
"""Examples in a batch: with those of the steps after the first there are enough for information."""
NAMED = re.compile(r"SynBench probes (`\S+`|the `\S+` of \w+)(?:, an? \w+)?(?:, (before|after) its \w+ (`\S+`))?,")
"""In what a run says of the encoder: its name, and where in it the representation is."""
OTHERS = "training also calls "
VIEWS = {
    r"each read \d+ times \(random in ([^)]*)\)": r"read again, random in \1",
    r"in (\d+) parts each": r"\1 parts of a text",
    r"in (\d+) views each": r"\1 views from steps",
    "with white noise": "noise",
    r"information`(?: is measured on .*|:) it is not measured: (.*)": r"none: \1",
}
"""In what a run says of the examples that information is measured on, and what a table says for it."""


@dataclass
class Client:
    """A project that pretrains with Lightning.

    Args:
        name: of the library and the class.
        make: a LightningModule, and batches for it; its weights are drawn in the call.
        encoder: what its maintainer would name, as the log names it.
        shape: of one input of it; ``None`` where there is no place for real vectors, ``...`` for any.
        callbacks: whether callbacks that its package puts into every trainer are kept.
    """

    name: str
    make: Callable[[], tuple[Any, Any]]
    encoder: str
    shape: Any
    callbacks: bool = False

    def __str__(self) -> str:
        return self.name


@dataclass
class Outcome:
    """What a run with the callback has said and found."""

    encoder: str = ""
    shape: tuple[int, ...] | None = None
    steps: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    @property
    def views(self) -> str:
        """What information was measured on."""
        for pattern, said in VIEWS.items():
            for message in self.messages:
                if (match := re.search(pattern, message)) is not None:
                    return match.expand(said)
        return "none"

    def verdict(self, client: Client) -> str:
        """Whether the encoder was found that was expected; else whether the log names it."""
        if self.encoder == client.encoder and client.shape in (..., self.shape):
            return "right"
        others = [message for message in self.messages if OTHERS in message]
        return "told" if any(f"`{client.encoder}`" in message for message in others) else "wrong"


def run(client: Client) -> Outcome:
    """Train with the callback and without it.

    Raises:
        AssertionError: if training differs, or something is left on the module.
    """
    plain, its_state = _trained(client)
    callback = SynBenchCallback(plan=PLAN)
    with _messages() as messages:
        probed, state = _trained(client, callback)
    assert_identical(its_state, state)
    assert [len(part._forward_hooks) for part in plain.modules()] == [len(p._forward_hooks) for p in probed.modules()]
    found = next((match for one in messages if (match := NAMED.search(one))), None)
    encoder = "" if found is None else " ".join(filter(None, found.groups())).replace("`", "")
    shape = callback.history[0].input_shape if callback.history else None
    keys = [key for key in callback.metrics(callback.history[-1]) if key.startswith("synbench/")]
    keys = [key.removeprefix("synbench/") for key in keys if not key.endswith("_se")]
    return Outcome(encoder, shape, [result.step for result in callback.history], keys, messages)


def check(client: Client) -> None:
    """Assert that a client is probed as its maintainer would, and that its training is not changed."""
    outcome = run(client)
    assert outcome.verdict(client) == "right", (outcome.encoder, outcome.shape, outcome.messages)
    assert outcome.steps == [0, STEPS]


def marks(*packages: str) -> list[Any]:
    """The marks of a file of clients; it is skipped where a package is missing."""
    for package in packages:
        pytest.importorskip(package, reason=f"{package} is not installed")
    return [pytest.mark.clients, pytest.mark.filterwarnings("ignore")]


class Rows(Dataset[Any]):
    """Examples that are made once, from a seed, by a function of a generator and a number."""

    def __init__(self, example: Callable[[torch.Generator, int], Any], number: int = SIZE * STEPS) -> None:
        generator = torch.Generator().manual_seed(0)
        self.rows = [example(generator, index) for index in range(number)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


def batches(example: Callable[[torch.Generator, int], Any], size: int = SIZE) -> DataLoader[Any]:
    """Batches of such examples."""
    return DataLoader(Rows(example), batch_size=size)


def images(*shape: int, views: int = 1) -> Callable[[torch.Generator, int], Any]:
    """Examples that are pictures, or lists of views."""

    def example(generator: torch.Generator, index: int) -> Any:
        found = [torch.rand(*shape, generator=generator) for _ in range(views)]
        return found[0] if views == 1 else found

    return example


def tokens(length: int, words: int) -> Callable[[torch.Generator, int], dict[str, Tensor]]:
    """Examples that are token ids with a mask of padding, as tokenizers give them."""

    def example(generator: torch.Generator, index: int) -> dict[str, Tensor]:
        ids = torch.randint(4, words, (length,), generator=generator)
        mask = (torch.arange(length) < length - index % 3).long()
        return {"input_ids": ids * mask, "attention_mask": mask}

    return example


def _trained(client: Client, *callbacks: Any) -> tuple[nn.Module, Any]:
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(0)
    module, loader = client.make()
    package = next(kind.__module__ for kind in type(module).__mro__ if kind.__name__ == "LightningModule")
    trainer = sys.modules[package.rpartition(".core")[0]].Trainer(
        max_epochs=1, callbacks=list(callbacks), logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    if not client.callbacks:  # of stable-pretraining, where it is installed
        trainer.callbacks = [one for one in trainer.callbacks if not type(one).__module__.startswith("stable_")]
    trainer.fit(module, loader)
    states = [module.state_dict(), [one.state_dict() for one in trainer.optimizers], torch.get_rng_state()]
    return module, states


@contextmanager
def _messages() -> Iterator[list[str]]:
    """What the loggers of Lightning say meanwhile."""
    found: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: found.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("lightning_utilities", "lightning.pytorch", "pytorch_lightning")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.addHandler(handler)
        one.setLevel(logging.INFO)
    try:
        yield found
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.removeHandler(handler)
            one.setLevel(level)
