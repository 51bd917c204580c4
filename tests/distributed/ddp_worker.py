"""What one process of a DDP run does: train, and write down what it saw. Started by torchrun."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.loggers import TensorBoardLogger

from tests.callbacks.runs import probing, trainer
from tests.encoders import Autoencoder


def train(folder: Path, strategy: str = "ddp", fails_on: int | None = None, world: int = 2) -> None:
    """Train an autoencoder; with ``fails_on`` the encoder raises on that rank at step 10."""

    def encoder(module: Autoencoder, x: torch.Tensor) -> torch.Tensor:
        if module.global_rank == fails_on and module.trainer.global_step == 10:
            raise RuntimeError("out of luck")
        features: torch.Tensor = module.encoder(x)
        return features

    seed_everything(0)
    callback = probing(every=5, encoder=encoder)
    logger = TensorBoardLogger(folder)
    model = Autoencoder()
    run = trainer(callback, max_steps=15, limit_train_batches=5, strategy=strategy, devices=world, logger=logger)
    run.fit(model)
    found = {
        "history": [result.to_dict() for result in callback.history],
        "monitored": {key: float(value) for key, value in run.callback_metrics.items()},
        "encoder": {name: value.tolist() for name, value in model.encoder.state_dict().items()},
        "log_dir": logger.log_dir,
    }
    (folder / f"rank{run.global_rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    fails = os.environ.get("FAILS_ON")
    train(Path(sys.argv[1]), fails_on=None if fails is None else int(fails), world=int(os.environ["WORLD_SIZE"]))
