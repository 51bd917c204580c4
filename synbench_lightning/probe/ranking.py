"""Rank runs or encoders by their probes, with standard errors of the differences."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from synbench_lightning.checks import shown
from synbench_lightning.functional.representation.information import WIDTH_RATIO, comparable_widths, replicates_error
from synbench_lightning.probe.result import ProbeResult

WIDTH = 80
"""Columns of a terminal in which a ranking is printed."""
CLEAR = 2.0
"""A difference is significant from this many standard errors on, by convention."""
NAMES = {
    ("information", True): "information under the same views, in nats",
    ("readout", True): "readout of the same held-out labels",
    ("information", False): "information with white noise",
    ("score", False): "the score",
}
"""Ranking criteria in order of preference, and whether they ranked runs in the study of ``examples/README.md``."""
REASONS = {
    "tasks": "different tasks", "plan": "a different plan", "epsilons": "different epsilons",
    "seed": "a different seed", "input_shape": "inputs of a different shape", "inputs": "different inputs or views",
    "labels": "different labeled examples",
}  # fmt: skip


@dataclass(frozen=True)
class Ranked:
    """One of several runs or encoders.

    Args:
        name: name of the run or encoder.
        step: optimizer steps before the probe; ``None`` outside training.
        value: value of the criterion.
        error: its standard error; ``None`` if it is unknown.
        behind: difference between the best value and this one.
        behind_error: standard error of that difference; ``None`` if it is unknown.
        paired: whether ``behind_error`` is that of a paired difference on the same examples; that of independent
            values is larger.
    """

    name: str
    step: int | None
    value: float
    error: float | None
    behind: float
    behind_error: float | None
    paired: bool

    @property
    def distinguished(self) -> bool:
        """Whether it is worse than the best by at least two standard errors of the difference."""
        return self.behind_error is not None and self.behind > 0 and self.behind >= CLEAR * self.behind_error


@dataclass(frozen=True)
class Ranking:
    """Runs or encoders ranked by their representations; ``str()`` gives a table and how certain the order is.

    Args:
        key: the criterion: ``"information"``, ``"readout"`` or ``"score"``.
        holds: whether the criterion was found to rank runs; if not, the order is merely that of the values.
        ranked: the runs or encoders, best first.
        excluded: names of those that are not comparable, with the reason.

    Example:
        >>> warm = Ranked("warm", 600, value=45.31, error=0.5, behind=0.0, behind_error=0.0, paired=True)
        >>> cold = Ranked("cold", 600, value=40.12, error=0.5, behind=5.19, behind_error=0.31, paired=True)
        >>> print(Ranking("information", True, (warm, cold)))
        rank  run   step   information  behind the best
           1  warm   600  45.31 ± 0.50
           2  cold   600  40.12 ± 0.50      5.19 ± 0.31
        Best is warm, by information under the same views, in nats: all others are worse
        by at least two standard errors of the difference.
    """

    key: str
    holds: bool
    ranked: tuple[Ranked, ...]
    excluded: Mapping[str, str] = field(default_factory=dict)

    @property
    def best(self) -> str:
        """Name of the best run or encoder."""
        return self.ranked[0].name

    @property
    def rivals(self) -> tuple[str, ...]:
        """Names of those that cannot be distinguished from the best within two standard errors."""
        return tuple(one.name for one in self.ranked[1:] if not one.distinguished)

    @property
    def rows(self) -> list[list[str]]:
        """The ranking as a table: a header, and one row each."""
        digits = 2 if self.key == "information" else 3
        of_runs = any(one.step is not None for one in self.ranked)
        head = ["rank", "run" if of_runs else "encoder", *(["step"] if of_runs else []), self.key, "behind the best"]
        rows = [head]
        for place, one in enumerate(self.ranked, 1):
            step = [f"{one.step or 0:,}"] if of_runs else []
            behind = "" if place == 1 else _with_error(one.behind, one.behind_error, digits)
            rows.append([str(place), one.name, *step, _with_error(one.value, one.error, digits), behind])
        return rows

    @property
    def sentences(self) -> list[str]:
        """Warnings, the conclusion, and what was excluded, in sentences."""
        found = list(self._warnings())
        if len(self.ranked) > 1:
            others = "all others are worse by at least two standard errors of the difference"
            if self.rivals:
                rest = len(self.rivals) == len(self.ranked) - 1
                listed = "any of the others" if rest and len(self.rivals) > 1 else ", ".join(self.rivals)
                others = f"it cannot be distinguished from {listed} (less than two standard errors of the difference)"
            verdict = "Best is" if self.holds else "The highest value is that of"
            found.append(f"{verdict} {self.best}, by {NAMES[self.key, self.holds]}: {others}.")
        by_reason: dict[str, list[str]] = {}
        for name, reason in self.excluded.items():
            by_reason.setdefault(reason, []).append(name)
        found += [f"Not comparable: {', '.join(names)} ({reason})." for reason, names in by_reason.items()]
        return found

    def _warnings(self) -> Iterator[str]:
        if self.holds or len(self.ranked) < 2:
            return
        yield (
            f"This does not rank representations: {NAMES[self.key, False]} can be misleading. Probe all of them with "
            "the same `inputs` and `views`, or the same held-out `labels`."
        )

    def __str__(self) -> str:
        rows = self.rows
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for row in rows:
            cells = (
                cell.ljust(width) if place == 1 else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            lines.append("  ".join(cells).rstrip())
        words = textwrap.TextWrapper(WIDTH, break_on_hyphens=False, break_long_words=False)
        return "\n".join([*lines, *map(words.fill, self.sentences)])


def rank(results: Mapping[str, ProbeResult | Sequence[ProbeResult]], threshold: float = 0.7) -> Ranking:
    """Rank runs or encoders by their probes, with standard errors of the differences.

    The criterion is information under views, if most of them have it for the same inputs in the same views: give all
    runs one fixed set of views, whatever each trains with (:func:`save_views`). Otherwise it is the readout of the same
    held-out labels. Without either, they are ordered by information with noise, or by the score, and the result says
    that these do not rank representations.

    All are probed with the same examples, so the standard error of a difference is a paired one: a jackknife over
    inputs and views, or over labeled examples. It does not include the variance over training seeds.

    Results are comparable if they share tasks, plan, epsilons, seed, input shape, inputs and views (or labels), and
    feature dimension. The largest group of comparable results is ranked; the others are in :attr:`Ranking.excluded`,
    with the reason.

    Args:
        results: for each name, a result, or the history of a run, whose best probe after the first step is used.
        threshold: threshold accuracy of the score, if the score is the criterion.

    Returns:
        The ranking.

    Raises:
        ValueError: for no results, or an empty history.

    Example:
        >>> import torch
        >>> from synbench_lightning import evaluate
        >>> x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
        >>> encoders = {"half": lambda x: x * (torch.arange(8) < 4), "whole": torch.nn.Flatten()}
        >>> views = lambda batch: batch + 0.1 * torch.randn_like(batch)
        >>> found = rank({name: evaluate(one, (8,), inputs=x, views=views) for name, one in encoders.items()})
        >>> found.best, found.rivals
        ('whole', ())
    """
    histories: dict[str, list[ProbeResult]] = {}
    if not isinstance(results, Mapping) or not results:
        raise ValueError(f"`results` must be a non-empty mapping of names to results, got {shown(results)}.")
    for name, one in results.items():
        histories[name] = [one] if isinstance(one, ProbeResult) else list(one) if isinstance(one, Iterable) else []
        if not histories[name] or not all(isinstance(result, ProbeResult) for result in histories[name]):
            raise ValueError(f"`results[{name!r}]` must be a ProbeResult or a history of them, got {shown(one)}.")
    groups = [(key, holds, _largest_group(histories, key, holds)) for key, holds in NAMES]
    in_force = [one for one in groups if one[1]]
    key, holds, group = max(in_force, key=lambda one: len(one[2]))
    if len(group) < min(2, len(histories)):
        others = [one for one in groups if not one[1]]
        key, holds, group = max([(key, holds, group), *others], key=lambda one: len(one[2]))
    reference = next(iter(group.values()))
    chosen = {name: _best(histories[name], last, key, threshold) for name, last in group.items()}
    excluded = {
        name: _reason(history[-1], reference, key, holds) for name, history in histories.items() if name not in group
    }
    best = max(chosen.values(), key=lambda result: _value(result, key, threshold))
    ranked = [
        Ranked(
            name,
            result.step,
            _value(result, key, threshold),
            _error(result, key, threshold),
            _value(best, key, threshold) - _value(result, key, threshold),
            *_difference_error(best, result, key, threshold),
        )
        for name, result in chosen.items()
    ]
    return Ranking(key, holds, tuple(sorted(ranked, key=lambda one: one.behind)), excluded)


def _has(result: ProbeResult, key: str, holds: bool) -> bool:
    """Whether a result has the value of a criterion."""
    if key == "information" and holds:
        return result.information is not None and result.information_kind != "noise"
    return bool(result.tasks) if key == "score" else getattr(result, key) is not None


def _comparable(one: ProbeResult, other: ProbeResult, key: str) -> bool:
    return _compares_widths(one, other, key) and not _differences(one, other, key)


def _compares_widths(one: ProbeResult, other: ProbeResult, key: str) -> bool:
    """Whether a criterion compares encoders of these widths: nothing is known of the score."""
    alike = one.feature_dim == other.feature_dim
    return alike or (key != "score" and comparable_widths(one.feature_dim, other.feature_dim))


def _differences(one: ProbeResult, other: ProbeResult, key: str) -> list[str]:
    """Names of the settings that affect a criterion and differ."""
    about = {"information": "inputs", "readout": "labels"}
    unrelated = {"inputs", "labels"} - {about.get(key)}
    return [name for name in one.differences(other) if name not in unrelated]


def _largest_group(histories: Mapping[str, Sequence[ProbeResult]], key: str, holds: bool) -> dict[str, ProbeResult]:
    """The last result with the criterion of each run in the largest group of comparable runs."""
    groups = list[dict[str, ProbeResult]]()
    for name, history in histories.items():
        last = next((result for result in reversed(history) if _has(result, key, holds)), None)
        if last is None:
            continue
        for group in groups:
            if _comparable(next(iter(group.values())), last, key):
                group[name] = last
                break
        else:
            groups.append({name: last})
    return max(groups, key=len, default={})


def _best(history: Sequence[ProbeResult], last: ProbeResult, key: str, threshold: float) -> ProbeResult:
    """The probe of a run with the highest value; that before the first step only if there is no other."""
    comparable = [result for result in history if getattr(result, key, 0.0) is not None]
    comparable = [result for result in comparable if _comparable(last, result, key)]
    trained = [result for result in comparable if result.step != 0]
    return max(trained or comparable, key=lambda result: _value(result, key, threshold))


def _reason(result: ProbeResult, reference: ProbeResult, key: str, holds: bool) -> str:
    """Why a result is not comparable with those that are ranked."""
    if not _has(result, key, holds):
        noisy = key == "information" and result.information is not None
        return "information with white noise, not under views" if noisy else f"no {key}"
    reasons = [REASONS[name] for name in _differences(result, reference, key)]
    if not _compares_widths(result, reference, key):
        most = "of different width" if key == "score" else f"whose widths differ by more than a factor of {WIDTH_RATIO}"
        reasons.append(
            f"{result.feature_dim} features, not {reference.feature_dim}: encoders {most} are not comparable"
        )
    return ", ".join(reasons)


def _value(result: ProbeResult, key: str, threshold: float) -> float:
    return result.score(threshold=threshold) if key == "score" else float(getattr(result, key))


def _error(result: ProbeResult, key: str, threshold: float) -> float | None:
    if key != "score":
        return getattr(result, f"{key}_error", None)
    return result.standard_error(threshold=threshold) if threshold in result.thresholds else None


def _difference_error(one: ProbeResult, other: ProbeResult, key: str, threshold: float) -> tuple[float | None, bool]:
    """The standard error of a difference, and whether it is a paired one."""
    replicates = [
        torch.tensor(getattr(result, f"{key}_replicates", ()), dtype=torch.float64) for result in (one, other)
    ]
    if replicates[0].numel() and replicates[0].shape == replicates[1].shape:
        return float(replicates_error(replicates[0] - replicates[1])), True
    first, second = (_error(result, key, threshold) for result in (one, other))
    return (None if first is None or second is None else math.hypot(first, second)), False


def _with_error(value: float, error: float | None, digits: int) -> str:
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")
