"""From the table of checkpoints to answers, with intervals over seeds."""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

KEYS = ("images", "regime", "encoder", "seed", "step")
TARGET_PREFIX, PREDICTOR_PREFIX = "accuracy:", "predictor:"
SUMS = {f"views + readout {n}": ("information, views", f"readout {n}") for n in (100, 300)}
"""Sums of two predictors in units of their standard deviation within the run: for looking back at a run only."""
Row = dict[str, str | float]
Array = np.ndarray


def write_table(rows: Sequence[Row], path: Path) -> None:
    """One row for each checkpoint, or each of its layers. The same rows give the same bytes.

    What some rows lack is written as NaN.
    """
    ordered = sorted(rows, key=lambda row: tuple(row[key] for key in (*KEYS, "layer") if key in row))
    columns = max((list(row) for row in ordered), key=len)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in ordered:
        values = [row.get(name, math.nan) for name in columns]
        writer.writerow(f"{value:.5g}" if isinstance(value, float) else value for value in values)
    path.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))


def read_table(path: Path) -> list[Row]:
    """The rows that were written."""
    with gzip.open(path, "rt") as file:
        return [
            {key: value if key in KEYS[:3] else float(value) for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


class Study:
    """The table as arrays ``(runs, checkpoints)``, and the answers.

    Args:
        rows: checkpoints, all runs with the same steps.
        regimes: those that count.
        first: what the accuracy of the linear probe is about: the column of the first label set.
    """

    def __init__(self, rows: Sequence[Row], regimes: Sequence[str], first: str) -> None:
        rows = [row for row in rows if row["regime"] in regimes]
        self.regimes = [regime for regime in regimes if any(row["regime"] == regime for row in rows)]
        self.steps = sorted({float(row["step"]) for row in rows})
        self.runs = sorted({(str(r["regime"]), str(r["encoder"]), int(r["seed"])) for r in rows})
        place = {run: index for index, run in enumerate(self.runs)}
        columns = [name for name in rows[0] if name.startswith((TARGET_PREFIX, PREDICTOR_PREFIX))]
        found = {name: np.full((len(self.runs), len(self.steps)), np.nan) for name in columns}
        for row in rows:
            at = place[str(row["regime"]), str(row["encoder"]), int(row["seed"])], self.steps.index(float(row["step"]))
            for name in columns:
                found[name][at] = row[name]
        self.targets = _stripped(found, TARGET_PREFIX)
        self.predictors = _stripped(found, PREDICTOR_PREFIX)
        for name, (one, other) in SUMS.items():
            if one in self.predictors and other in self.predictors:
                self.predictors[name] = _standardized(self.predictors[one]) + _standardized(self.predictors[other])
        label_sets = np.stack([values for name, values in self.targets.items() if name.startswith("linear/")])
        self.targets["mean label set"], self.targets["worst label set"] = label_sets.mean(0), label_sets.min(0)
        self.first = f"linear/{first}"
        self.of_regime = np.array([run[0] for run in self.runs])
        self.of_encoder = np.array([run[1] for run in self.runs])
        self.of_seed = np.array([run[2] for run in self.runs])

    def within(self, predictor: str, target: str | None = None) -> Array:
        """Spearman correlation over the checkpoints of each run, ``(runs,)``."""
        pairs = zip(self.predictors[predictor], self.targets[target or self.first], strict=True)
        return np.array([correlation(*pair) for pair in pairs])

    def across(self, predictor: str, fraction: float = 1.0) -> Array:
        """For each seed the correlation, over its runs, of the predictor after a fraction of the steps and the final
        accuracy, ``(seeds,)``."""
        at = int(np.searchsorted(self.steps, fraction * self.steps[-1]))
        early, final = self.predictors[predictor][:, at], self.targets[self.first][:, -1]
        return np.array([correlation(early[self.of_seed == s], final[self.of_seed == s]) for s in self._seeds()])

    def checkpoint_regret(self, predictor: str, target: str | None = None) -> Array:
        """How far the accuracy of the checkpoint with the best value is below the best, ``(runs,)``."""
        pairs = zip(self.predictors[predictor], self.targets[target or self.first], strict=True)
        return np.array([regret(*pair) for pair in pairs])

    def regime_regret(self, predictor: str) -> Array:
        """How far the final accuracy of the regime with the best final value is below the best, for each seed (the
        mean over the architectures), ``(seeds,)``."""
        found = []
        for seed in self._seeds():
            of_both = []
            for encoder in sorted(set(self.of_encoder[self.of_seed == seed])):
                runs = np.flatnonzero((self.of_seed == seed) & (self.of_encoder == encoder))
                of_both.append(regret(self.predictors[predictor][runs, -1], self.targets[self.first][runs, -1]))
            found.append(np.mean(of_both))
        return np.array(found)

    def seeds_of(self, values: Array, summary: Callable[[Array], float]) -> Array:
        """A summary of the runs' values for each seed, ``(seeds,)``."""
        return np.array([summary(values[self.of_seed == seed]) for seed in self._seeds()])

    def _seeds(self) -> list[int]:
        return sorted(set(self.of_seed.tolist()))


def _standardized(values: Array) -> Array:
    """Within each run."""
    found: Array = (values - values.mean(1, keepdims=True)) / (values.std(1, keepdims=True) + 1e-12)
    return found


def correlation(x: Array, y: Array) -> float:
    """Spearman's; 0 where one of them does not vary: it tells nothing."""
    kept = np.isfinite(x) & np.isfinite(y)
    if kept.sum() < 3 or np.ptp(x[kept]) == 0 or np.ptp(y[kept]) == 0:
        return 0.0
    return float(spearmanr(x[kept], y[kept]).statistic)


def regret(values: Array, accuracy: Array) -> float:
    """How far the accuracy where the value is largest is below the best; the mean where several are."""
    return float(accuracy.max() - accuracy[values == np.nanmax(values)].mean())


def report(study: Study, predictors: Sequence[str]) -> Iterator[str]:
    """Tables in Markdown, line by line."""
    targets = [name for name in (study.first, "few-shot linear", "knn") if name in study.targets]
    for target in targets:
        yield f"\n### Spearman within runs, with {target}: median (lowest, highest) over seeds and architectures\n"
        columns = [*study.regimes, "median of the regimes [90 % interval]", "regimes below 0"]
        yield from _table(columns, predictors, partial(_by_regime, study, target))
    yield "\n### Regret of the checkpoint with the best value: mean over seeds (lowest, highest)\n"
    yield from _table(targets, predictors, partial(_regrets, study, targets))
    yield f"\n### Order of runs by {study.first} at the end: mean over seeds (lowest, highest)\n"
    fractions = (0.02, 0.1, 0.3, 1.0)
    columns = [*(f"Spearman, value at {100 * fraction:g} % of the steps" for fraction in fractions), "regret of regime"]
    yield from _table(columns, predictors, partial(_order, study, fractions))
    yield "\n### What is followed: median Spearman within runs\n"
    yield from _table(list(study.targets), predictors, lambda name: [
        f"{np.median(study.within(name, target)):+.2f}" for target in study.targets
    ])  # fmt: skip


def movement(study: Study, examples: int) -> Iterator[str]:
    """How far accuracy moves within runs, and how well its order is known: a table in Markdown.

    The last column is the Spearman correlation, over the checkpoints, of accuracies on two halves of the test set: a
    predictor that knew the truth would reach about the square root of it with one half.

    Args:
        study: with ``first half`` and ``second half`` among its targets.
        examples: of the test set.
    """
    yield f"\n### Movement of {study.first} within runs (median over runs), {examples} test examples\n"
    columns = ["first", "best", "last", "best - lowest, standard errors", "correlation of halves"]
    accuracy = study.targets[study.first]
    halves = zip(study.targets["first half"], study.targets["second half"], strict=True)
    correlations = np.array([correlation(*pair) for pair in halves])

    def cells(regime: str) -> list[str]:
        own = study.of_regime == regime
        values = accuracy[own]
        best = values.max(1)
        moved = (best - values.min(1)) / np.sqrt(best * (1 - best) / examples)
        found = [np.median(part) for part in (values[:, 0], best, values[:, -1])]
        return [*(f"{part:.3f}" for part in found), f"{np.median(moved):.1f}", f"{np.median(correlations[own]):+.2f}"]

    yield from _table(columns, study.regimes, cells)


def _by_regime(study: Study, target: str, predictor: str) -> list[str]:
    values = study.within(predictor, target)
    of = {regime: values[study.of_regime == regime] for regime in study.regimes}
    medians = [float(np.median(found)) for found in of.values()]
    cells = [f"{np.median(found):+.2f} ({found.min():+.2f}, {found.max():+.2f})" for found in of.values()]
    low, high = bootstrap(study, values)
    return [*cells, f"{np.median(medians):+.2f} [{low:+.2f}, {high:+.2f}]", str(sum(median < 0 for median in medians))]


def _regrets(study: Study, targets: Sequence[str], predictor: str) -> list[str]:
    return [_spread(study.seeds_of(study.checkpoint_regret(predictor, target), np.mean), 3) for target in targets]


def _order(study: Study, fractions: Sequence[float], predictor: str) -> list[str]:
    correlations = [_spread(study.across(predictor, fraction)) for fraction in fractions]
    return [*correlations, _spread(study.regime_regret(predictor), 3)]


def bootstrap(study: Study, values: Array, draws: int = 500, coverage: float = 0.9) -> tuple[float, float]:
    """Interval of the median over regimes of the medians over runs, from drawing the seeds again."""
    rng, seeds = np.random.default_rng(0), np.unique(study.of_seed)
    found = []
    for _ in range(draws):
        of_draw = [np.flatnonzero(study.of_seed == seed) for seed in rng.choice(seeds, len(seeds))]
        runs = np.concatenate(of_draw)
        medians = [np.median(values[runs][study.of_regime[runs] == regime]) for regime in study.regimes]
        found.append(np.median(medians))
    low, high = np.quantile(found, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)


def _spread(values: Array, digits: int = 2) -> str:
    return f"{values.mean():.{digits}f} ({values.min():.{digits}f}, {values.max():.{digits}f})"


def _table(columns: Sequence[str], names: Sequence[str], cells: Callable[[str], Sequence[str]]) -> Iterator[str]:
    yield "| | " + " | ".join(columns) + " |"
    yield "|---" * (len(columns) + 1) + "|"
    for name in names:
        yield f"| {name} | " + " | ".join(cells(name)) + " |"


def _stripped(found: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): values for name, values in found.items() if name.startswith(prefix)}
