"""What `max_overhead` holds a run's probes to.

python -m tests.performance.overhead [--seconds 120] [--shares 0.01 0.05 0.2] [--every 20] [--forwards 1024]

One run for each share, and one without a limit, of a small convolutional network for some time, with a probe due every
few steps. The last column is the time of all probes, the first included, over that of the whole fit. The first probe
is made in any case: a run must last so many times longer than it as the share says.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from datetime import timedelta

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from synbench_lightning import ProbePlan, SynBenchCallback
from tests.encoders import encoder_a
from tests.performance.tables import print_table


class Classifier(LightningModule):
    """A convolutional network that learns noise."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = encoder_a()
        self.head = nn.Linear(128, 10)

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self.head(self.encoder(x)), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--shares", nargs="+", type=float, default=[0.01, 0.05, 0.2])
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--forwards", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    header = "max_overhead | seconds | steps | probes due | probes made | seconds of one | share of the time"
    print_table(header, rows([*given.shares, None], given.seconds, given.every, given.forwards))


def rows(shares: Sequence[float | None], seconds: int, every: int, forwards: int) -> Iterator[Sequence[object]]:
    generator = torch.Generator().manual_seed(0)
    examples = TensorDataset(torch.randn(2048, 3, 32, 32, generator=generator), torch.arange(2048) % 10)
    for share in shares:
        synbench = SynBenchCallback(every_n_train_steps=every, max_overhead=share, plan=ProbePlan(forwards=forwards))
        trainer = Trainer(
            max_time=timedelta(seconds=seconds), max_epochs=-1, callbacks=[synbench], logger=False, accelerator="cpu",
            enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        start = time.perf_counter()
        trainer.fit(Classifier(), DataLoader(examples, batch_size=64, shuffle=True))
        took = time.perf_counter() - start
        times = [result.seconds for result in synbench.history]
        steps = trainer.global_step
        made = len(times), statistics.median(times), f"{sum(times) / took:.2%}"
        yield str(share), round(took), steps, 2 + steps // every, *made


if __name__ == "__main__":
    main()
