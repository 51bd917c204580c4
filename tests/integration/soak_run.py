"""One process of a long run that may be killed: it trains, and goes on from the latest checkpoint if there is one."""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.data import TensorDataset

from synbench_lightning import BenchmarkCallback, ProbePlan, SynBenchCallback
from tests.callbacks.runs import trainer
from tests.distributed.leaving import leave
from tests.integration.modules import Plain

STEPS = 2000
FILES = Path("/proc/self/fd")


class Steady(Plain):
    """The same batch in a step of the run on every process, whenever it is made and after whichever resume.

    So the mean of the gradients of two processes is that of one to the last bit. Dropout is off: its random states are
    Lightning's to restore.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder[3].p = 0.0  # type: ignore[index]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(torch.randn(8, 12, generator=torch.Generator().manual_seed(self.trainer.global_step)))


class Watch(Callback):
    """Says how far the run is, and what the process holds: MiB of memory and open files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.memory: dict[int, float] = {}
        self.files: dict[int, int] = {}

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        step = trainer.global_step
        if step % 100 == 0:
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.memory[step] = pages * os.sysconf("SC_PAGESIZE") / 2**20
            self.files[step] = len(list(FILES.iterdir()))
        if trainer.is_global_zero:
            (self.folder / "step").write_text(str(step))


def train(folder: str, processes: int) -> None:
    home = Path(folder)
    rank = os.environ.get("RANK", "0")
    (home / f"pid{rank}").write_text(str(os.getpid()))
    seed_everything(0, verbose=False)
    x = torch.randn(60, 12, generator=torch.Generator().manual_seed(1))
    tasks = {"first": TensorDataset(x, (x[:, 0] > 0).long()), "sum": TensorDataset(x, (x.sum(1) > 0).long())}
    plan = ProbePlan(forwards=128, num_scales=2)
    probes = SynBenchCallback(every_n_train_steps=STEPS // 400, plan=plan, inputs=x, batch_size=64)
    benchmark = BenchmarkCallback(
        tasks, 0.4, encoder="encoder", support=20, warmup=3, every_n_train_steps=STEPS // 40, batch_size=16
    )
    watch, model = Watch(home), Steady()
    saving = ModelCheckpoint(home / "checkpoints", "{step}", every_n_train_steps=STEPS // 10, save_top_k=-1)
    run = trainer(
        probes, benchmark, watch, saving, max_steps=STEPS, enable_checkpointing=True, devices=processes,
        strategy="ddp" if processes > 1 else "auto", logger=TensorBoardLogger(home, name="", version="events"),
    )  # fmt: skip
    saved = sorted((home / "checkpoints").glob("*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
    run.fit(model, ckpt_path=saved[-1] if saved else None)
    if run.is_global_zero:
        found = {
            "probes": [result.to_dict() for result in probes.history],
            "benchmark": [result.to_dict() for result in benchmark.history],
            "weights": {name: value.tolist() for name, value in model.state_dict().items()},
            "memory": watch.memory,
            "files": watch.files,
        }
        (home / "found.json").write_text(json.dumps(found))
    if processes > 1:
        leave()


if __name__ == "__main__":
    train(sys.argv[1], int(sys.argv[2]))
