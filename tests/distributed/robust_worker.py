"""What one process of a task-robust run does: train on its share of each batch, and write down what it has learnt."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, strategies
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from synbench_lightning import TaskRobustLoss
from synbench_lightning.functional.minimax import task_means
from tests.callbacks.runs import trainer
from tests.distributed.leaving import leave
from tests.encoders import Batches

TASKS = 4
SHARES = {1: [slice(0, 12)], 2: [slice(0, 4), slice(4, 12)]}
"""Rows of each batch that a process takes: as many as one process, or shares of different size."""


def examples(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Inputs of one batch and their tasks: the first rows are of tasks 0 and 1, task 3 is in every other batch."""
    tasks = torch.tensor([0, 1, 0, 1, 0, 1, 2, 2, 2, 2, 2, 2])
    tasks[-1] += int(torch.randint(2, (), generator=generator))
    return torch.randn(12, 6, generator=generator), tasks


class Regression(LightningModule):
    """A linear map onto different targets of the tasks; the loss is the worst task's."""

    def __init__(self, sharded: bool = False, proxy: bool = False, **arguments: Any) -> None:
        super().__init__()
        self.sharded, self.proxy = sharded, proxy
        torch.manual_seed(0)
        self.linear = nn.Linear(6, 1)
        self.robust = TaskRobustLoss(TASKS, **arguments)
        self.seen: list[float] = []

    def configure_model(self) -> None:
        if self.sharded:
            fully_shard(self, mesh=self.device_mesh["data_parallel"])  # type: ignore[index]

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.linear(x)
        return found

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        rows = SHARES[self.trainer.world_size][self.global_rank]
        x, tasks = (values[0, rows] for values in batch)
        truth = (x * torch.arange(1, 7) / 6).sum(1, keepdim=True) * (tasks[:, None] - 1)
        losses, counts = task_means((self(x) - truth).square().squeeze(1), tasks, TASKS)
        others = task_means((truth / 2).square().squeeze(1), tasks, TASKS)[0] if self.proxy else None
        loss: Tensor = self.robust(losses, counts, others)
        self.seen.append(loss.item())
        self.log_dict(self.robust.metrics())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(Batches(examples, length=40))


def train(world: int, folder: str, sharded: bool = False, accumulate: int = 1, **arguments: Any) -> dict[str, Any]:
    """Train on ``world`` processes, this one among them."""
    model = Regression(sharded, **arguments)
    strategy: Any = "auto" if world == 1 else "ddp"
    if sharded:
        strategy = strategies.ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1)
    run = trainer(
        max_steps=15, strategy=strategy, devices=world, use_distributed_sampler=False, default_root_dir=folder,
        accumulate_grad_batches=accumulate,
    )  # fmt: skip
    run.fit(model)
    learnt = {name: value.full_tensor() if hasattr(value, "full_tensor") else value
              for name, value in model.state_dict().items()}  # fmt: skip
    return {
        "state": {name: value.tolist() for name, value in learnt.items()},
        "values": model.seen,
        "logged": {key: value.item() for key, value in run.callback_metrics.items()},
        "rank": run.global_rank,
    }


if __name__ == "__main__":
    settings = json.loads(sys.argv[1])
    found = train(**settings)
    Path(settings["folder"], f"rank{found['rank']}.json").write_text(json.dumps(found))
    leave()
