"""`SynBenchCallback()` finds the augmentations of a run: is its information that of `views=`?

Encoders of ``validity_study.py`` are pretrained contrastively on its five sources, with the augmentation in the
dataset, in the collate function, in ``on_after_batch_transfer`` or in the training step. Two callbacks probe each run
at the same checkpoints: one without arguments, and one that is given ``inputs=`` and ``views=``. The difference is in
units of its standard error. What was found is in ``README.md``.

    pip install 'synbench-lightning[examples]' scikit-image
    python examples/zero_arguments.py --images digits     # a minute; all five sources take about ten
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from synbench_lightning import SynBenchCallback

try:
    from validity.encoders import DIMENSIONS, build_encoder
    from validity.inputs import Images, Transform, load_images
except ImportError as error:
    raise SystemExit(
        "This example needs scikit-learn and matplotlib: pip install 'synbench-lightning[examples]'"
    ) from error

ENCODERS = {"digits": "conv", "patches": "transformer", "glyphs": "conv", "recoloured": "conv"}
PLACES = ("dataset", "collate function", "transfer hook", "training step")
BATCH = 128


class TwoViews(Dataset[list[Tensor]]):
    """Images that are augmented twice whenever they are read.

    The study's augmentation erases with the least value of a batch: an image that has it is in each.
    """

    def __init__(self, images: Tensor, augment: Transform) -> None:
        self.images, self.augment = images, augment
        self.least = images[int(images.flatten(1).min(1).values.argmin())]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> list[Tensor]:
        return [self.augment(torch.stack([self.images[index], self.least]))[0] for _ in range(2)]


class Contrastive(LightningModule):
    """Find the other view of an image among those of the others; the augmentation is at one of four places."""

    def __init__(self, images: Images, encoder: str, place: str) -> None:
        super().__init__()
        self.images, self.place = images, place
        self.encoder = build_encoder(encoder, images.input_shape[0])
        dim = DIMENSIONS[encoder]
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 32))

    def train_dataloader(self) -> DataLoader[Any]:
        if self.place == "dataset":
            return DataLoader(TwoViews(self.images.train, self.images.augment), BATCH, shuffle=True, drop_last=True)
        collate = self._collated if self.place == "collate function" else None
        return DataLoader(TensorDataset(self.images.train), BATCH, shuffle=True, drop_last=True, collate_fn=collate)

    def _collated(self, examples: list[tuple[Tensor]]) -> list[Tensor]:
        return self._views(torch.stack([image for (image,) in examples]))

    def _views(self, images: Tensor) -> list[Tensor]:
        return [self.images.augment(images), self.images.augment(images)]

    def on_after_batch_transfer(self, batch: list[Tensor], dataloader_idx: int) -> list[Tensor]:
        return self._views(batch[0]) if self.place == "transfer hook" else batch

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        views = self._views(batch[0]) if self.place == "training step" else batch
        z = nn.functional.normalize(self.head(self.encoder(torch.cat(views))), dim=1)
        similarity = (z @ z.T / 0.3).fill_diagonal_(-torch.inf)
        return nn.functional.cross_entropy(similarity, torch.arange(len(z)).roll(len(z) // 2))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 1e-3)


def compared(name: str, place: str, steps: int, seed: int) -> Iterator[tuple[float, ...]]:
    """Step, information without arguments and with views that are given, each with its standard error."""
    seed_everything(seed, verbose=False)
    images = load_images(name)
    schedule: dict[str, Any] = {"every_n_train_steps": steps // 2, "seed": seed}
    found = SynBenchCallback(**schedule)
    other = SynBenchCallback(inputs=images.train[:BATCH], views=images.augment, prefix="given", **schedule)
    trainer = Trainer(
        max_steps=steps, callbacks=[found, other], logger=False, accelerator="cpu", enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Contrastive(images, ENCODERS.get(name, "resnet"), place))
    for one, two in zip(found.history, other.history, strict=True):
        values = one.information, one.information_error, two.information, two.information_error
        yield one.step or 0, *(float("nan") if value is None else value for value in values)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare information without arguments with that of given views.")
    parser.add_argument("--images", nargs="+", choices=(*ENCODERS, "pictures"), default=(*ENCODERS, "pictures"))
    parser.add_argument("--places", nargs="+", choices=PLACES, default=PLACES)
    parser.add_argument("--steps", type=int, default=150, help="optimizer steps of a run (default: 150)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore")
    print("| images | augmentation in the | step | no argument | given views | difference, standard errors |")
    print("|---|---|---|---|---|---|")
    differences = []
    for name, place in product(args.images, args.places):
        for step, one, its, two, others in compared(name, place, args.steps, args.seed):
            differences.append((one - two) / (its**2 + others**2) ** 0.5)
            numbers = f"{one:.3f} ± {its:.3f} | {two:.3f} ± {others:.3f} | {differences[-1]:+.2f}"
            print(f"| {name} | {place} | {step:g} | {numbers} |", flush=True)
    found = torch.tensor(differences)
    print(f"\nOf {len(found)} differences {int((found.abs() > 2).sum())} exceed two standard errors;")
    print(f"mean {found.mean():+.2f}, root mean square {found.square().mean().sqrt():.2f} standard errors.")


if __name__ == "__main__":
    main()
