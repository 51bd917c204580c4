"""With and without benchmark evaluations, from one seed: the same training, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from synbench_lightning import BenchmarkCallback
from tests.callbacks.runs import probing, steps
from tests.integration import modules
from tests.integration.test_training_unchanged import ROWS, assert_identical, ema, outcome


class Random(Dataset):
    """Examples whose making draws from the global generator, the same ones each time."""

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        torch.rand(3)
        return torch.full((12,), 0.1 * index), index % 2


def tasks() -> dict[str, Dataset]:
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(3))
    return {"sign": TensorDataset(x, (x[:, 0] > 0).long()), "random": Random()}


@pytest.mark.filterwarnings("ignore:Probes measure the weights in training")
@pytest.mark.parametrize("row", ROWS)
def test_training_is_the_same_to_the_bit(row):
    make, arguments = ROWS[row]
    averaging = ema if arguments.get("averaging") else list
    rest = {key: value for key, value in arguments.items() if key != "averaging"}
    callback = BenchmarkCallback(tasks(), 0.3, support=30, warmup=3, audit_every=2, every_n_train_steps=7)
    plain, evaluated = outcome(make, averaging(), **rest), outcome(make, [*averaging(), callback], **rest)
    assert steps(callback)[:2] in ([0, 7], [0, 8])  # two optimizers pass seven at eight
    assert callback.history[-1].num_points < callback.history[0].num_points
    assert_identical(plain, evaluated)


def test_training_is_the_same_to_the_bit_beside_the_score():
    callbacks = [probing(every=5), BenchmarkCallback(tasks(), support=30, every_n_train_steps=4)]
    assert_identical(outcome(modules.Plain, []), outcome(modules.Plain, callbacks))
