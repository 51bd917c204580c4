"""Pretrain for the worst task instead of the mean, and ask labels and synthetic proxies what it was worth.

Masked autoencoders of small pictures (`scenes.py`), nothing to download. Half of the 4 x 4 patches are hidden, and the
upstream task, to fill them in, is split into three by what they are made of: their means, their coarse and their fine
pattern (`--split` has others). Encoders of eight features, too few for all of it, are trained with the same steps,
batches and weights at the start for

- the mean error of all pixels, as usual; and the same with four times the steps, which is about the time that the
  references of the others take besides;
- the worst of the three losses: `TaskRobustLoss(3)`;
- the mean and the worst *share of what can be learnt* that is missing: `TaskRobustLoss(3, reference=..., trivial=...)`,
  with `floor=1.0` for the mean. Trivial losses are the variances; the references, what an encoder of the same size
  reaches that is trained for this task alone, cost three runs, once.

Afterwards linear probes ask for three things that are drawn independently: shape, colour and texture. SynBench asks
with a proxy for each of the three parts, and for the information about each part: views change the other two.

What to expect: accuracy in the worst and in the mean of the three downstream tasks with 400 labels (chance is a
quarter), ± 95 % interval over ten seeds, looked at once (`--seeds 10`); "harder" are pictures with weaker textures and
shapes that lie anywhere (`--stripes .06 --jitter 2`):

                                  worst           mean          harder, worst    harder, mean
    mean error                .272 ± .006     .624 ± .011       .265 ± .004     .498 ± .014
    the same, 4 x the steps   .274 ± .008     .692 ± .004       .263 ± .002     .568 ± .007
    worst loss                .266 ± .002     .532 ± .016       .252 ± .009     .462 ± .018
    mean share                .648 ± .055     .842 ± .018       .474 ± .073     .560 ± .025
    worst share               .686 ± .050     .855 ± .017       .383 ± .054     .515 ± .021

The mean error spends the eight features on colour; the worst loss, on what nobody can learn. Shares find the texture:
the worst task gains .41 ± .05, and is better with 50 labels than otherwise with 1,600; colour loses .24. Most of that
is the *share*, not the *worst*: worst and mean share differ by less than their intervals, and on harder pictures the
mean share is better. The synthetic numbers agree: the lowest score rises from .17 to .77, the least information about a
part from .04 to 2.0 nats. But with four times the steps that information triples and the accuracy stays, and between
the two kinds of shares the order of the scores is not that of the accuracies.

With tasks by the place of patches or by their texture (`--split regions` or `textures`, five seeds) shares gain nothing
(worst task -.010 ± .014 and +.007 ± .013): these tasks do not compete, the mean error learns all to within .05 of what
can be learnt. A split helps where an encoder of its own learns a task much better than the common one does: the first
table of the output tells.

Pictures and model were made with the seeds 100 to 102; two settings of the pictures were tried, and both are above.

    pip install 'synbench-lightning[examples]'
    python examples/pretrain_task_robust.py
"""

from __future__ import annotations

import argparse
import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from synbench_lightning import GaussianTask, SynBenchCallback, TaskRobustLoss, evaluate
from synbench_lightning.functional.minimax import task_means
from synbench_lightning.functional.splits import (
    by_octave,
    by_place,
    cosine_transform,
    image_patches,
    of_values,
    quantiles,
    texture_energy,
)

try:
    from scenes import SIZE, TASKS, make_scenes
    from scipy.stats import t as student
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from synbench_lightning.plots.style import COLOURS, OPTIMUM, Axes, Figure, in_style
except ImportError as error:
    raise SystemExit(
        "This example needs scikit-learn and matplotlib: pip install 'synbench-lightning[examples]'"
    ) from error

PATCH, SHAPE = 4, (3, SIZE, SIZE)
PARTS = ("means", "coarse", "fine")
"""The tasks that patches are split into by frequency: their means, the slowest waves in them, and all faster ones."""
PART_OF = by_octave((PATCH, PATCH), len(PARTS))
LABELS = (50, 100, 200, 400, 800, 1600)
"""Numbers of labels of the learning curves; the tables have the accuracy with the fourth."""
FEW = LABELS[3]
LOG_EVERY = 50

METHODS = ("mean error", "mean error, 4 x steps", "worst loss", "mean share", "worst share")
"""What a model is trained for. The first is what the others are compared with."""
MEASURES = {
    "share of the learnable that is missing": "missing share",
    f"accuracy with {FEW} labels": "accuracy",
    "SynBench score of a proxy in each part": "SynBench score",
    "information about each part": "information (nats)",
}
"""What is measured afterwards, and the label of its axis."""

Scores = dict[str, float]


class Split(NamedTuple):
    """Names of the upstream tasks, and from pictures ``(N, 3, 16, 16)`` the task of each coefficient or patch."""

    names: tuple[str, ...]
    tasks: Callable[[Tensor], Tensor]


def split_of(name: str, images: Tensor) -> Split:
    """Ways to split the upstream task, made from the training images."""
    if name == "parts":
        return Split(PARTS, lambda images: PART_OF)
    if name == "regions":
        regions = by_place((SIZE // PATCH, SIZE // PATCH), (2, 2)).flatten()
        return Split(("upper left", "upper right", "lower left", "lower right"), lambda images: regions)
    edges = quantiles(texture_energy(image_patches(images, PATCH)), 4)
    return Split(
        ("smooth", "soft", "rough", "roughest"),
        lambda images: of_values(texture_energy(image_patches(images, PATCH)), edges),
    )


class MaskedAutoencoder(LightningModule):
    """Reconstructs the hidden patches of pictures from few features.

    Args:
        split: of the upstream task.
        robust: makes one loss of those of the tasks; ``None`` for the mean error of all pixels.
        steps: optimizer steps of the whole run.
        dim: features of the encoder.
        only: train for this task alone.
    """

    def __init__(
        self, split: Split, robust: TaskRobustLoss | None, steps: int, dim: int = 8, only: int | None = None
    ) -> None:
        super().__init__()
        pixels = math.prod(SHAPE)
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, dim)
        )
        self.decoder = nn.Sequential(nn.Linear(dim, 128), nn.ReLU(), nn.Linear(128, pixels))
        self.split, self.robust, self.steps, self.only = split, robust, steps, only

    def losses(self, images: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Of each task the mean square of the errors of what is hidden, and the number of coefficients or patches."""
        across = SIZE // PATCH
        hidden = torch.rand(len(images), across, across, generator=generator) < 0.5
        covered = hidden[:, None].repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
        found = self.decoder(self.encoder(images.masked_fill(covered, 0.0))).view_as(images)
        return self.task_losses(found - images, images, hidden.flatten(1))

    def task_losses(self, errors: Tensor, images: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Of errors in hidden patches: the mean squares of each task, and the counts; ``(k,)`` each."""
        squares = cosine_transform(image_patches(errors, PATCH)).square()  # (N, patches, 3, 4, 4)
        tasks = self.split.tasks(images)
        if tasks.shape == PART_OF.shape:
            tasks = torch.where(hidden[:, :, None, None, None], tasks, -1).expand_as(squares)
        else:
            squares = squares.mean((2, 3, 4))
            tasks = torch.where(hidden, tasks, -1)
        return task_means(squares, tasks, len(self.split.names))

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        losses, counts = self.losses(batch[0])
        if self.only is not None:
            return losses[self.only]
        if self.robust is None:
            return (losses * counts).sum() / counts.sum()
        if (self.global_step + 1) % LOG_EVERY == 0:
            self.log_dict(self.robust.metrics(self.split.names))
        value: Tensor = self.robust(losses, counts)
        return value

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Pictures:
    """What is trained on and asked afterwards."""

    def __init__(self, stripes: float, jitter: float) -> None:
        scenes, asked = make_scenes(8000, 1, stripes, jitter), make_scenes(2000, 2, stripes, jitter)
        mean, spread = scenes.images[:6000].mean(0), scenes.images[:6000].std()
        pictures = (scenes.images - mean) / spread
        self.train, self.labelled, self.asked = pictures[:6000], pictures[6000:], (asked.images - mean) / spread
        self.known = {task: labels[6000:] for task, labels in scenes.labels.items()}
        self.truth = asked.labels
        seed_everything(0, verbose=False)
        self.proxies = proxies(self.train)

    @torch.no_grad()
    def accuracies(self, encoder: nn.Module) -> dict[str, list[float]]:
        """Accuracy of a linear probe for each downstream task and number of labels."""
        known, asked = (encoder.eval()(images).numpy() for images in (self.labelled, self.asked))

        def accuracy(task: str, few: int, start: int) -> float:
            classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
            classifier.fit(known[start : start + few], self.known[task][start : start + few].numpy())
            return float(classifier.score(asked, self.truth[task].numpy()))

        # The same draws for every encoder: which pictures are labelled moves the accuracy.
        return {
            task: [fmean(accuracy(task, few, start) for start in range(0, 400, 100)) for few in LABELS]
            for task in TASKS
        }


def from_parts(coefficients: Tensor) -> Tensor:
    """Pictures ``(N, 3, 16, 16)`` from cosine coefficients ``(N, patches, 3, 4, 4)`` of their patches."""
    waves = cosine_transform(torch.eye(PATCH * PATCH).view(-1, PATCH, PATCH)).flatten(1)  # orthonormal
    across = SIZE // PATCH
    patches = (coefficients.flatten(3) @ waves.T).view(-1, across, across, 3, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(-1, *SHAPE)


def proxies(pictures: Tensor) -> list[GaussianTask]:
    """A proxy task for each part: two classes that differ along the main direction of the pictures in it."""
    parts = cosine_transform(image_patches(pictures, PATCH))
    inside = [torch.where(PART_OF.eq(part), parts, 0.0) for part in range(len(PARTS))]
    directions = [torch.pca_lowrank(one.flatten(1), 4, niter=8)[2][:, 0].view_as(parts[0]) for one in inside]
    return [GaussianTask(name, one) for name, one in zip(PARTS, from_parts(torch.stack(directions)), strict=True)]


def other_parts_changed(part: int, pictures: Tensor) -> Callable[[Tensor], Tensor]:
    """Views that keep one part of a picture and take the others from any picture."""

    def view(images: Tensor) -> Tensor:
        others = pictures[torch.randint(len(pictures), (len(images),))]
        own, other = (cosine_transform(image_patches(one, PATCH)) for one in (images, others))
        return from_parts(torch.where(PART_OF.eq(part), own, other))

    return view


def pretrain(
    pictures: Pictures, split: Split, name: str, seed: int, args: argparse.Namespace, watched: bool = False,
    only: int | None = None, steps: int | None = None, robust: TaskRobustLoss | None = None,
) -> MaskedAutoencoder:  # fmt: skip
    """A pretrained model; equal seeds have equal weights at the start, batches and masks."""
    seed_everything(seed, verbose=False)
    steps = steps or args.steps
    model = MaskedAutoencoder(split, robust, steps, args.dim, only)
    # Seen beside what is trained for: `synbench_tasks/` has the score in each part, `robust/` losses and weights.
    watch: list[Callback] = (
        [SynBenchCallback(tasks=pictures.proxies, every_n_train_steps=max(1, steps // 6))] if watched else []
    )
    folder = f"task_robust/{name.replace(',', '').replace(' ', '_')}"
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", callbacks=watch, enable_checkpointing=False, enable_progress_bar=False,
        logger=TensorBoardLogger(args.dir, folder, f"seed_{seed}", default_hp_metric=False) if watched else False,
        enable_model_summary=False, log_every_n_steps=LOG_EVERY,
    )  # fmt: skip
    order = RandomSampler(pictures.train, num_samples=128 * steps)
    batches = BatchSampler(order, 128, drop_last=False)
    trainer.fit(model, DataLoader(TensorDataset(pictures.train), batch_size=None, sampler=batches))
    return model


@torch.no_grad()
def losses_of(model: MaskedAutoencoder, images: Tensor) -> Tensor:
    return model.losses(images, torch.Generator().manual_seed(0))[0]


class Found(NamedTuple):
    """What one model was worth: each of the measures, and the accuracy by the number of labels."""

    measures: dict[str, Scores]
    curves: dict[str, list[float]]


def examine(model: MaskedAutoencoder, pictures: Pictures, least: Tensor, trivial: Tensor) -> Found:
    missing = (losses_of(model, pictures.asked) - least) / (trivial - least)
    curves = pictures.accuracies(model.encoder)
    information = {
        part: evaluate(
            model.encoder, SHAPE, inputs=pictures.asked[:128], views=other_parts_changed(place, pictures.train)
        ).information or 0.0
        for place, part in enumerate(PARTS)
    }  # fmt: skip
    values: tuple[Scores, ...] = (
        dict(zip(model.split.names, missing.tolist(), strict=True)),
        {task: accuracies[LABELS.index(FEW)] for task, accuracies in curves.items()},
        evaluate(model.encoder, SHAPE, tasks=pictures.proxies).task_scores(),
        information,
    )
    return Found(dict(zip(MEASURES, values, strict=True)), curves)


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)  # tensors this small are not worth sharing among threads
    # Advice of Lightning that does not apply here.
    for advice in ("does not have many workers", "GPU available but not used", "LeafSpec", "exists and is not empty"):
        warnings.filterwarnings("ignore", message=f".*{advice}")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    pictures = Pictures(args.stripes, args.jitter)
    split = split_of(args.split, pictures.train)
    tasks = len(split.names)

    print("What each task can be learnt to by an encoder of its own, as a share of having learnt nothing ...")
    alone = [pretrain(pictures, split, f"{name} alone", 0, args, only=task) for task, name in enumerate(split.names)]
    everywhere = torch.ones(len(pictures.train), (SIZE // PATCH) ** 2, dtype=torch.bool)
    trivial = alone[0].task_losses(pictures.train, pictures.train, everywhere)[0]
    least, held_out = (
        torch.stack([losses_of(model, images)[task] for task, model in enumerate(alone)])
        for images in (pictures.train, pictures.asked)
    )
    print("  " + ",  ".join(f"{name} {share:.3f}" for name, share in zip(split.names, least / trivial, strict=True)))

    def robust(method: str) -> TaskRobustLoss | None:
        ways: dict[str, dict[str, Any]] = {
            "worst loss": {},
            "mean share": {"floor": 1.0, "reference": least, "trivial": trivial},
            "worst share": {"temperature": args.temperature, "reference": least, "trivial": trivial},
        }
        return TaskRobustLoss(tasks, **ways[method]) if method in ways else None

    found: dict[str, list[Found]] = {method: [] for method in METHODS}
    for seed in range(args.first, args.first + args.seeds):
        for method in METHODS:
            model = pretrain(
                pictures, split, method, seed, args, watched=seed == args.first, robust=robust(method),
                steps=args.steps * (4 if "steps" in method else 1),
            )  # fmt: skip
            found[method].append(examine(model, pictures, held_out, trivial))
            accuracies = found[method][-1].measures[f"accuracy with {FEW} labels"]
            print(
                f"seed {seed}  {method:22s}" + "  ".join(f"{task} {value:.3f}" for task, value in accuracies.items()),
                flush=True,
            )

    print_tables(found)
    print_curves(found)
    path = Path(args.dir) / "task_robust.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(found).savefig(path)
    print(f"\nFigure: {path}\nCurves of the first seed: tensorboard --logdir {args.dir}/task_robust")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean over the seeds, and the half-width of its 95 % confidence interval (Student's t)."""
    n, mean = len(values), fmean(values)
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1) / n)
    return mean, float(student.ppf(0.975, n - 1)) * spread


def rows(runs: Sequence[Found], measure: str) -> dict[str, list[float]]:
    """Of the worst task, of their mean and of each task the values of the seeds."""
    values = [run.measures[measure] for run in runs]
    worst = max if "missing" in measure else min
    return {
        "WORST": [worst(one.values()) for one in values],
        "MEAN": [fmean(one.values()) for one in values],
        **{task: [one[task] for one in values] for task in values[0]},
    }


def print_tables(found: Mapping[str, Sequence[Found]]) -> None:
    for measure in MEASURES:
        tables = {method: rows(found[method], measure) for method in METHODS}
        print(f"\n{measure}: ± 95 % interval over the seeds, and difference to training for the {METHODS[0]}")
        print(" " * 12 + "".join(f"{method:>32s}" for method in METHODS))
        for task, base in tables[METHODS[0]].items():
            line = f"{task:12s}" + "{:25.3f} ±{:.3f}".format(*interval(base))
            for method in METHODS[1:]:
                values = tables[method][task]
                changes = [value - start for value, start in zip(values, base, strict=True)]
                line += "{:10.3f} ±{:.3f}".format(*interval(values)) + "{:+8.3f} ±{:.3f}".format(*interval(changes))
            print(line)


def worst_curve(runs: Sequence[Found]) -> list[list[float]]:
    """Of each number of labels the accuracy in the worst downstream task, for the seeds."""
    return [[min(run.curves[task][place] for task in TASKS) for run in runs] for place in range(len(LABELS))]


def print_curves(found: Mapping[str, Sequence[Found]]) -> None:
    print("\nAccuracy in the worst downstream task, by the number of labels")
    print(" " * 22 + "".join(f"{few:>16d}" for few in LABELS))
    for method in METHODS:
        cells = ("{:9.3f} ±{:.3f}".format(*interval(values)) for values in worst_curve(found[method]))
        print(f"{method:22s}" + "".join(cells))


@in_style
def draw(found: Mapping[str, Sequence[Found]]) -> Figure:
    """A panel for each measure, and the learning curves; points are means over the seeds, bars their 95 % intervals."""
    figure = Figure(figsize=(13, 7), dpi=110, layout="constrained")
    panels = figure.subplots(2, 3).flatten()
    for axes, (measure, label) in zip(panels, MEASURES.items(), strict=False):
        compare(axes, {method: rows(found[method], measure) for method in METHODS})
        axes.set(title=measure, ylabel=label)
    for method, colour in zip(METHODS, colours(), strict=True):
        means, errors = zip(*map(interval, worst_curve(found[method])), strict=True)
        panels[4].errorbar(LABELS, means, errors, color=colour, marker="o", markersize=4, capsize=2)
    panels[4].set(title="the worst downstream task", xlabel="labels", ylabel="accuracy", xscale="log", xticks=LABELS)
    panels[4].set_xticklabels(map(str, LABELS))
    panels[4].minorticks_off()
    panels[5].axis("off")
    panels[5].legend(*panels[0].get_legend_handles_labels(), loc="center", title="trained for the")
    figure.suptitle("Masked autoencoders trained for the mean and for the worst of several tasks")
    return figure


def colours() -> list[str]:
    return [OPTIMUM, *COLOURS[: len(METHODS) - 1]]


def compare(axes: Axes, tables: Mapping[str, Mapping[str, list[float]]]) -> None:
    for place, ((method, table), colour) in enumerate(zip(tables.items(), colours(), strict=True)):
        shift = 0.16 * (place - (len(tables) - 1) / 2)
        means, errors = zip(*map(interval, table.values()), strict=True)
        axes.errorbar([at + shift for at in range(len(table))], means, errors, fmt="o", color=colour, markersize=4,
                      capsize=2, label=method)  # fmt: skip
    names = list(tables[METHODS[0]])
    axes.set_xticks(range(len(names)), [name.lower() for name in names])
    axes.axvline(1.5, color=OPTIMUM, linewidth=0.6)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Pretrain for the mean and for the worst of several tasks, and compare what the encoders keep.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--split", choices=("parts", "regions", "textures"), default="parts", help="of the patches")
    parser.add_argument("--seeds", type=int, default=2, help="runs of each method, at least 2")
    parser.add_argument("--first", type=int, default=0, help="the first seed; 100 to 102 were used while developing")
    parser.add_argument("--steps", type=int, default=1200, help="optimizer steps of a run")
    parser.add_argument("--dim", type=int, default=8, help="features of the encoder: the fewer, the more tasks compete")
    parser.add_argument("--temperature", type=float, default=0.1, help="of the worst share")
    parser.add_argument("--stripes", type=float, default=0.1, help="amplitude of the texture")
    parser.add_argument("--jitter", type=float, default=1.0, help="pixels that a shape may be off the middle")
    parser.add_argument("--dir", default="runs", help="where the figure goes")
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error(f"--seeds must be at least 2, for an interval, got {args.seeds}")
    return args


if __name__ == "__main__":
    main()
