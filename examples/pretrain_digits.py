"""Pretrain a small encoder on scanned digits, and let what SynBench measures choose the checkpoint and the end.

Two runs in plain PyTorch Lightning on the 1,797 images that scikit-learn ships: nothing to download, a minute on two
CPU cores. In the first the network learns labels of which 40 % were replaced at random, as labels from the web are,
until it has memorized them: its training loss falls to the end, and the representation is best near the beginning. The
second is contrastive (SimCLR) and just keeps improving. What one learns from them:

- `SynBenchCallback()` needs no argument: it finds the encoder, the shape of its input and what is random about the
  examples. In the first run nothing is, so that noise is added; in the second it reads two views of each example. It
  logs how well the features of a disturbed example still identify it;
- that is monitored like any other metric, by `ModelCheckpoint` and, probe by probe, by `SynBenchEarlyStopping`;
- what the choice is worth: afterwards, and only then, labels measure every checkpoint with a linear probe.

What to expect, means of the seeds 0 to 4 (`--seeds 0 1 2 3 4`), looked at once:

                     chosen by information   by the loss   last   best   rank correlation   steps saved by stopping
    noisy labels                      .917          .811   .811   .935                .98                      80 %
    contrastive                       .937          .937   .938   .939                .95                       0 %

In each seed of the first run the chosen checkpoint is the first that was saved, after step 50: .09 to .12 better than
the last one, .015 to .029 below the best, and .016 to .040 better than raw pixels (.890), which the last checkpoints
are not. In the second run nothing is lost and nothing gained. The steps and the interval of the probes were chosen on
the seeds 100 and 101. On patches and letters the same is followed less well: see `label_study.py`.

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
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from synbench_lightning import ProbeResult, SynBenchCallback

try:
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedShuffleSplit, train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from synbench_lightning.plots import new_figure
    from synbench_lightning.plots.style import COLOURS, ENCODER, OPTIMUM, SHADE, Figure
except ImportError as error:
    raise SystemExit(
        "This example needs scikit-learn and matplotlib: pip install 'synbench-lightning[examples]'"
    ) from error

Batch = tuple[list[Tensor], Tensor]
"""Two views ``(N, 1, 8, 8)`` of the same images, and their labels ``(N,)``, which pretraining ignores."""

MONITOR = "synbench/information"

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


def augment(images: Tensor, strength: float = 1.0) -> Tensor:
    """Variations of images ``(N, 1, 8, 8)`` in [0, 1] that leave the digit readable; standardized."""
    n = len(images)
    angle = strength * math.radians(15) * uniform(n)
    zoom = 1 + strength * 0.15 * uniform(n)
    shift = strength * 0.25 * uniform(n, 2)  # the image spans 2 units: up to one pixel
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    affine = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False)
    # Erase a square of 3 x 3 pixels, part of which may lie outside.
    centre = torch.randint(0, 8, (n, 2, 1))
    row, column = ((torch.arange(8) - centre).abs() <= 1).unbind(1)
    erased = moved.masked_fill((row[:, :, None] & column[:, None, :])[:, None], 0.0)
    return standardize(erased + strength * 0.1 * torch.randn_like(erased))


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
        self.dim = dim
        self.head: nn.Module = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 64))
        self.temperature, self.learning_rate = temperature, learning_rate

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        loss = self.loss(*batch[0])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def loss(self, first: Tensor, second: Tensor) -> Tensor:
        return nt_xent(self.head(self.encoder(torch.cat([first, second]))), self.temperature)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.learning_rate, weight_decay=1e-4)


class NoisyLabels(SimCLR):
    """Pretraining on labels some of which are wrong: the network ends by memorizing them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(self.dim, 10)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self.head(self.encoder(images)), labels)
        self.log("train/loss", loss, prog_bar=True)
        return loss


METHODS: dict[str, type[SimCLR]] = {"noisy-labels": NoisyLabels, "contrastive": SimCLR}
"""In the first the last checkpoint is not the best one, in the second it nearly is."""
TITLES = {
    "noisy-labels": "Scanned digits, 40 % of their labels replaced at random",
    "contrastive": "Scanned digits, contrastive (SimCLR)",
}
STEPS = {"noisy-labels": 1500, "contrastive": 600}


def batches_for(method: str, downstream: Downstream, args: argparse.Namespace) -> DataLoader[Any]:
    """All training images: as they are, 40 % of their labels replaced at random; or in two views."""
    images, labels = downstream.train_images, downstream.train_labels
    dataset: Dataset[Any] = TwoViews(images, labels)
    if method == "noisy-labels":
        noisy = torch.where(torch.rand(len(labels)) < 0.4, torch.randint(10, labels.shape), labels)
        dataset = TensorDataset(standardize(images), noisy)
    # One long epoch, so that the progress bar is that of the run and not of ten batches.
    sampler = RandomSampler(dataset, replacement=True, num_samples=args.steps * args.batch_size)  # type: ignore[arg-type]
    return DataLoader(dataset, batch_size=args.batch_size, sampler=sampler)


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

    The split is fixed, and pretraining sees no test image. The probe has ten right labels for each digit: with all
    1,297, a linear classifier of raw pixels already reaches 97 %, and encoders would hardly differ.
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


class Outcome(NamedTuple):
    """What a run was worth: its probes, and the loss before and the accuracy of each of its checkpoints, by step."""

    history: list[ProbeResult]
    loss: dict[int, float]
    accuracy: dict[int, float]

    @property
    def chosen(self) -> int:
        """The step with the most information, as `ModelCheckpoint` would choose it."""
        return max(self.history[1:], key=lambda result: result.information or 0.0).step or 0

    @property
    def correlation(self) -> float:
        """Spearman's, over the checkpoints, of the information with the accuracy."""
        told = [result.information or 0.0 for result in self.history[1:]]
        return float(spearmanr(told, [self.accuracy[result.step or 0] for result in self.history[1:]]).statistic)

    def stopped(self, patience: int) -> int:
        """The step in which `SynBenchEarlyStopping` with this patience would have ended the run."""
        best, waited = -math.inf, 0
        for result in self.history:
            value = result.information or 0.0
            best, waited = max(best, value), 0 if value > best else waited + 1
            if waited == patience:
                return result.step or 0
        return self.history[-1].step or 0


def pretrain(method: str, seed: int, downstream: Downstream, args: argparse.Namespace) -> Outcome:
    """Pretrain to the end, with a probe and a checkpoint every few steps; then, and only then, ask the labels."""
    seed_everything(seed)
    batches = batches_for(method, downstream, args)
    model = METHODS[method]()
    start = copy.deepcopy(model.encoder)

    synbench = SynBenchCallback(every_n_train_steps=args.every)
    # It keeps the checkpoint of every probe for the table below; `save_top_k=1` would keep the chosen one alone.
    checkpoints = ModelCheckpoint(
        monitor=MONITOR, mode="max", every_n_train_steps=args.every, save_top_k=-1, filename="{step}"
    )
    losses = LossOfEachStep()
    Trainer(
        max_steps=args.steps,
        accelerator="cpu",
        callbacks=[synbench, checkpoints, losses],
        logger=TensorBoardLogger(args.dir, name=f"digits_{method}", default_hp_metric=False),
        log_every_n_steps=10,
        enable_model_summary=False,
        enable_progress_bar=not args.quiet,
    ).fit(model, batches)

    encoders = {0: start, **{step_of(path): encoder_in(path, method) for path in checkpoints.best_k_models}}
    accuracy = {step: downstream.accuracy(encoder) for step, encoder in sorted(encoders.items())}
    assert Outcome(synbench.history, {}, accuracy).chosen == step_of(checkpoints.best_model_path)
    loss = {step: fmean(losses.values[max(0, step - args.every) : step]) for step in accuracy if step}
    return Outcome(synbench.history, loss, accuracy)


def encoder_in(checkpoint: str, method: str) -> nn.Module:
    return METHODS[method].load_from_checkpoint(checkpoint).encoder


def main() -> None:
    args = arguments()
    # Tensors this small are not worth sharing among threads.
    torch.set_num_threads(1)
    # Advice of Lightning that does not apply here: a batch is made in milliseconds and needs no worker processes, the
    # model is too small for a GPU, and the last is about Lightning's own code with recent versions of torch.
    for advice in ("does not have many workers", "GPU available but not used", "LeafSpec"):
        warnings.filterwarnings("ignore", message=f".*{advice}")
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    downstream = Downstream(images, torch.tensor(digits.target))
    pixels = downstream.accuracy(nn.Flatten())
    for method in METHODS if args.method == "both" else [args.method]:
        settings = of_method(method, args)
        outcomes = {seed: pretrain(method, seed, downstream, settings) for seed in args.seeds}
        first = outcomes[args.seeds[0]]
        print(f"\nThe {method} run of seed {args.seeds[0]}:\n")
        print_table(first)
        print(
            f"\nWhat the linear probe says about checkpoints of the {method} run, and the steps until it is stopped:\n"
        )
        print_choices(outcomes, args.patience, settings.steps)
        figure = Path(args.dir) / f"digits_{method}.png"
        outcome_figure(method, first, args.patience, pixels).savefig(figure)
        print(f"\nIts curve: {figure}")
    print(f"\nRaw pixels: {pixels:.3f}. All curves: tensorboard --logdir {args.dir}")


def of_method(method: str, args: argparse.Namespace) -> argparse.Namespace:
    """The arguments with the steps of this method; 30 probes, unless something else is said."""
    steps = args.steps or STEPS[method]
    every = args.every or max(1, steps // 30)
    if steps % every:
        raise SystemExit(f"--steps ({steps}) must be a multiple of --every ({every}).")
    return argparse.Namespace(**{**vars(args), "steps": steps, "every": every})


def step_of(checkpoint: str) -> int:
    return int(Path(checkpoint).stem.removeprefix("step="))


def print_table(outcome: Outcome) -> None:
    print("  step    loss   information            linear probe")
    for result in outcome.history:
        step = result.step or 0
        loss = f"{outcome.loss[step]:6.3f}" if step else "     -"
        told = f"{result.information or 0.0:5.2f} ± {result.information_error or 0.0:.2f}"
        mark = "  <- chosen" if step == outcome.chosen else ""
        print(f"{step:6d}  {loss}   {told:15s}         {outcome.accuracy[step]:5.3f}{mark}")


def print_choices(outcomes: Mapping[int, Outcome], patience: int, steps: int) -> None:
    """A row for each seed: the accuracy of what is chosen in which way, and where the run would have been stopped."""
    print("seed   by information   by loss    last    best   random   rank correlation   stopped at")
    rows = []
    for seed, outcome in outcomes.items():
        accuracy, loss = outcome.accuracy, outcome.loss
        row = [
            accuracy[outcome.chosen],
            accuracy[min(loss, key=loss.__getitem__)],
            accuracy[max(accuracy)],
            max(accuracy.values()),
            accuracy[0],
            outcome.correlation,
            outcome.stopped(patience),
        ]
        rows.append(row)
        print_row(f"{seed:4d}", row, steps)
    if len(rows) > 1:
        print_row("mean", [fmean(column) for column in zip(*rows, strict=True)], steps)


def print_row(name: str, row: Sequence[float], steps: int) -> None:
    chosen, by_loss, last, best, random, rho, stopped = row
    print(
        f"{name}            {chosen:5.3f}     {by_loss:5.3f}   {last:5.3f}   {best:5.3f}    {random:5.3f}"
        f"              {rho:5.2f}   {stopped:4.0f} ({1 - stopped / steps:.0%} saved)"
    )


def outcome_figure(method: str, outcome: Outcome, patience: int, pixels: float) -> Figure:
    """What is known while the encoder trains, over what is known only with labels."""
    figure, rows = new_figure(rows=3)
    steps = list(outcome.accuracy)
    told = [result.information or 0.0 for result in outcome.history]
    errors = [result.information_error or 0.0 for result in outcome.history]
    rows[0].plot(list(outcome.loss), list(outcome.loss.values()), color=OPTIMUM)
    rows[0].set(ylabel="training loss", yscale="log")
    rows[1].plot(steps, told, color=ENCODER)
    low, high = ([value + sign * error for value, error in zip(told, errors, strict=True)] for sign in (-1, 1))
    rows[1].fill_between(steps, low, high, color=SHADE, linewidth=0, label="± 1 standard error")
    rows[1].set(ylabel="information (nats)")
    rows[1].legend(loc="upper right" if method == "noisy-labels" else "lower right")
    rows[2].plot(steps, list(outcome.accuracy.values()), color=COLOURS[1])
    rows[2].axhline(pixels, color="black", linewidth=0.7, linestyle="--", label="raw pixels")
    rows[2].set(ylabel="linear probe, accuracy", xlabel="optimizer steps")
    rows[2].legend(loc="upper right" if method == "noisy-labels" else "lower right")
    for axes in rows:
        axes.axvline(outcome.chosen, color="black", linewidth=0.9, label="chosen")
        axes.axvline(outcome.stopped(patience), color="black", linewidth=0.9, linestyle=":", label="stopped")
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    rows[0].legend(loc="upper right")
    rows[0].set_title(TITLES[method])
    return figure


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Pretrain a small encoder on scanned digits and let what SynBench measures choose the checkpoint.",
    )
    parser.add_argument(
        "--method", choices=["both", *METHODS], default="both", help="which of the two runs (default: both)"
    )
    parser.add_argument("--steps", type=int, help="optimizer steps (default: 1500 on labels, 600 contrastive)")
    parser.add_argument("--every", type=int, help="optimizer steps between probes (default: a thirtieth of --steps)")
    parser.add_argument(
        "--patience", type=int, default=5, help="probes without more information after which to stop (default: 5)"
    )
    parser.add_argument("--batch-size", type=int, default=128, help="images in a batch (default: 128)")
    parser.add_argument(
        "--seeds", type=int, nargs="+", default=[0], help="of the weights and all that is random (default: 0)"
    )
    parser.add_argument("--quiet", action="store_true", help="show no progress bars")
    parser.add_argument("--dir", default="runs", help="where logs, checkpoints and the curve go (default: runs)")
    args = parser.parse_args()
    for name in ("steps", "every"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    return args


if __name__ == "__main__":
    main()
