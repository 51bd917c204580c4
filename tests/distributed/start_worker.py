"""A script whose trainer starts its processes itself, and what its main process then knows of the probes."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import seed_everything
from torch.utils.data import TensorDataset

from synbench_lightning import BenchmarkCallback
from tests.callbacks.runs import probing, steps, trainer
from tests.encoders import Autoencoder


class Failing(Autoencoder):
    def on_train_batch_start(self, *_: Any) -> None:
        if self.trainer.global_step == 7:
            raise RuntimeError("out of luck")


def main(strategy: str, failing: bool) -> None:
    seed_everything(0)
    x = torch.randn(60, 1, 8, 8)
    tasks = {"side": TensorDataset(x, (x[..., 0].sum((1, 2)) > 0).long())}
    benchmark = BenchmarkCallback(tasks, 0.5, support=20, warmup=2, every_n_train_steps=5)
    callbacks = [probing(every=5), benchmark]
    run = trainer(*callbacks, max_steps=10, strategy=strategy, devices=2)
    try:
        run.fit(Failing() if failing else Autoencoder())
    except Exception as error:
        assert "out of luck" in str(error)  # noqa: PT017
    found = {
        "steps": [steps(callback) for callback in callbacks],
        "values": [float(callbacks[0].history[-1].score()), float(benchmark.history[-1].value)],
        "monitored": {key: float(value) for key, value in run.callback_metrics.items()},
    }
    another = trainer(callbacks[0], max_steps=5)
    another.fit(Autoencoder())
    found["another"] = steps(callbacks[0])
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], "failing" in sys.argv)
    assert not list(Path(tempfile.gettempdir()).glob("synbench-*"))
