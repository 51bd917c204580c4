"""How long it takes from `fit` to the first logged values: with nothing, with views that are given, with the default.

    python -m tests.performance.first_number

The run is that of `examples/pretrain_digits.py` in short: pictures of 8 x 8, augmented in the step or in the dataset, a
CNN of some layers, and the default plan. The ways are measured in turn; ratios are within a turn, their spread is over
the turns.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from synbench_lightning import SynBenchCallback
from tests.performance.tables import print_table


def digits() -> Tensor:
    return torch.as_tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1


def augment(x: Tensor) -> Tensor:
    """Shifts, scales and noise, another one for each picture."""
    number = len(x)
    shifts = torch.randint(-1, 2, (number, 2))
    moved = torch.stack([one.roll(tuple(shift.tolist()), (1, 2)) for one, shift in zip(x, shifts, strict=True)])
    return moved * (0.7 + 0.6 * torch.rand(number, 1, 1, 1)) + 0.3 * torch.randn_like(x)


class InDataset(Dataset[Tensor]):
    """Pictures that are augmented one by one."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        return [augment(self.images[index : index + 1])[0]]


class Contrastive(LightningModule):
    """Two views of a picture are to be alike."""

    def __init__(self, in_step: bool) -> None:
        super().__init__()
        self.in_step = in_step
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(64, 64, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.Linear(64, 32)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        views = [augment(batch[0]), augment(batch[0])] if self.in_step else [batch[0], batch[0].flip(3)]
        one, other = (nn.functional.normalize(self.head(self.encoder(view)), dim=1) for view in views)
        return nn.functional.cross_entropy(one @ other.T / 0.2, torch.arange(len(one)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-3)


class FirstValue(Callback):
    """The time of the first logged value."""

    def __init__(self) -> None:
        self.seconds: float | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.start = time.perf_counter()

    def on_probe_end(self, trainer: Trainer, pl_module: LightningModule, metrics: Any) -> None:
        self.seconds = self.seconds or time.perf_counter() - self.start


def seconds_to_first_value(in_step: bool, arguments: dict[str, Any]) -> float:
    seed_everything(0, verbose=False)
    images, first = digits(), FirstValue()
    synbench = SynBenchCallback(every_n_train_steps=1000, probe_at_end=False, log_figures=False, **arguments)
    trainer = Trainer(
        max_steps=2, callbacks=[synbench, first], logger=False, accelerator="cpu", enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    data = TensorDataset(images) if in_step else InDataset(images)
    trainer.fit(Contrastive(in_step), DataLoader(data, batch_size=128, shuffle=True))
    assert first.seconds is not None
    return first.seconds


def rows(turns: int) -> Iterator[list[Any]]:
    given = {"inputs": digits()[:128], "views": augment}
    ways = {"inputs=None": {"inputs": None}, "inputs=images[:128], views=augment": given, "the default": {}}
    for where in ("in the step", "in the dataset"):
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(turns + 1):
            for name, arguments in ways.items():
                taken[name].append(seconds_to_first_value(where == "in the step", arguments))
        of_given = taken["inputs=images[:128], views=augment"][1:]  # the first turn loads libraries
        for name, times in taken.items():
            ratios = [own / other for own, other in zip(times[1:], of_given, strict=True)]
            median = statistics.median(ratios)
            yield [
                where,
                name,
                f"{statistics.median(times[1:]):.2f}",
                f"{median:.2f}",
                f"{min(ratios):.2f}..{max(ratios):.2f}",
            ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore")
    print_table("augmentation | arguments | seconds | ratio to given views | over the turns", rows(chosen.turns))


if __name__ == "__main__":
    main()
