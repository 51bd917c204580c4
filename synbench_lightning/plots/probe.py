"""Figures of probes: one, those of a run, those of several runs (needs the extra ``plots``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch

from synbench_lightning.functional.gaussian.theory import optimal_accuracy, optimal_bound
from synbench_lightning.plots.style import COLOURS, ENCODER, OPTIMUM, RESOLUTION, SHADE, Axes, Figure, new_figure

INFORMATION = "information about inputs (nats)"
Table = tuple[tuple[tuple[float, ...], ...], ...]


class Drawn(Protocol):
    """What the figures show of a :class:`synbench_lightning.ProbeResult`, which has all of it."""

    @property
    def tasks(self) -> tuple[str, ...]: ...
    @property
    def labelled(self) -> tuple[str, ...]: ...
    @property
    def epsilons(self) -> tuple[float, ...]: ...
    @property
    def scales(self) -> tuple[float, ...]: ...
    @property
    def weights(self) -> tuple[float, ...]: ...
    @property
    def accuracy(self) -> Table: ...
    @property
    def bound(self) -> Table: ...
    @property
    def information(self) -> float | None: ...
    @property
    def information_error(self) -> float | None: ...
    @property
    def step(self) -> int | None: ...
    def compares(self, other: Any, /) -> bool: ...
    def score(self, task: str | None = None, epsilon: float = 0.0, threshold: float = 0.7) -> float: ...
    def standard_error(self, task: str | None = None, epsilon: float = 0.0, threshold: float = 0.7) -> float | None: ...
    def task_scores(self, epsilon: float = 0.0, threshold: float = 0.7) -> dict[str, float]: ...
    def worst(self, epsilon: float = 0.0, threshold: float = 0.7) -> tuple[str, float]: ...


def robustness_accuracy_figure(result: Drawn, task: str | None = None, threshold: float = 0.7) -> Figure:
    """Expected bound against accuracy: the optimum in input space and what the representation keeps of it.

    Args:
        result: a probe.
        task: one of its tasks; by default the first.
        threshold: where the shaded area begins whose share of the optimum's is the score, in [0.5, 1).

    Returns:
        A figure of its own, not known to ``pyplot``.

    Example:
        >>> from synbench_lightning import evaluate
        >>> figure = robustness_accuracy_figure(evaluate(torch.nn.Flatten(), (1, 4, 4)))
        >>> figure.axes[0].get_xlabel()
        'threshold accuracy'
    """
    name = result.tasks[0] if task is None else task
    if name in result.labelled:
        raise ValueError(
            f"`task` must be a Gaussian task, {name!r} is made of real examples: no optimum is known for it."
        )
    scores = [result.score(name, epsilon, threshold) for epsilon in result.epsilons]
    row = result.tasks.index(name)
    levels = torch.linspace(0.5, 1.0, 251, dtype=torch.float64)
    scales = torch.tensor(result.scales, dtype=torch.float64)
    figure, (axes,) = new_figure()
    optimum = _curve(levels, optimal_accuracy(scales), optimal_bound(scales), result.weights)
    axes.plot(levels, optimum, color=OPTIMUM, linestyle="--", label="optimum in input space")
    accuracy, bound = (torch.tensor(table[row], dtype=torch.float64) for table in (result.accuracy, result.bound))
    for index, epsilon in enumerate(result.epsilons):
        kept = _curve(levels, accuracy[index], bound[index], result.weights)
        style = "-" if index == 0 else ":"
        axes.plot(levels, kept, style, color=ENCODER, label=f"encoder, ε = {epsilon:g}, score {scores[index]:.3f}")
        if index == 0:
            axes.fill_between(levels, kept, where=(levels >= threshold).tolist(), color=SHADE, linewidth=0)
    axes.axvline(threshold, color=OPTIMUM, linewidth=0.8)
    axes.set(xlabel="threshold accuracy", ylabel="expected bound, summed over scales", xlim=(0.5, 1), ylim=(0, None))
    place = "" if result.step is None else f" after {result.step:,} steps"
    axes.set_title(f"Robustness-accuracy curve, task {name}{place}")
    axes.legend(loc="lower left", frameon=False)
    return figure


def scale_figure(result: Drawn, task: str | None = None) -> Figure:
    """Accuracy and expected bound over the scale: where in difficulty the representation loses what it loses.

    Args:
        result: a probe.
        task: one of its tasks; by default the first.

    Returns:
        A figure with two axes, not known to ``pyplot``.

    Raises:
        ValueError: for a task that was not probed.

    Example:
        >>> from synbench_lightning import evaluate
        >>> figure = scale_figure(evaluate(torch.nn.Flatten(), (1, 4, 4)))
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['accuracy', 'expected bound']
    """
    name = result.tasks[0] if task is None else task
    result.score(name)  # refuses a task that was not probed
    row = result.tasks.index(name)
    scales = torch.tensor(result.scales, dtype=torch.float64)
    figure, both = new_figure(rows=2)
    tables = (result.accuracy, result.bound)
    for axes, table, optimum in zip(both, tables, (optimal_accuracy, optimal_bound), strict=True):
        axes.plot(scales, optimum(scales), color=OPTIMUM, linestyle="--", label="optimum in input space")
        for epsilon, values in zip(result.epsilons, table[row], strict=True):
            style = "-" if epsilon == result.epsilons[0] else ":"
            axes.plot(scales, values, style, marker=".", color=ENCODER, label=f"encoder, ε = {epsilon:g}")
    both[0].set(ylabel="accuracy", ylim=(0.48, 1.02))
    # At the smallest scales the bound of any classifier tends to infinity.
    both[1].set(ylabel="expected bound", ylim=(0, 1.1 * float(optimal_bound(max(0.5, result.scales[0])))))
    both[1].set_xlabel("scale (half the distance of the classes in input space)")
    both[0].legend(loc="lower right", frameon=False)
    place = "" if result.step is None else f" after {result.step:,} steps"
    figure.suptitle(f"Accuracy and expected bound over the scale, task {name}{place}")
    return figure


def history_figure(history: Sequence[Drawn], threshold: float = 0.7) -> Figure:
    """The score over the steps of a run: the monitored task, the others, and the worst of them.

    Above it stands the information about inputs, where it was measured. A dotted line marks where a run was resumed
    with other tasks, plan, inputs or seed: scores do not compare across it.

    Args:
        history: results of one run, as in ``SynBenchCallback.history``.
        threshold: threshold accuracy of the score, in [0.5, 1).

    Raises:
        ValueError: if the history is empty.
    """
    history = _same_tasks(history)
    steps = [result.step or 0 for result in history]
    information = [math.nan if result.information is None else result.information for result in history]
    figure, axes = _with_information(steps, information, [result.information_error or 0.0 for result in history])
    tasks = {task: [result.score(task, threshold=threshold) for result in history] for task in history[-1].tasks}
    errors = [result.standard_error(threshold=threshold) or 0.0 for result in history]
    _draw_tasks(axes, steps, tasks, errors, [result.worst(threshold=threshold)[1] for result in history])
    for before, result in pairwise(history):
        if not before.compares(result):  # a run resumed with other arguments: the scores do not compare
            for each in figure.axes:
                each.axvline(result.step or 0, color=OPTIMUM, linestyle=":", linewidth=1.0)
    axes.set_ylabel(f"SynBench score (threshold {threshold:g})")
    return figure


def logged_figure(points: Mapping[int, Mapping[str, float]]) -> Figure:
    """As :func:`history_figure`, from logged values.

    Args:
        points: values by key without prefix (``"score_se"``, ``"task/dc"``, ``"worst"``, ``"information"``), by step.

    Raises:
        ValueError: if there is no point.
    """
    if not points:
        raise ValueError("`points` holds no value: nothing has been probed yet.")
    information = [values.get("information", math.nan) for values in points.values()]
    errors = [values.get("information_se", 0.0) for values in points.values()]
    figure, axes = _with_information(list(points), information, errors)
    last = points[max(points)]
    keys = [key for key in last if key.startswith("task/")]
    keys.sort(key=lambda key: last[key] != last["score"])  # the monitored task is the first one
    tasks = {key.removeprefix("task/"): [values.get(key, math.nan) for values in points.values()] for key in keys}
    tasks = tasks or {"score": [values["score"] for values in points.values()]}
    errors = [values.get("score_se", 0.0) for values in points.values()]
    _draw_tasks(axes, list(points), tasks, errors, [values.get("worst", math.nan) for values in points.values()])
    return figure


def comparison_figure(runs: Mapping[str, Mapping[int, Mapping[str, float]]]) -> Figure:
    """The monitored score of several runs over their steps, each with a band of one standard error.

    Below it stands the information about inputs, where all runs have measured it.

    Args:
        runs: for each name what was logged: values by key without prefix (``"score"``, ``"score_se"``,
            ``"information"``), by step.

    Raises:
        ValueError: if there is no run.

    Example:
        >>> figure = comparison_figure({"a": {0: {"score": 0.2}, 100: {"score": 0.6, "score_se": 0.01}}})
        >>> figure.axes[0].get_xlabel()
        'optimizer steps'
    """
    if not runs:
        raise ValueError("`runs` holds no run.")
    informed = all(any("information" in values for values in points.values()) for points in runs.values())
    labels = {"score": "SynBench score", **({"information": INFORMATION} if informed else {})}
    figure, rows = new_figure(rows=len(labels))
    for axes, (key, label) in zip(rows, labels.items(), strict=True):
        for index, (name, points) in enumerate(runs.items()):
            scores = [values.get(key, math.nan) for values in points.values()]
            errors = [values.get(f"{key}_se", 0.0) for values in points.values()]
            _draw_score(axes, list(points), scores, errors, COLOURS[index % len(COLOURS)], name)
        axes.set_ylabel(label)
    rows[-1].set_xlabel("optimizer steps")
    rows[0].set_title("Representation quality during pretraining, ± 1 standard error")
    rows[0].legend(loc="best", frameon=False)
    return figure


def task_map_figure(history: Sequence[Drawn], epsilon: float = 0.0, threshold: float = 0.7) -> Figure:
    """The score of every task at every probe of a run as a heat map, with the worst task of each probe marked.

    Args:
        history: results of one run, with the same tasks.
        epsilon: one that was probed.
        threshold: threshold accuracy of the score, in [0.5, 1).

    Raises:
        ValueError: if the history is empty.

    Example:
        >>> from synbench_lightning import evaluate
        >>> probes = [evaluate(torch.nn.Flatten(), (1, 4, 4), tasks="smooth").at(step) for step in (0, 100)]
        >>> [label.get_text() for label in task_map_figure(probes).axes[0].get_yticklabels()]
        ['dc', 'cos_1', 'cos_2']
    """
    history = _same_tasks(history)
    tasks = history[-1].tasks
    figure = Figure(figsize=(6.4, 1.6 + 0.32 * len(tasks)), dpi=RESOLUTION, layout="constrained")
    axes = figure.subplots()
    scores = np.array([list(result.task_scores(epsilon, threshold).values()) for result in history]).T
    image = axes.imshow(scores, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    axes.scatter(range(len(history)), scores.argmin(0), s=10, color="white", edgecolors="black", label="worst task")
    axes.set_yticks(range(len(tasks)), tasks)
    shown = range(0, len(history), math.ceil(len(history) / 8))
    axes.set_xticks(shown, [f"{history[place].step or 0:,}" for place in shown])
    axes.set(xlabel="optimizer steps", title=f"Scores of the proxy tasks (ε = {epsilon:g}, threshold {threshold:g})")
    figure.colorbar(image, ax=axes, label="SynBench score")
    figure.legend(loc="outside lower right", fontsize="small", frameon=False)
    return figure


def _same_tasks(history: Sequence[Drawn]) -> Sequence[Drawn]:
    """The probes since the tasks were changed for the last time."""
    if not history:
        raise ValueError("`history` holds no result: nothing has been probed yet.")
    first = max((place for place, result in enumerate(history) if result.tasks != history[-1].tasks), default=-1) + 1
    return history[first:]


def _with_information(
    steps: Sequence[int], information: Sequence[float], errors: Sequence[float]
) -> tuple[Figure, Axes]:
    """A new figure, and its lowest axes; above them the information, where there is any."""
    rows = 1 if all(map(math.isnan, information)) else 2
    figure, axes = new_figure(rows)
    if rows == 2:
        _draw_score(axes[0], steps, information, errors, COLOURS[3], "", band="± 1 standard error")
        axes[0].set_ylabel(INFORMATION)
        axes[0].legend(loc="best", frameon=False)
    return figure, axes[-1]


def _draw_tasks(
    axes: Axes,
    steps: Sequence[int],
    tasks: Mapping[str, Sequence[float]],
    errors: Sequence[float],
    worst: Sequence[float],
) -> None:
    """The scores of tasks over the steps, the first one with its band, and the worst of them behind."""
    for index, (task, scores) in enumerate(tasks.items()):
        colour = COLOURS[index % len(COLOURS)]
        if index == 0:
            _draw_score(axes, steps, scores, errors, colour, f"task {task}", band="± 1 standard error")
        else:
            axes.plot(steps, scores, color=colour, linewidth=1.2, label=f"task {task}")
    if len(tasks) > 1:
        axes.plot(steps, worst, color=OPTIMUM, linewidth=5, alpha=0.25, zorder=1, label="worst task")
    axes.set(xlabel="optimizer steps", ylabel="SynBench score")
    axes.figure.axes[0].set_title("Representation quality during pretraining")
    axes.legend(loc="best", frameon=False)


def _draw_score(
    axes: Axes, steps: Sequence[int], scores: Sequence[float], errors: Sequence[float], colour: str, label: str,
    band: str | None = None,
) -> None:  # fmt: skip
    marker = "." if len(steps) < 3 else None
    axes.plot(steps, scores, color=colour, linewidth=2.0, marker=marker, label=label)
    low, high = ([s + side * e for s, e in zip(scores, errors, strict=True)] for side in (-1, 1))
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0, label=band)


def _curve(levels: torch.Tensor, accuracy: torch.Tensor, bound: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    weighted = torch.tensor(weights, dtype=torch.float64) * bound
    return (accuracy > levels[:, None]).double() @ weighted
