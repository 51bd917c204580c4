"""A run of LightningCLI whose SynBench callbacks come from a YAML file and from the command line.

A denoising autoencoder on the scanned digits of scikit-learn; nothing in this file mentions SynBench. What one learns
from it: the callbacks are configured like any others (`cli_digits.yaml`), and changed for one run on the command line.
Nothing to download, about fifteen seconds on one CPU core.

    pip install 'synbench-lightning[examples,cli]'
    python examples/cli_digits.py fit --config examples/cli_digits.yaml
    python examples/cli_digits.py fit --config examples/cli_digits.yaml --trainer.max_steps=200 \
        --trainer.callbacks+=synbench_lightning.SynBenchCallback \
        --trainer.callbacks.prefix=deep --trainer.callbacks.encoder=encoder.deep
    synbench report runs/cli
"""

from __future__ import annotations

import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Digits(LightningDataModule):
    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 16
        return DataLoader(TensorDataset((images - 0.305) / 0.376), self.batch_size, shuffle=True)


class Encoder(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU())
        self.second = nn.Linear(width, width)

    def deep(self, x: Tensor) -> Tensor:
        features: Tensor = self.second(self.first(x)).relu()
        return features

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.first(x)
        return features


class Denoiser(LightningModule):
    def __init__(self, width: int = 64, noise: float = 0.5, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.encoder = Encoder(width)
        self.decoder = nn.Linear(width, 64)
        self.noise, self.learning_rate = noise, learning_rate

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        (images,) = batch
        restored = self.decoder(self.encoder.deep(images + self.noise * torch.randn_like(images)))
        loss = nn.functional.mse_loss(restored, images.flatten(1))
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), self.learning_rate)


if __name__ == "__main__":
    LightningCLI(Denoiser, Digits)
