"""Result of one evaluation of a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from synbench_lightning.checks import check_fields

LISTS = (
    "tasks", "interval", "task_values", "task_signals", "task_noises", "silent_tasks", "task_decision_accuracies",
)  # fmt: skip


@dataclass(frozen=True)
class BenchmarkResult:
    """Result of one evaluation of a benchmark; values are mean log-likelihoods of the right label, in nats.

    Args:
        tasks: names of the K tasks.
        value: the benchmark, the mean over the tasks; an estimate unless ``complete``.
        standard_error: of the value; 0 if ``complete``.
        interval: 95 % confidence interval of the value.
        task_values: ``(K,)`` value of each task. Unless ``complete``, each is shrunk towards the estimates of the other
            tasks, which makes it more precise than its own items alone; their mean need not equal the value.
        task_intervals: ``(K,)`` 95 % confidence interval of each.
        complete: whether all items were evaluated.
        num_points: number of items evaluated, including those of an audit, excluding the support sets.
        detectable_difference: minimum detectable difference since the previous evaluation, with power .8; ``None`` for
            a complete one.
        audit_error: estimate minus that of an audit of other items; ``None`` where there was none.
        audit_standard_error: of the audit's estimate.
        seconds: wall-clock time of the evaluation.
        step: optimizer steps before it.
        signal: standard deviation of the values of the run so far, without the noise; ``None`` before the fifth
            evaluation (:func:`.signal_and_noise`).
        noise: standard deviation of the noise between neighboring evaluations.
        task_signals: ``(K,)`` of each task, empty before the fifth evaluation.
        task_noises: ``(K,)``.
        silent_tasks: names of tasks that are uninformative so far: their values may be in random order.
        decision_accuracy: fraction of the pairs of complete evaluations that the selected items rank as all items do;
            ``None`` before the selection, or where all evaluations are equal.
        task_decision_accuracies: ``(K,)`` of each task.

    Example:
        >>> result = BenchmarkResult(
        ...     tasks=("parity",), value=-0.3, standard_error=0.01, interval=(-0.32, -0.28), task_values=(-0.3,),
        ...     task_intervals=((-0.32, -0.28),), complete=False, num_points=50, detectable_difference=0.03,
        ...     audit_error=None, audit_standard_error=None, seconds=0.1, step=100,
        ... )
        >>> BenchmarkResult.from_dict(result.to_dict()) == result
        True
    """

    tasks: tuple[str, ...]
    value: float
    standard_error: float
    interval: tuple[float, float]
    task_values: tuple[float, ...]
    task_intervals: tuple[tuple[float, float], ...]
    complete: bool
    num_points: int
    detectable_difference: float | None
    audit_error: float | None
    audit_standard_error: float | None
    seconds: float
    step: int
    signal: float | None = None
    noise: float | None = None
    task_signals: tuple[float, ...] = ()
    task_noises: tuple[float, ...] = ()
    silent_tasks: tuple[str, ...] = ()
    decision_accuracy: float | None = None
    task_decision_accuracies: tuple[float | None, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Convert to numbers, strings, lists and dicts, for checkpoints and JSON."""
        lists = {name: list(getattr(self, name)) for name in LISTS}
        return {**asdict(self), **lists, "task_intervals": [list(pair) for pair in self.task_intervals]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> BenchmarkResult:
        """Restore a result from :meth:`to_dict`.

        Raises:
            ValueError: for unknown or missing fields, or values that are none of them.
        """
        check_fields(cls, values)
        tuples = {name: tuple(values[name]) for name in LISTS if name in values}
        return cls(**{**values, **tuples, "task_intervals": tuple(tuple(pair) for pair in values["task_intervals"])})
