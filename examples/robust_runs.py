"""Training for the mean and for the worst of several tasks: what the two examples of it share.

`pretrain_task_robust.py` and `pretrain_text_robust.py` bring data and a module that makes the losses of the tasks;
here are the ways to train, the measures afterwards, the tables and the figure.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from scipy.stats import sem
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from synbench_lightning import GaussianTask, SynBenchCallback, TaskRobustLoss, evaluate
from synbench_lightning.plots.style import COLOURS, OPTIMUM, Axes, Figure, in_style

LABELS = (50, 100, 200, 400, 800, 1600)
"""Numbers of labels of the learning curves; the tables have the accuracy with the fourth."""
FEW = LABELS[3]
DRAWS = range(0, 400, 100)
"""Where the draws of labels begin, whose accuracies are averaged."""
MOST_LABELS = DRAWS[-1] + LABELS[-1]
"""Labelled examples that are needed."""
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


class Downstream(NamedTuple):
    """Inputs and labels to learn a task from, at least `MOST_LABELS`, and to ask it."""

    known: Tensor
    labels: Tensor
    asked: Tensor
    truth: Tensor


class Data(NamedTuple):
    """What is trained on and asked afterwards.

    ``train`` and ``held_out`` are what the losses are made of, ``inputs`` the held-out examples as the encoder takes
    them. There is a proxy and a function to views of inputs for each part; views keep the part and change the others.
    """

    train: Tensor
    held_out: Tensor
    inputs: Tensor
    downstream: Mapping[str, Downstream]
    proxies: Sequence[GaussianTask]
    views: Mapping[str, Callable[[Tensor], Tensor]]

    @torch.no_grad()
    def accuracies(self, encoder: nn.Module) -> dict[str, list[float]]:
        """Accuracy of a linear probe for each downstream task and number of labels."""
        encoder.eval()

        def accuracy(known: Any, asked: Any, task: Downstream, few: int, start: int) -> float:
            classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
            classifier.fit(known[start : start + few], task.labels[start : start + few].numpy())
            return float(classifier.score(asked, task.truth.numpy()))

        # The same draws for every encoder: which examples are labelled moves the accuracy.
        found = {}
        for name, task in self.downstream.items():
            known, asked = encoder(task.known).numpy(), encoder(task.asked).numpy()
            found[name] = [fmean(accuracy(known, asked, task, few, start) for start in DRAWS) for few in LABELS]
        return found


class TaskModule(LightningModule):
    """A module with losses of several upstream tasks; `losses` is left to the examples.

    Args:
        encoder: what is pretrained.
        names: of the upstream tasks.
        steps: optimizer steps of the whole run.
        robust: makes one loss of those of the tasks; ``None`` for the mean error, as usual.
        only: train for this task alone.
    """

    def __init__(
        self, encoder: nn.Module, names: Sequence[str], steps: int, robust: TaskRobustLoss | None, only: int | None
    ) -> None:
        super().__init__()
        self.encoder, self.names, self.steps, self.robust, self.only = encoder, names, steps, robust, only

    def losses(self, batch: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Of each task the mean loss in the batch, and of how many it is; ``(k,)`` each."""
        raise NotImplementedError

    def mean_error(self, losses: Tensor, counts: Tensor) -> Tensor:
        return (losses * counts).sum() / counts.sum()

    def training_step(self, batch: tuple[Tensor, ...], batch_idx: int) -> Tensor:
        losses, counts = self.losses(batch[0])
        if self.only is not None:
            return losses[self.only]
        if self.robust is None:
            return self.mean_error(losses, counts)
        if (self.global_step + 1) % LOG_EVERY == 0:
            self.log_dict(self.robust.metrics(self.names))
        value: Tensor = self.robust(losses, counts)
        return value

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


Make = Callable[[int, TaskRobustLoss | None, int | None], TaskModule]
"""A module of a number of steps, for a robust loss or one task alone."""


def pretrain(
    data: Data, make: Make, args: argparse.Namespace, seed: int, method: str = METHODS[0], watched: bool = False,
    robust: TaskRobustLoss | None = None, only: int | None = None,
) -> TaskModule:  # fmt: skip
    """A pretrained model; equal seeds have equal weights at the start, batches and masks."""
    seed_everything(seed)
    steps = args.steps * (4 if "steps" in method else 1)
    model = make(steps, robust, only)
    # Seen beside what is trained for: `synbench_tasks/` has the score in each part, `robust/` losses and weights.
    watch: list[Callback] = (
        [SynBenchCallback(tasks=data.proxies, every_n_train_steps=max(1, steps // 6))] if watched else []
    )
    folder = f"{args.name}/{method.replace(',', '').replace(' ', '_')}"
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", callbacks=watch, enable_checkpointing=False, enable_progress_bar=False,
        logger=TensorBoardLogger(args.dir, folder, f"seed_{seed}", default_hp_metric=False) if watched else False,
        enable_model_summary=False, log_every_n_steps=LOG_EVERY,
    )  # fmt: skip
    order = RandomSampler(data.train, num_samples=128 * steps)
    batches = BatchSampler(order, 128, drop_last=False)
    trainer.fit(model, DataLoader(TensorDataset(data.train), batch_size=None, sampler=batches))
    return model


@torch.no_grad()
def losses_of(model: TaskModule, examples: Tensor) -> Tensor:
    return model.losses(examples, torch.Generator().manual_seed(0))[0]


class Found(NamedTuple):
    """What one model was worth: each of the measures, and the accuracy by the number of labels."""

    measures: dict[str, Scores]
    curves: dict[str, list[float]]


def examine(model: TaskModule, data: Data, least: Tensor, trivial: Tensor) -> Found:
    missing = (losses_of(model, data.held_out) - least) / (trivial - least)
    curves = data.accuracies(model.encoder)
    shape = tuple(data.inputs.shape[1:])
    information = {
        part: evaluate(model.encoder, shape, inputs=data.inputs[:128], views=view).information or 0.0
        for part, view in data.views.items()
    }
    values: tuple[Scores, ...] = (
        dict(zip(model.names, missing.tolist(), strict=True)),
        {task: accuracies[LABELS.index(FEW)] for task, accuracies in curves.items()},
        evaluate(model.encoder, shape, tasks=data.proxies).task_scores(),
        information,
    )
    return Found(dict(zip(MEASURES, values, strict=True)), curves)


def compare(data: Data, names: Sequence[str], make: Make, trivial: Tensor, args: argparse.Namespace) -> None:
    """Trains for each method and seed, prints the tables and draws the figure."""
    torch.set_num_threads(1)  # tensors this small are not worth sharing among threads
    # Advice of Lightning that does not apply here.
    for advice in ("does not have many workers", "GPU available but not used", "LeafSpec", "exists and is not empty"):
        warnings.filterwarnings("ignore", message=f".*{advice}")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)

    print("What each task can be learnt to by an encoder of its own, as a share of having learnt nothing ...")
    alone = [pretrain(data, make, args, 0, only=task) for task in range(len(names))]
    least, held_out = (
        torch.stack([losses_of(model, examples)[task] for task, model in enumerate(alone)])
        for examples in (data.train[: 4 * len(data.held_out)], data.held_out)
    )
    print("  " + ",  ".join(f"{name} {share:.3f}" for name, share in zip(names, least / trivial, strict=True)))

    def robust(method: str) -> TaskRobustLoss | None:
        ways: dict[str, dict[str, Any]] = {
            "worst loss": {},
            "mean share": {"floor": 1.0, "reference": least, "trivial": trivial},
            "worst share": {"temperature": args.temperature, "reference": least, "trivial": trivial},
        }
        return TaskRobustLoss(len(names), **ways[method]) if method in ways else None

    found: dict[str, list[Found]] = {method: [] for method in METHODS}
    for seed in range(args.first, args.first + args.seeds):
        for method in METHODS:
            model = pretrain(data, make, args, seed, method, watched=seed == args.first, robust=robust(method))
            found[method].append(examine(model, data, held_out, trivial))
            accuracies = found[method][-1].measures[f"accuracy with {FEW} labels"]
            print(
                f"seed {seed}  {method:22s}" + "  ".join(f"{task} {value:.3f}" for task, value in accuracies.items()),
                flush=True,
            )

    print_tables(found)
    print_curves(found)
    path = Path(args.dir) / f"{args.name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(found, args.title).savefig(path)
    print(f"\nFigure: {path}\nCurves of the first seed: tensorboard --logdir {args.dir}/{args.name}")


def add_arguments(parser: argparse.ArgumentParser, steps: int) -> None:
    parser.add_argument("--seeds", type=int, default=2, help="runs of each method, at least 2")
    parser.add_argument("--first", type=int, default=0, help="the first seed; 100 to 102 were used while developing")
    parser.add_argument("--steps", type=int, default=steps, help="optimizer steps of a run")
    parser.add_argument("--dim", type=int, default=8, help="features of the encoder: the fewer, the more tasks compete")
    parser.add_argument("--temperature", type=float, default=0.1, help="of the worst share")
    parser.add_argument("--dir", default="runs", help="where the figure goes")


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error(f"--seeds must be at least 2, for an interval, got {args.seeds}")
    return args


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean over the seeds, and the half-width of its 95 % confidence interval (Student's t)."""
    return fmean(values), float(student.ppf(0.975, len(values) - 1) * sem(values))


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
    return [[min(curve[place] for curve in run.curves.values()) for run in runs] for place in range(len(LABELS))]


def print_curves(found: Mapping[str, Sequence[Found]]) -> None:
    print("\nAccuracy in the worst downstream task, by the number of labels")
    print(" " * 22 + "".join(f"{few:>16d}" for few in LABELS))
    for method in METHODS:
        cells = ("{:9.3f} ±{:.3f}".format(*interval(values)) for values in worst_curve(found[method]))
        print(f"{method:22s}" + "".join(cells))


@in_style
def draw(found: Mapping[str, Sequence[Found]], title: str) -> Figure:
    """A panel for each measure, and the learning curves; points are means over the seeds, bars their 95 % intervals."""
    figure = Figure(figsize=(13, 7), dpi=110, layout="constrained")
    panels = figure.subplots(2, 3).flatten()
    for axes, (measure, label) in zip(panels, MEASURES.items(), strict=False):
        draw_measure(axes, {method: rows(found[method], measure) for method in METHODS})
        axes.set(title=measure, ylabel=label)
    for method, colour in zip(METHODS, colours(), strict=True):
        means, errors = zip(*map(interval, worst_curve(found[method])), strict=True)
        panels[4].errorbar(LABELS, means, errors, color=colour, marker="o", markersize=4, capsize=2)
    panels[4].set(title="the worst downstream task", xlabel="labels", ylabel="accuracy", xscale="log", xticks=LABELS)
    panels[4].set_xticklabels(map(str, LABELS))
    panels[4].minorticks_off()
    panels[5].axis("off")
    panels[5].legend(*panels[0].get_legend_handles_labels(), loc="center", title="trained for the")
    figure.suptitle(title)
    return figure


def colours() -> list[str]:
    return [OPTIMUM, *COLOURS[: len(METHODS) - 1]]


def draw_measure(axes: Axes, tables: Mapping[str, Mapping[str, list[float]]]) -> None:
    for place, ((method, table), colour) in enumerate(zip(tables.items(), colours(), strict=True)):
        shift = 0.16 * (place - (len(tables) - 1) / 2)
        means, errors = zip(*map(interval, table.values()), strict=True)
        axes.errorbar([at + shift for at in range(len(table))], means, errors, fmt="o", color=colour, markersize=4,
                      capsize=2, label=method)  # fmt: skip
    names = list(tables[METHODS[0]])
    axes.set_xticks(range(len(names)), [name.lower() for name in names])
    axes.axvline(1.5, color=OPTIMUM, linewidth=0.6)
