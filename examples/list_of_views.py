"""Add SynBench to a project as it is: a teacher and a student, and batches of many views with labels and file names.

The module is what self-supervised projects look like: a batch is `([view, ...], labels, names)` with two large views
and four small crops, the student learns to predict the teacher, and the teacher follows the student as a moving
average. Its code knows nothing of SynBench; the one line is in the list of callbacks. What one learns from it:

- the shape of an input is that of the largest view, whatever else is in the batch;
- `encoder="teacher.backbone"` names what is to be probed; two callbacks with two prefixes probe both;
- the moving average and BatchNorm's statistics are the same as without probes.

Nothing to download, about twenty seconds on one CPU core.

    pip install 'synbench-lightning[examples]'
    python examples/list_of_views.py
"""

from __future__ import annotations

import argparse
import copy
import warnings
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler

from synbench_lightning import SynBenchCallback

Batch = tuple[list[Tensor], Tensor, list[str]]


class MultiCrop(Dataset[Any]):
    """Two large views (1, 8, 8) and four small ones (1, 6, 6) of each digit, its label, and a file name."""

    def __init__(self) -> None:
        digits = load_digits()
        self.images = (torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16 - 0.305) / 0.376
        self.labels = digits.target

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[list[Tensor], int, str]:
        image = self.images[index]
        large = [image + 0.2 * torch.randn_like(image) for _ in range(2)]
        corners = torch.randint(0, 3, (4, 2)).tolist()
        small = [image[:, row : row + 6, column : column + 6] for row, column in corners]
        return large + small, int(self.labels[index]), f"{index:04d}.png"


class Branch(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.projection = nn.Sequential(nn.Linear(8 * width, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.projection(self.backbone(x))
        return projected


class TeacherStudent(LightningModule):
    def __init__(self, width: int = 4, momentum: float = 0.98) -> None:
        super().__init__()
        self.student, self.predictor = Branch(width), nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.momentum = momentum

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        views, _, _ = batch
        with torch.no_grad():
            targets = [self.teacher(view) for view in views[:2]]
        losses = [
            1 - nn.functional.cosine_similarity(self.predictor(self.student(view)), target).mean()
            for place, view in enumerate(views)
            for other, target in enumerate(targets)
            if place != other
        ]
        loss = torch.stack(losses).mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        for mine, its in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
            mine.lerp_(its.detach(), 1 - self.momentum)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([*self.student.parameters(), *self.predictor.parameters()], 2e-3)


def main() -> None:
    parser = argparse.ArgumentParser(description="Add SynBench to a project with batches of many views.")
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps (default: %(default)s)")
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    seed_everything(0)
    dataset = MultiCrop()
    batches = DataLoader(dataset, batch_size=64, sampler=RandomSampler(dataset, num_samples=64 * steps))
    every = max(1, steps // 6)
    teacher = SynBenchCallback(encoder="teacher.backbone", every_n_train_steps=every)
    student = SynBenchCallback(encoder="student.backbone", every_n_train_steps=every, prefix="student")
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", callbacks=[teacher, student], logger=False, enable_checkpointing=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(TeacherStudent(), batches)
    print("\n step   teacher           student")
    for one, other in zip(teacher.history, student.history, strict=True):
        cells = (f"{result.score():.3f} ± {result.standard_error() or 0:.3f}" for result in (one, other))
        print(f"{one.step:5d}   " + "     ".join(cells))


if __name__ == "__main__":
    main()
