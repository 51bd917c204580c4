"""Adaptive evaluation of a benchmark over a run: complete at first, then estimated from selected items."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from synbench_lightning.benchmark.result import BenchmarkResult
from synbench_lightning.benchmark.tasks import Benchmark
from synbench_lightning.checks import check_choice, check_integer, check_number
from synbench_lightning.functional.benchmark.confidence_intervals import (
    Estimate,
    mean_of_tasks,
    minimum_detectable_difference,
)
from synbench_lightning.functional.benchmark.prediction import (
    Method,
    change_of_benchmark,
    choose_points,
    decisions,
    exact_tasks,
    forecast,
    limits,
    predict_tasks,
    related,
)
from synbench_lightning.functional.benchmark.residuals import aipw
from synbench_lightning.functional.benchmark.selection import Selection, stratified
from synbench_lightning.functional.benchmark.signal_to_noise import LEAST, signal_and_noise

SILENT = 0.05
"""Significance level at which the values of a task are in a non-random order; above it the task is uninformative."""


class Climbed(NamedTuple):
    """State that an evaluation hands on to the next one.

    Args:
        curves: log-likelihoods ``(n,)`` of all items in each complete evaluation, float32.
        selection: the items that are evaluated after the warm-up.
        before: their values in the previous evaluation.
    """

    curves: tuple[Tensor, ...] = ()
    selection: Selection | None = None
    before: Tensor | None = None

    def to_dict(self) -> dict[str, Any]:
        """Tensors and plain types."""
        return {
            "curves": torch.stack(self.curves) if self.curves else None,
            "selection": None if self.selection is None else self.selection._asdict(),
            "before": self.before,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Climbed:
        """Restore the state from :meth:`to_dict`."""
        curves, selection, before = (values[name] for name in cls._fields)
        if not all(isinstance(value, Tensor | None) for value in (curves, before)):
            raise ValueError("its 'curves' and 'before' must be tensors or None")
        if (selection is None) != (before is None):
            raise ValueError("its 'selection' has no values in 'before', or these no selection")
        found = None if selection is None else Selection(**selection)
        return cls(() if curves is None else tuple(curves), found, before)


class Climb:
    """Schedule and estimators of the evaluations of a benchmark over a run.

    Args:
        benchmark: the items.
        budget: fraction of the items that is evaluated after the warm-up, in (0, 1].
        method: how they are selected.
        warmup: number of complete evaluations before that.
        audit_every: number of evaluations between audits; ``None`` for no audits.
        audit: fraction of the items that an audit samples in addition, in (0, 1].
        seed: of selections and audits.

    Raises:
        ValueError: for an argument outside its range.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        *,
        budget: float,
        method: Method,
        warmup: int,
        audit_every: int | None,
        audit: float,
        seed: int,
    ) -> None:
        check_choice("method", method, get_args(Method))
        self.benchmark, self.method, self.seed = benchmark, method, seed
        self.budget = check_number("budget", budget, "a fraction of the items in (0, 1]", 0, 1, low_in=False)
        self.audit = check_number("audit", audit, "a fraction of the items in (0, 1]", 0, 1, low_in=False)
        self.audit_every = None if audit_every is None else check_integer("audit_every", audit_every, 1)
        self.warmup = check_integer("warmup", warmup, 1)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that must agree for a previous selection to be used."""
        return {
            "points": self.benchmark.settings, "budget": self.budget, "method": self.method, "warmup": self.warmup,
            "seed": self.seed,
        }  # fmt: skip

    def evaluate(
        self, climbed: Climbed, history: Sequence[BenchmarkResult], evaluated: Callable[[Tensor], Tensor], step: int
    ) -> tuple[BenchmarkResult, Climbed]:
        """Make the next evaluation.

        Args:
            climbed: the state after the previous evaluations.
            history: their results.
            evaluated: from indices of items ``(B,)`` to their log-likelihoods, float64.
            step: optimizer steps before it.

        Returns:
            The result, and the state for the next evaluation.
        """
        start, tasks = time.perf_counter(), self.benchmark.tasks
        complete, difference, audited = climbed.selection is None, None, None
        if climbed.selection is None:
            values = evaluated(torch.arange(len(tasks)))
            curves = (*climbed.curves, values.float())
            each = estimates = exact_tasks(values, tasks)
            climbed = Climbed(curves)
            if len(curves) == self.warmup:
                points = self.benchmark.points(self.budget)
                selection = choose_points(torch.stack(curves), tasks, points, self.method, self.seed)
                climbed = Climbed(curves, selection, values[selection.indices])
        else:
            extra = self._audit_points(climbed.selection, history)
            values = evaluated(torch.cat([climbed.selection.indices, extra]))
            own, others = values.split([len(climbed.selection.indices), len(extra)])
            before = torch.stack(climbed.curves)
            estimates = predict_tasks(own, climbed.selection, before, tasks)
            each = related(estimates, climbed.selection, before, tasks)
            changed = change_of_benchmark(own - climbed.before, climbed.selection, tasks)
            difference = float(minimum_detectable_difference(changed))
            audited = self._audited(climbed, own, extra, others) if len(extra) else None
            climbed = climbed._replace(before=own)
        whole = mean_of_tasks(estimates)
        own_values = (float(whole.value), *(float(estimate.value) for estimate in each))
        so_far = [*self._comparable(climbed, history, complete), own_values]
        found = BenchmarkResult(
            tasks=self.benchmark.names,
            value=float(whole.value),
            standard_error=float(whole.standard_error),
            interval=limits(whole),
            task_values=tuple(float(estimate.value) for estimate in each),
            task_intervals=tuple(limits(estimate) for estimate in each),
            complete=complete,
            num_points=len(values),
            detectable_difference=difference,
            audit_error=None if audited is None else float(whole.value - audited.value),
            audit_standard_error=None if audited is None else float(audited.standard_error),
            seconds=time.perf_counter() - start,
            step=step,
            **self._worth(torch.tensor(so_far, dtype=torch.float64), climbed),
        )
        return found, climbed

    @staticmethod
    def _comparable(climbed: Climbed, history: Sequence[BenchmarkResult], complete: bool) -> list[tuple[float, ...]]:
        """Return the values (benchmark, then tasks) of the previous evaluations with these settings."""
        since = next((turn for turn, result in enumerate(reversed(history)) if result.complete), len(history))
        mine = len(climbed.curves) - 1 if complete else since + len(climbed.curves)
        return [(result.value, *result.task_values) for result in history[max(0, len(history) - mine) :]]

    def _worth(self, values: Tensor, climbed: Climbed) -> dict[str, Any]:
        """Compute signal, noise and decision accuracy, for the result, from values ``(T, 1 + K)`` so far."""
        found: dict[str, Any] = {}
        if len(values) >= LEAST:
            (signal, *signals), (noise, *noises), (_, *chances) = (each.tolist() for each in signal_and_noise(values))
            silent = zip(self.benchmark.names, chances, strict=True)
            found |= {
                "signal": signal, "noise": noise, "task_signals": tuple(signals), "task_noises": tuple(noises),
                "silent_tasks": tuple(name for name, chance in silent if chance > SILENT),  # mutants: never equal
            }  # fmt: skip
        if climbed.selection is not None and len(climbed.curves) > 1:
            right, of_tasks = decisions(torch.stack(climbed.curves), climbed.selection, self.benchmark.tasks)
            told = [None if math.isnan(share) else share for share in (float(right), *of_tasks.tolist())]
            found |= {"decision_accuracy": told[0], "task_decision_accuracies": tuple(told[1:])}
        return found

    def _audit_points(self, selection: Selection, history: Sequence[BenchmarkResult]) -> Tensor:
        """Sample items outside the selection for an audit, other ones each time; none where no audit is due."""
        since = 1 + sum(not result.complete for result in history)
        left = torch.ones(len(self.benchmark.tasks), dtype=torch.bool)
        left[selection.indices] = False
        places, tasks = left.nonzero()[:, 0], self.benchmark.tasks[left]
        counts = torch.bincount(tasks, minlength=len(self.benchmark.names))
        if self.audit_every is None or since % self.audit_every or int(counts.min()) < 2:
            return places[:0]
        budget = min(self.benchmark.points(self.audit), len(places))
        return places[stratified(tasks, budget, self.seed + len(history)).indices]

    def _audited(self, climbed: Climbed, own: Tensor, extra: Tensor, others: Tensor) -> Estimate:
        """Estimate the benchmark without bias: the selected items exactly, all others by AIPW from the audit."""
        assert climbed.selection is not None
        indices, everything = climbed.selection.indices, torch.arange(len(self.benchmark.tasks))
        left = ~torch.isin(everything, indices)
        predictions = forecast(torch.stack(climbed.curves), self.benchmark.tasks).values
        found = []
        for task in range(len(self.benchmark.names)):
            mine, drawn, known = (self.benchmark.tasks[chosen] == task for chosen in (everything, extra, indices))
            rest = (mine & left).nonzero()[:, 0]
            share = len(rest) / int(mine.sum())
            places = torch.searchsorted(rest, extra[drawn])
            unseen = aipw(others[drawn], predictions[rest], places)
            value = share * unseen.value + (1 - share) * own[known].mean()
            found.append(Estimate(value, share * unseen.standard_error, unseen.degrees_of_freedom))
        return mean_of_tasks(found)
