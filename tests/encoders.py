"""Encoders and LightningModules that several tests use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

DATA = Path(__file__).parent / "data"


def encoder_a() -> nn.Sequential:
    """The encoder of the reference numbers, for inputs (3, 32, 32)."""
    encoder = nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, 2, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    weights = np.load(DATA / "encoder_a.npz")
    encoder.load_state_dict({name: torch.tensor(weights[name]) for name in weights})
    return encoder


class Batches(Dataset[Any]):
    """``length`` items made by a function of the index."""

    def __init__(self, make: Any, length: int = 64) -> None:
        self.make, self.length = make, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        if index >= self.length:
            raise IndexError
        return self.make(torch.Generator().manual_seed(index))


class Autoencoder(LightningModule):
    """Inputs (1, 8, 8), labels beside them; dropout and BatchNorm in the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 16)
        )
        self.decoder = nn.Linear(16, 64)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0]
        loss = nn.functional.mse_loss(self.decoder(self.encoder(x)), x.flatten(1))
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(
            Batches(lambda g: (torch.randn(1, 8, 8, generator=g), 0), length=80), batch_size=8, shuffle=True
        )
