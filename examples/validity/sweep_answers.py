"""From the table of a sweep's runs to answers: which number ranks them as their accuracies do?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import rankdata

from validity.answers import PREDICTOR_PREFIX, TARGET_PREFIX, Array, Row, correlation, regret
from validity.sweep_measure import PREDICTORS
from validity.sweep_settings import METHODS

ACCURACY, ERROR = f"{TARGET_PREFIX}linear", "error:linear"


class Ranking(NamedTuple):
    """How a number ranks runs: Spearman's correlation with their accuracies, its 90 % interval, and the accuracy that
    the run with the best number lacks."""

    rho: float
    low: float
    high: float
    regret: float

    def __str__(self) -> str:
        return f"{self.rho:.2f} [{self.low:.2f}, {self.high:.2f}] / {self.regret:.3f}"


class Sweep:
    """The runs of one source, of one method or of all."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.accuracy = self._column(ACCURACY)
        self.error = float(np.median(self._column(ERROR)))

    def _column(self, name: str) -> Array:
        return np.array([float(row[name]) for row in self.rows])

    def ranking(self, predictor: str) -> Ranking | None:
        """``None`` where fewer than half of the runs have the number."""
        values = self._column(PREDICTOR_PREFIX + predictor)
        known = np.isfinite(values)
        if known.mean() < 0.5:
            return None
        low, high = bootstrap(values, self.accuracy)
        lost = regret(values[known], self.accuracy[known]) + self.accuracy.max() - self.accuracy[known].max()
        return Ranking(correlation(values, self.accuracy), low, high, lost)

    def better_half(self) -> Sweep:
        """The runs whose accuracy is at least the median."""
        least = np.median(self.accuracy)
        return Sweep([row for row, found in zip(self.rows, self.accuracy, strict=True) if found >= least])

    def summary(self) -> str:
        """The range of accuracies, their standard error, and the correlation that this error leaves at most."""
        at_most = max(0.0, 1 - self.error**2 / float(self.accuracy.var())) ** 0.5
        return f"{self.accuracy.min():.3f} to {self.accuracy.max():.3f}, se {self.error:.3f}, at most {at_most:.2f}"


def bootstrap(values: Array, accuracy: Array, draws: int = 500, coverage: float = 0.9) -> tuple[float, float]:
    """Interval of the rank correlation, from drawing the runs again."""
    known = np.isfinite(values) & np.isfinite(accuracy)
    chosen = np.random.default_rng(0).integers(known.sum(), size=(draws, known.sum()))
    ranks = [rankdata(of[known][chosen], axis=1) - (known.sum() + 1) / 2 for of in (values, accuracy)]
    lengths = [np.sqrt((of**2).sum(1)) for of in ranks]
    found = (ranks[0] * ranks[1]).sum(1) / np.maximum(lengths[0] * lengths[1], 1e-12)
    low, high = np.quantile(found, [(1 - coverage) / 2, (1 + coverage) / 2])
    return float(low), float(high)


def report(rows: Sequence[Row], predictors: Sequence[str] = PREDICTORS) -> Iterator[str]:
    """Tables in Markdown, line by line: for each sweep its sources by method, then all sources."""
    sweeps = sorted({str(row["encoder"]) for row in rows}, reverse=True)
    for sweep in sweeps:
        own = [row for row in rows if row["encoder"] == sweep]
        sources = sorted({str(row["images"]) for row in own})
        for source in sources:
            yield f"\n## {source}, {sweep}: Spearman over runs [90 % interval] / accuracy lost by the best number\n"
            yield from _of_source([row for row in own if row["images"] == source], predictors)
        for half in (False, True):
            of = "the better half of the runs" if half else "all runs"
            what = "median of the methods' correlations / mean of what is lost (largest)"
            yield f"\n## All sources, {sweep}, {of}: {what}\n"
            yield from _of_sources(own, sources, predictors, half)


def _of_source(rows: Sequence[Row], predictors: Sequence[str]) -> Iterator[str]:
    by_method = [Sweep([row for row in rows if row["regime"] == method]) for method in _methods(rows)]
    sweeps = [*by_method, Sweep(rows)]
    yield "| number | " + " | ".join([*_methods(rows), "all methods"]) + " |"
    yield "|---" * (len(sweeps) + 1) + "|"
    yield "| accuracy | " + " | ".join(sweep.summary() for sweep in sweeps) + " |"
    for name in predictors:
        cells = [sweep.ranking(name) for sweep in sweeps]
        yield f"| {name} | " + " | ".join("-" if cell is None else str(cell) for cell in cells) + " |"


def _of_sources(
    rows: Sequence[Row], sources: Sequence[str], predictors: Sequence[str], better_half: bool
) -> Iterator[str]:
    sweeps = {
        (source, method): Sweep([row for row in rows if (row["images"], row["regime"]) == (source, method)])
        for source in sources
        for method in _methods(rows)
    }
    if better_half:
        sweeps = {key: sweep.better_half() for key, sweep in sweeps.items()}
    yield "| number | " + " | ".join(sources) + " |"
    yield "|---" * (len(sources) + 1) + "|"
    for name in predictors:
        cells = []
        for source in sources:
            found = [sweep.ranking(name) for (of, _), sweep in sweeps.items() if of == source]
            known = [ranking for ranking in found if ranking is not None]
            lost = [ranking.regret for ranking in known]
            rho = np.median([ranking.rho for ranking in known]) if known else 0
            cells.append(f"{rho:.2f} / {np.mean(lost):.3f} ({max(lost):.3f})" if known else "-")
        yield f"| {name} | " + " | ".join(cells) + " |"


def _methods(rows: Sequence[Row]) -> list[str]:
    return [method for method in METHODS if any(row["regime"] == method for row in rows)]
