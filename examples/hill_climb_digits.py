"""Predict a benchmark of seven labelled tasks during pretraining from a few of its points, and see what that is worth.

A small encoder is pretrained on scanned digits without labels, as in `pretrain_digits.py`. At 40 checkpoints the
benchmark is evaluated in full: 5,069 points of seven tasks, each answered by a closed-form few-shot readout. Then it is
pretended that only the first half of the checkpoints was seen. Every method selects its points there, sees nothing but
them at the later checkpoints, and is judged by the truth:

- error: mean distance of the predicted benchmark from the true one (mean log-likelihood of the right label, in nats);
- rank: Spearman correlation of predicted and true over the later checkpoints;
- regret: how much worse the checkpoint that it chooses is than the best;
- coverage: how often the 95 % interval holds the truth.

What to expect, from ten seeds (`--seeds 10`): the library's default, draws in proportion to how badly points could be
forecast with AIPW, has three quarters of the error of random draws with AIPW (.012 and .015 nats at 2 percent of the
points, .0051 and .0073 at 10) and a fifth to a quarter of that of plain means of random points. Its 95 % intervals hold
in .96 to .98. Here draws in proportion to the loss, or to the variability, and centres of coefficient clusters are as
good or better; on answers of language models they are worse than random draws, and the default is not
(`python -m tests.performance.points`). Predicting the points that were not evaluated from those that they moved with
does not get better with more points. In the choice of a checkpoint the last one (regret .0074) is beaten clearly from
10 percent of the points on (.0016), and there random draws (.0010) do as well.

Nothing is downloaded; a seed takes about 45 seconds on one CPU core.

    pip install 'synbench-lightning[examples]'
    python examples/hill_climb_digits.py
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

import torch
from scipy.stats import spearmanr
from torch import Tensor

from synbench_lightning import ProbeResult
from synbench_lightning.functional.benchmark.anchors import anchor_estimate
from synbench_lightning.functional.benchmark.cartography import cartography, multidimensional_scaling
from synbench_lightning.functional.benchmark.confidence_intervals import (
    Estimate,
    mean_estimate,
    mean_of_tasks,
    minimum_detectable_difference,
    weighted_mean,
)
from synbench_lightning.functional.benchmark.curve_correlation import (
    correlation_distance,
    pearson,
    standardised,
    task_curves,
)
from synbench_lightning.functional.benchmark.lure import lure
from synbench_lightning.functional.benchmark.polynomials import agreement, polynomial_coefficients
from synbench_lightning.functional.benchmark.prediction import change_of_benchmark, choose_points, predict_tasks
from synbench_lightning.functional.benchmark.representatives import anchor_points, coverage
from synbench_lightning.functional.benchmark.selection import Selection, proportional, stratified, uniform
from synbench_lightning.functional.gaussian.bayes_optimal import optimal_accuracy, optimal_bound

try:
    from digits_benchmark import CHECKPOINTS, Run, pretrain

    from synbench_lightning.plots import (
        correlation_figure,
        point_map_figure,
        prediction_figure,
        task_curves_figure,
    )
except ImportError as error:
    raise SystemExit(
        "This example needs scikit-learn and matplotlib: pip install 'synbench-lightning[examples]'"
    ) from error

BUDGETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)

Estimator = Callable[[Run, Selection], Estimate]


def by_task(run: Run, selection: Selection, estimate: Callable[[Tensor, Tensor], Estimate]) -> Estimate:
    """The benchmark from an estimate of each task, given its points and which places they have in the selection."""
    found = []
    for task in range(len(run.names)):
        inside = (run.tasks[selection.indices] == task).nonzero()[:, 0]
        if len(inside):  # uniform sampling may leave a small task without a point
            found.append(estimate((run.tasks == task).nonzero()[:, 0], inside))
    return mean_of_tasks(found)


def values_at(run: Run, selection: Selection, inside: Tensor) -> Tensor:
    return run.curves[run.half :][:, selection.indices[inside]]


def plain_mean(run: Run, selection: Selection) -> Estimate:
    return by_task(run, selection, lambda own, inside: mean_estimate(values_at(run, selection, inside), len(own)))


def weighted(run: Run, selection: Selection) -> Estimate:
    return by_task(
        run,
        selection,
        lambda own, inside: weighted_mean(values_at(run, selection, inside), selection.weights[inside], len(own)),
    )


def with_lure(run: Run, selection: Selection) -> Estimate:
    def estimate(own: Tensor, inside: Tensor) -> Estimate:
        assert selection.proposal is not None
        return lure(values_at(run, selection, inside), selection.proposal[inside], len(own))

    return by_task(run, selection, estimate)


def corrected(run: Run, selection: Selection) -> Estimate:
    """The forecast from the complete evaluations, corrected by what the selected points show."""
    return mean_of_tasks(
        predict_tasks(run.curves[run.half :][:, selection.indices], selection, earlier(run), run.tasks)
    )


def with_predictor(run: Run, selection: Selection) -> Estimate:
    sizes = torch.bincount(run.tasks)
    values = run.curves[run.half :][:, selection.indices]
    return anchor_estimate(run.curves[: run.half], selection.indices, values, 1 / sizes[run.tasks].double())


def earlier(run: Run) -> Tensor:
    return run.curves[: run.half]


def select(run: Run, method: str, budget: int, seed: int) -> Selection:
    curves, tasks = earlier(run), run.tasks
    ways: dict[str, Callable[[], Selection]] = {
        "uniform": lambda: uniform(tasks, budget, seed),
        "random": lambda: choose_points(curves, tasks, budget, "random", seed),
        "residual": lambda: choose_points(curves, tasks, budget, "residual", seed),
        "loss": lambda: proportional(-curves[-5:].mean(0).clamp_max(0), tasks, budget, seed),
        "clusters": lambda: choose_points(curves, tasks, budget, "clusters", seed),
        "variability": lambda: proportional(cartography(curves).variability, tasks, budget, seed),
        "anchors": lambda: anchor_points(curves, tasks, budget, seed),
        "coverage": lambda: coverage(curves, tasks, budget, seed),
    }
    return ways[method]()


BASELINE, DEFAULT = "random in each task, AIPW (baseline)", "residual-proportional, AIPW (default)"
METHODS: dict[str, tuple[str, Estimator]] = {
    "uniform random, mean": ("uniform", plain_mean),
    "random in each task, mean": ("random", plain_mean),
    BASELINE: ("random", corrected),
    DEFAULT: ("residual", corrected),
    "loss-proportional, LURE": ("loss", with_lure),
    "loss-proportional, AIPW": ("loss", corrected),
    "variability-proportional, AIPW": ("variability", corrected),
    "anchor points, weighted": ("anchors", weighted),
    "anchor points, weighted residual": ("anchors", corrected),
    "anchor points, predictor": ("anchors", with_predictor),
    "coefficient clusters, weighted": ("clusters", weighted),
    "coefficient clusters, weighted residual": ("clusters", corrected),
    "coverage, weighted": ("coverage", weighted),
    "coverage, weighted residual": ("coverage", corrected),
    "coverage, predictor": ("coverage", with_predictor),
}


class Judgement(NamedTuple):
    error: float
    rank: float
    regret: float
    coverage: float


def judge(estimate: Estimate, truth: Tensor) -> Judgement:
    value = estimate.value
    low, high = estimate.interval()
    return Judgement(
        float((value - truth).abs().mean()),
        float(spearmanr(value, truth).statistic) if value.std() > 0 else 0.0,
        float(truth.max() - truth[value.argmax()]),
        float(((low <= truth) & (truth <= high)).double().mean()),
    )


def compare(runs: Sequence[Run]) -> None:
    points = len(runs[0].tasks)
    spread = fmean(float(run.truth.std()) for run in runs)
    last = fmean(float(run.truth.max() - run.truth[-1]) for run in runs)
    by_chance = fmean(float(run.truth.max() - run.truth.mean()) for run in runs)
    print(
        f"\nThe benchmark: {points:,} points, {len(runs[0].names)} tasks; {runs[0].half} checkpoints to select on, "
        f"{len(runs[0].truth)} to be judged on.\nOver the later checkpoints the true value has a standard deviation of "
        f"{spread:.4f} nats.\nRegret without any evaluation: {last:.4f} for the last checkpoint, {by_chance:.4f} for "
        "one at random.\n"
    )
    for budget in BUDGETS:
        found: dict[str, list[Judgement]] = {name: [] for name in METHODS}
        smallest: dict[str, list[float]] = {"random": [], "residual": []}
        for seed, run in enumerate(runs):
            selections = {how: select(run, how, round(budget * points), seed) for how, _ in METHODS.values()}
            for name, (how, estimator) in METHODS.items():
                found[name].append(judge(estimator(run, selections[how]), run.truth))
            for how, found_here in smallest.items():
                found_here.append(detectable(run, selections[how]))
        print(f"budget {budget:.0%}: {round(budget * points)} points")
        print(f"{'':42}{'error':>15}{'rank':>14}{'regret':>16}{'coverage':>10}   better than the baseline in")
        for name, judged in found.items():
            error, rank, regret, held = ([getattr(one, field) for one in judged] for field in Judgement._fields)
            pairs = zip(judged, found[BASELINE], strict=True)
            wins = sum(one.error < other.error for one, other in pairs)
            print(
                f"{name:42}{spelled(error, 4):>15}{spelled(rank, 2):>14}{spelled(regret, 4):>16}{fmean(held):>10.2f}"
                f"   {'' if name == BASELINE else f'{wins} of {len(runs)} seeds'}"
            )
        told = ", ".join(f"{fmean(values):.4f} ({how})" for how, values in smallest.items())
        print(f"two successive checkpoints are told apart from a difference of {told} on\n")


def detectable(run: Run, selection: Selection) -> float:
    """Smallest difference between two later checkpoints that the selected points show, on average."""
    later = run.curves[run.half :, selection.indices]
    changes = change_of_benchmark(later[1:] - later[:-1], selection, run.tasks)
    return float(minimum_detectable_difference(changes).mean())


def spelled(values: Sequence[float], digits: int) -> str:
    """Mean and its standard error over the seeds."""
    error = stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return f"{fmean(values):.{digits}f} ± {error:.{digits}f}"


def findings(runs: Sequence[Run]) -> None:
    """What the paper found, looked for here."""
    print(
        "Findings of the paper, looked for in these runs\n\n1. Related tasks correlate over training (mean r of runs):"
    )
    names = runs[0].names
    correlations = [pearson(task_curves(run.curves, run.tasks)) for run in runs]
    mean_r = torch.stack([found.r for found in correlations]).mean(0)
    significant = torch.stack([found.p_value < 0.01 for found in correlations]).double().mean(0)
    print(" " * 10 + "".join(f"{name:>9}" for name in names))
    for row, name in enumerate(names):
        print(f"{name:10}" + "".join(f"{mean_r[row, column]:9.2f}" for column in range(row + 1)))
    digits = range(4)
    related = [(i, j) for i in digits for j in range(i)]
    unrelated = [(i, j) for i in digits for j in (4, 5, 6)]
    for title, pairs in (("between digit, parity, size, loops", related), ("between those and the others", unrelated)):
        mean, share = (fmean(float(table[i, j]) for i, j in pairs) for table in (mean_r, significant))
        print(f"   {title}: mean r {mean:.2f}, p < .01 in {share:.0%} of pairs and runs")
    trends = fmean(float(pearson(detrended(run)).r[1, 0]) for run in runs)
    print(f"   digit and parity without each one's straight line over training: r {trends:.2f}")

    print("\n2. Points of a class cluster (mean r of two points, over all checkpoints):")
    for task, name in enumerate(names):
        same, other = [], []
        for run in runs:
            own = run.tasks == task
            r, labels = pearson(run.curves[:, own]).r.fill_diagonal_(torch.nan), run.labels[own]
            alike = labels[:, None] == labels
            same.append(float(r[alike].nanmean()))
            other.append(float(r[~alike].nanmean()))
        print(f"   {name:8} same class {fmean(same):5.2f}, other class {fmean(other):5.2f}")

    print("\n3. The polynomial way agrees with the pairwise one (over pairs of points; raw | standardised curves):")
    for degree in (1, 3, 5, 10, 20, 30, CHECKPOINTS - 1):
        found: list[list[float]] = [[], []]
        for run in runs:
            chosen = torch.arange(0, len(run.tasks), 8)
            curves = run.curves[:, chosen]
            r = pearson(curves).r
            for index, shape in enumerate((curves, standardised(curves))):
                found[index].append(agreement(polynomial_coefficients(shape, degree), r))
        print(f"   degree {degree:2d}: {spelled(found[0], 2)} | {spelled(found[1], 3)}")


def detrended(run: Run) -> Tensor:
    """Task curves minus their straight lines."""
    curves = task_curves(run.curves, run.tasks)
    time = torch.linspace(-1, 1, len(curves)).double()
    line = torch.stack([torch.ones_like(time), time], 1)
    fitted: Tensor = line @ torch.linalg.lstsq(line, curves).solution
    return curves - fitted


def proxies(runs: Sequence[Run]) -> None:
    """Which cells of the probe, each a proxy task at one scale, predict its mean score at later checkpoints."""
    print("\nThe proxy tasks as the benchmark: the mean SynBench score of later checkpoints from some of its cells")
    forwards = runs[0].probes[0].num_forwards
    print(f"{'':17}{'anchor cells':^36}{'cells at random':^36}")
    print(f"{'cells':>6}{'forwards':>10} {'error':>21}{'rank':>14} {'error':>21}{'rank':>14}   anchors of seed 0")
    for count in (2, 4, 8, 16, 32):
        found: list[list[Judgement]] = [[], []]
        shown = ""
        for seed, run in enumerate(runs):
            curves, names = contributions(run.probes)
            earlier, later = curves[: run.half], curves[run.half :]
            moving = (earlier.std(0) > 1e-6).nonzero()[:, 0]  # a scale at which nothing, or all, is right tells nothing
            one_task = torch.zeros(len(names), dtype=torch.long)
            few = min(count, len(moving))
            anchors = moving[anchor_points(earlier[:, moving], one_task[: len(moving)], few, seed).indices]
            drawn = stratified(one_task, count, seed).indices
            for judged, cells in zip(found, (anchors, drawn), strict=True):
                judged.append(judge(anchor_estimate(earlier, cells, later[:, cells]), later.mean(1)))
            if seed == 0 and count <= 4:
                shown = ", ".join(names[cell] for cell in anchors.tolist())
        columns = "".join(
            f" {spelled([len(names) * one.error for one in judged], 4):>21}"
            f"{spelled([one.rank for one in judged], 2):>14}"
            for judged in found
        )
        print(f"{count:6d}{forwards * count // len(names):10,d}{columns}   {shown}")


def contributions(probes: Sequence[ProbeResult], threshold: float = 0.7) -> tuple[Tensor, list[str]]:
    """What each task at each scale adds to the mean score ``(T, cells)``, and the names of the cells."""
    first = probes[0]
    scales = torch.tensor(first.scales, dtype=torch.float64)
    weights = torch.tensor(first.plan.weights, dtype=torch.float64)
    area = (weights * optimal_bound(scales) * (optimal_accuracy(scales) - threshold).clamp_min(0)).sum()
    accuracy, bound = (
        torch.tensor([getattr(probe, name) for probe in probes], dtype=torch.float64)[:, :, 0]
        for name in ("accuracy", "bound")
    )
    share = weights * bound * (accuracy - threshold).clamp_min(0) / area / len(first.tasks)
    return share.flatten(1), [f"{task} at {scale:.1f}" for task in first.tasks for scale in first.scales]


def draw(run: Run, folder: Path) -> None:
    """The four figures of the first run."""
    folder.mkdir(parents=True, exist_ok=True)
    steps = [probe.step or 0 for probe in run.probes]
    curves = task_curves(run.curves, run.tasks)
    figures = {
        "curves": task_curves_figure(curves, run.names, steps, run.half),
        "correlations": correlation_figure(pearson(curves), run.names),
    }
    own = (run.tasks == 0).nonzero()[:, 0]
    anchors = anchor_points(run.curves[:, own], torch.zeros_like(own), 20).indices
    positions = multidimensional_scaling(correlation_distance(pearson(run.curves[:, own]).r))
    figures["points"] = point_map_figure(positions, run.labels[own], [f"digit {d}" for d in range(10)], anchors)
    budget = round(0.05 * len(run.tasks))
    figures["predictions"] = prediction_figure(
        run.truth,
        {
            f"{name.partition(' (')[0]}, {budget} points": estimator(run, select(run, how, budget, seed=0))
            for name, (how, estimator) in METHODS.items()
            if name in (BASELINE, DEFAULT)
        },
    )
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")
    print(f"\nFigures of seed 0: {', '.join(str(folder / f'{name}.png') for name in figures)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Predict a benchmark during pretraining from a few of its points.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, default=4, help="pretraining runs, and selections with each method")
    parser.add_argument("--dir", default="runs/hill_climb", help="where the figures go")
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error(f"--seeds must be at least 1, got {args.seeds}")
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    for advice in ("does not have many workers", "GPU available but not used", "LeafSpec"):
        warnings.filterwarnings("ignore", message=f".*{advice}")
    runs = []
    for seed in range(args.seeds):
        print(f"pretraining, seed {seed} ...", flush=True)
        runs.append(pretrain(seed))
    compare(runs)
    findings(runs)
    proxies(runs)
    draw(runs[0], Path(args.dir))


if __name__ == "__main__":
    main()
