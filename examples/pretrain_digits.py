"""Pretrain a small encoder on scanned digits without labels, and let what SynBench measures choose the checkpoint.

Contrastive learning (SimCLR) in plain PyTorch Lightning on the 1,797 images that scikit-learn ships: nothing to
download, about one minute on two CPU cores. What one learns from it:

- `SynBenchCallback` is one line: it finds the encoder and the shape of its input by itself, and needs some unlabelled
  images for the information that is monitored here;
- that is monitored like any other metric, by `ModelCheckpoint` and, probe by probe, by `SynBenchEarlyStopping`;
- what the choice is worth: afterwards, and only then, labels measure every checkpoint with a linear probe.

What to expect, from the seeds 0 to 3: information and accuracy rise together while the encoder learns fast. After some
hundred steps the information only goes up and down by its standard error, while the accuracy creeps up by another
percent or two. The checkpoint that it chose without a label was 0.2 to 1.4 percent below the last one: nothing here
makes later weights worse.

    pip install 'synbench-lightning[examples]'
    python examples/pretrain_digits.py
"""

from __future__ import annotations

import argparse
import copy
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, Dataset, RandomSampler

from synbench_lightning import ProbeResult, SynBenchCallback, SynBenchEarlyStopping

try:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedShuffleSplit, train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from synbench_lightning.plots import history_figure
except ImportError as error:
    raise SystemExit(
        "This example needs scikit-learn and matplotlib: pip install 'synbench-lightning[examples]'"
    ) from error

Batch = tuple[list[Tensor], Tensor]
"""Two views ``(N, 1, 8, 8)`` of the same images, and their labels ``(N,)``, which pretraining ignores."""

MONITOR = "synbench/information"
"""The score is beside it: in contrastive pretraining it does not follow what labels say."""

MEAN, STD = 0.305, 0.376
"""Of the pixels in [0, 1]. The encoder sees standardized images, as it sees standard normal examples in a probe."""


class TwoViews(Dataset[Batch]):
    """Every image as two random variations of itself."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> list[Batch]:
        # The DataLoader calls this one, where it exists, with the indices of a whole batch: 30 times as fast for tiny
        # images as a `__getitem__` for each.
        images = self.images[indices]
        views = zip(augment(images), augment(images), strict=True)
        return [([first, second], label) for (first, second), label in zip(views, self.labels[indices], strict=True)]


def augment(images: Tensor) -> Tensor:
    """Variations of images ``(N, 1, 8, 8)`` in [0, 1] that leave the digit readable; standardized."""
    n = len(images)
    angle = math.radians(15) * uniform(n)
    zoom = 1 + 0.15 * uniform(n)
    shift = 0.25 * uniform(n, 2)  # the image spans 2 units: up to one pixel
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    affine = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    # Erase a square of 3 x 3 pixels, part of which may lie outside.
    centre = torch.randint(0, 8, (n, 2, 1))
    row, column = ((torch.arange(8) - centre).abs() <= 1).unbind(1)
    erased = moved.masked_fill((row[:, :, None] & column[:, None, :])[:, None], 0.0)
    return standardize(erased + 0.1 * torch.randn_like(erased))


def uniform(*shape: int) -> Tensor:
    return 2 * torch.rand(*shape) - 1


def standardize(images: Tensor) -> Tensor:
    return (images - MEAN) / STD


class SimCLR(LightningModule):
    """An encoder whose features of two views of an image resemble each other more than those of other images."""

    def __init__(self, width: int = 16, temperature: float = 0.5, learning_rate: float = 1e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        # The last map is flattened, not averaged: features that have lost where something is in the image score low in
        # the tasks `cos_1` and `cos_2` of the probe, whose classes differ in their left and right or top and bottom.
        self.encoder = nn.Sequential(
            block(1, width, stride=1),
            block(width, 2 * width, stride=2),
            block(2 * width, 2 * width, stride=2),
            nn.Flatten(),
        )
        dim = 2 * width * 2 * 2
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 64))
        self.temperature, self.learning_rate = temperature, learning_rate

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        views, _ = batch
        loss = nt_xent(self.head(self.encoder(torch.cat(views))), self.temperature)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=1e-4)


def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def nt_xent(projections: Tensor, temperature: float) -> Tensor:
    """Cross entropy of finding each image's other view among all others; ``(2N, D)``, one view after the other."""
    z = F.normalize(projections, dim=1)
    similarity = z @ z.T / temperature
    similarity.fill_diagonal_(-torch.inf)
    partner = torch.arange(len(z)).roll(len(z) // 2)
    return F.cross_entropy(similarity, partner)


class LossOfEachStep(Callback):
    """The training loss of each step, to be averaged between probes."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.values.append(float(outputs["loss"]))


class Downstream:
    """What labels say about an encoder, asked only after pretraining: the accuracy of a linear probe with few of them.

    The split is fixed. Pretraining sees the training images without their labels, and no test image. The probe has ten
    labels for each digit: with all 1,297, a linear classifier of raw pixels already has 97 % right, and there would be
    little to tell encoders apart by.
    """

    def __init__(self, images: Tensor, labels: Tensor, draws: int = 10) -> None:
        train, test = train_test_split(torch.arange(len(labels)), test_size=500, stratify=labels, random_state=0)
        self.train_images, self.train_labels = images[train], labels[train]
        self.test_images, self.test_labels = images[test], labels[test]
        # Which hundred images are labelled moves the accuracy by a percent: the same ten draws for every encoder.
        folds = StratifiedShuffleSplit(draws, train_size=100, random_state=0)
        self.labelled = [few for few, _ in folds.split(train, self.train_labels)]

    @torch.no_grad()
    def accuracy(self, encoder: nn.Module) -> float:
        encoder.eval()
        train, test = (encoder(standardize(images)).numpy() for images in (self.train_images, self.test_images))
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
        scores = []
        for few in self.labelled:
            classifier.fit(train[few], self.train_labels[few].numpy())
            scores.append(classifier.score(test, self.test_labels.numpy()))
        return fmean(scores)


def main() -> None:
    args = arguments()
    # Tensors this small are not worth sharing among threads.
    torch.set_num_threads(1)
    # Advice of Lightning that does not apply here: a batch is made in milliseconds and needs no worker processes, the
    # model is too small for a GPU, and the last is about Lightning's own code with recent versions of torch.
    for advice in ("does not have many workers", "GPU available but not used", "LeafSpec"):
        warnings.filterwarnings("ignore", message=f".*{advice}")
    seed_everything(args.seed, verbose=False)

    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    downstream = Downstream(images, torch.tensor(digits.target))
    dataset = TwoViews(downstream.train_images, downstream.train_labels)
    # One long epoch, so that the progress bar is that of the run and not of five batches.
    sampler = RandomSampler(dataset, num_samples=args.steps * args.batch_size)
    batches = DataLoader(dataset, batch_size=args.batch_size, sampler=sampler)

    model = SimCLR()
    encoders: dict[int, nn.Module] = {0: copy.deepcopy(model.encoder)}

    synbench = SynBenchCallback(every_n_train_steps=args.every, inputs=standardize(downstream.train_images[:128]))
    # It keeps the checkpoint of every probe for the table below; `save_top_k=1` would keep the chosen one alone.
    checkpoints = ModelCheckpoint(
        monitor=MONITOR, mode="max", every_n_train_steps=args.every, save_top_k=-1, filename="{step}"
    )
    # From one probe to the next it may fall by chance: less patience ends some runs while they still improve.
    stopping = SynBenchEarlyStopping(monitor=MONITOR, patience=args.patience)
    losses = LossOfEachStep()
    logger = TensorBoardLogger(args.dir, name="digits", default_hp_metric=False)
    trainer = Trainer(
        max_steps=args.steps,
        accelerator="cpu",
        callbacks=[synbench, checkpoints, stopping, losses],
        logger=logger,
        log_every_n_steps=10,
        enable_model_summary=False,
    )
    trainer.fit(model, batches)

    print("\nMeasuring every checkpoint with labels ...\n")
    encoders |= {step_of(path): SimCLR.load_from_checkpoint(path).encoder for path in checkpoints.best_k_models}
    accuracy = {step: downstream.accuracy(encoder) for step, encoder in encoders.items()}
    print_table(synbench.history, losses.values, accuracy)

    chosen, last, best = step_of(checkpoints.best_model_path), max(accuracy), max(accuracy, key=accuracy.__getitem__)
    print(f"\nThe information chose step {chosen}, without labels. Linear probe there and elsewhere:")
    for name, value in (
        (f"chosen by the information, step {chosen}", accuracy[chosen]),
        (f"last checkpoint, step {last}", accuracy[last]),
        (f"best checkpoint, step {best} (only labels can tell)", accuracy[best]),
        ("random encoder at the start", accuracy[0]),
        ("raw pixels", downstream.accuracy(nn.Flatten())),
    ):
        print(f"  {value:5.3f}  {name}")

    figure = Path(logger.log_dir) / "curve.png"
    history_figure(synbench.history).savefig(figure)
    print(f"\nChosen checkpoint:  {checkpoints.best_model_path}")
    print(f"Its curve:          {figure}")
    print(f"All curves:         tensorboard --logdir {args.dir}")


def step_of(checkpoint: str) -> int:
    return int(Path(checkpoint).stem.removeprefix("step="))


def print_table(history: Sequence[ProbeResult], losses: Sequence[float], accuracy: Mapping[int, float]) -> None:
    print("  step    loss   score   worst case   information   linear probe")
    before = 0
    for result in history:
        step = result.step or 0
        loss = f"{fmean(losses[before:step]):6.3f}" if step else "     -"
        score, worst = result.score(), result.worst()[1]
        told = result.information or 0.0
        print(
            f"{step:6d}  {loss}   {score:5.3f}        {worst:5.3f}         {told:5.2f}          {accuracy[step]:5.3f}"
        )
        before = step


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Pretrain a small encoder on scanned digits and let what SynBench measures choose the checkpoint.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=2500, help="optimizer steps, if nothing stops the run earlier")
    parser.add_argument("--every", type=int, default=100, help="optimizer steps between probes; divides --steps")
    parser.add_argument("--patience", type=int, default=8, help="probes without a better value after which to stop")
    parser.add_argument("--batch-size", type=int, default=128, help="images in a batch, each seen twice")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the augmentations")
    parser.add_argument("--dir", default="runs", help="where logs, checkpoints and the curve go")
    args = parser.parse_args()
    if min(args.steps, args.every) < 1 or args.steps % args.every:
        parser.error(f"--steps ({args.steps}) must be a multiple of --every ({args.every}), both at least 1")
    return args


if __name__ == "__main__":
    main()
