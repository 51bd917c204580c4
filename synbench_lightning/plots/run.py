"""Figures of runs: probed values over the steps of one run, of several runs, and of each task (extra ``plots``)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from synbench_lightning.plots.probe import Drawn
from synbench_lightning.plots.style import COLOURS, ENCODER, OPTIMUM, Axes, Figure, in_style, new_figure

STEPS = "optimizer steps"
LABELS = {
    "information": "information (nats)",
    "readout": "readout of labels (R²)",
    "score": "SynBench score",
}
BAND = "± 1 standard error"
Points = Mapping[int, Mapping[str, float]]


@in_style
def history_figure(history: Sequence[Drawn], threshold: float = 0.7) -> Figure:
    """Plot information, readout and scores over the steps of a run.

    The value to monitor is on top. Below are the scores of all tasks, with the worst task of each probe in the
    background. A dotted line marks where a run was resumed with other tasks, plan, inputs or seed: values on its two
    sides are not comparable.

    Args:
        history: results of one run, as in ``SynBenchCallback.history``.
        threshold: threshold accuracy of the scores, in [0.5, 1).

    Returns:
        A figure of its own, not known to ``pyplot``.

    Raises:
        ValueError: if the history is empty.
    """
    history = _same_tasks(history)
    points = {result.step or 0: _values(result, threshold) for result in history}
    figure = _run_figure(points, history[-1].best_key, list(history[-1].tasks))
    for before, result in pairwise(history):
        if not before.compares(result):
            for axes in figure.axes:
                axes.axvline(result.step or 0, color=OPTIMUM, linestyle=":", linewidth=1.0)
    return figure


@in_style
def logged_figure(points: Points, monitored: str = "information") -> Figure:
    """Plot the same as :func:`history_figure` from logged values.

    Args:
        points: values by name (``"score_se"``, ``"task/dc"``, ``"worst"``, ``"information"``), by step.
        monitored: the value on top, if it was logged.

    Raises:
        ValueError: if there are no values.
    """
    if not points:
        raise ValueError("`points` is empty: nothing has been probed yet.")
    last = points[max(points)]
    keys = [key for key in last if key.startswith("task/")]
    keys.sort(key=lambda key: last[key] != last["score"])  # the score is that of the first task
    return _run_figure(points, monitored, [key.removeprefix("task/") for key in keys])


@in_style
def comparison_figure(runs: Mapping[str, Points], monitored: str = "information") -> Figure:
    """Plot information, readout and score of several runs over their steps, with bands of one standard error.

    Args:
        runs: the logged values of each run: values by name (``"score"``, ``"score_se"``, ``"information"``), by step.
            Information and readout are drawn if all runs have them.
        monitored: the value on top, if all runs have it.

    Raises:
        ValueError: if there is no run.

    Example:
        >>> figure = comparison_figure({"a": {0: {"score": 0.2}, 100: {"score": 0.6, "score_se": 0.01}}})
        >>> figure.axes[0].get_xlabel()
        'optimizer steps'
    """
    if not runs:
        raise ValueError("`runs` must contain at least one run.")
    shared = [key for key in _from(monitored) if all(_measured(points, key) for points in runs.values())]
    figure, rows = new_figure(rows=len(shared))
    for axes, key in zip(rows, shared, strict=True):
        for index, (name, points) in enumerate(runs.items()):
            _draw(axes, points, key, COLOURS[index % len(COLOURS)], name)
        axes.set_ylabel(LABELS[key])
    rows[-1].set_xlabel(STEPS)
    rows[0].set_title(f"Representation during pretraining, {BAND}")
    rows[0].legend(loc="best")
    return figure


@in_style
def task_map_figure(history: Sequence[Drawn], epsilon: float = 0.0, threshold: float = 0.7) -> Figure:
    """Plot the score of every task at every probe of a run as a heat map, with the worst task of each probe marked.

    The color scale covers the observed scores. Two lines on the color bar are one median standard error apart, which
    shows how much of a change may be noise.

    Args:
        history: results of one run, with the same tasks.
        epsilon: one that was probed.
        threshold: threshold accuracy of the score, in [0.5, 1).

    Returns:
        A figure of its own, not known to ``pyplot``.

    Raises:
        ValueError: if the history is empty.

    Example:
        >>> import torch
        >>> from synbench_lightning import evaluate
        >>> probes = [evaluate(torch.nn.Flatten(), (1, 4, 4), tasks="smooth").at(step) for step in (0, 100)]
        >>> [label.get_text() for label in task_map_figure(probes).axes[0].get_yticklabels()]
        ['dc', 'cos_1', 'cos_2']
    """
    history = _same_tasks(history)
    tasks = history[-1].tasks
    figure, (axes,) = new_figure(height=1.5 + 0.28 * len(tasks))
    axes.grid(False)
    scores = np.array([list(result.task_scores(epsilon, threshold).values()) for result in history]).T
    error = _typical_error(history, epsilon, threshold)
    low, high = float(scores.min()), float(scores.max())
    if high - low < error:  # pure noise, which the color scale must not exaggerate
        low, high = (low + high) / 2 - error, (low + high) / 2 + error
    image = axes.imshow(scores, aspect="auto", cmap="viridis", vmin=low, vmax=high, interpolation="nearest")
    axes.scatter(range(len(history)), scores.argmin(0), s=10, color="white", edgecolors="black", label="worst task")
    axes.set_yticks(range(len(tasks)), tasks)
    shown = range(0, len(history), math.ceil(len(history) / 8))
    axes.set_xticks(shown, [f"{history[place].step or 0:,}" for place in shown])
    axes.set(xlabel=STEPS, title=f"Scores of the proxy tasks (ε = {epsilon:g}, threshold accuracy {threshold:g})")
    bar = figure.colorbar(image, ax=axes, label="SynBench score")
    handles = axes.get_legend_handles_labels()[0]
    if 0 < error < high - low:
        middle = (low + high) / 2
        for level in (middle - error / 2, middle + error / 2):
            line = bar.ax.axhline(level, color="white", linewidth=1.2)
        line.set_label("1 standard error (on the color bar)")
        handles.append(line)
    figure.legend(
        handles=handles, loc="outside lower right", ncols=2, frameon=True, facecolor=OPTIMUM, framealpha=0.6,
        edgecolor="none",
    )  # fmt: skip
    return figure


def _typical_error(history: Sequence[Drawn], epsilon: float, threshold: float) -> float:
    """The median standard error of the scores in a history; 0 if there are none."""
    if any(result.standard_error() is None for result in history):
        return 0.0
    errors = [result.standard_error(task, epsilon, threshold) or 0.0 for result in history for task in result.tasks]
    return float(np.median(errors))


def _same_tasks(history: Sequence[Drawn]) -> Sequence[Drawn]:
    """The probes since the last change of the tasks."""
    if not history:
        raise ValueError("`history` is empty: nothing has been probed yet.")
    first = max((place for place, result in enumerate(history) if result.tasks != history[-1].tasks), default=-1) + 1
    return history[first:]


def _values(result: Drawn, threshold: float) -> dict[str, float]:
    """The plotted values of a result, by name."""
    given = {
        "information": result.information, "information_se": result.information_error, "readout": result.readout,
        "readout_se": result.readout_error, "score": result.score(threshold=threshold),
        "score_se": result.standard_error(threshold=threshold), "worst": result.worst(threshold=threshold)[1],
    }  # fmt: skip
    tasks = {f"task/{name}": score for name, score in result.task_scores(threshold=threshold).items()}
    return {**{name: value for name, value in given.items() if value is not None}, **tasks}


def _run_figure(points: Points, monitored: str, tasks: Sequence[str]) -> Figure:
    above = [key for key in _from(monitored) if key != "score" and _measured(points, key)]
    figure, rows = new_figure(rows=len(above) + 1)
    for axes, key in zip(rows, above, strict=False):
        _draw(axes, points, key, ENCODER, "", band=BAND)
        axes.set_ylabel(LABELS[key])
        axes.legend(loc="best")
    _draw_tasks(rows[-1], points, tasks)
    rows[-1].set(xlabel=STEPS, ylabel=LABELS["score"])
    rows[0].set_title("Representation during pretraining")
    return figure


def _from(monitored: str) -> list[str]:
    """Names of the plotted values, from top to bottom."""
    return [monitored, *(key for key in LABELS if key != monitored)]


def _measured(points: Points, key: str) -> bool:
    return any(key in values for values in points.values())


def _series(points: Points, key: str, missing: float = math.nan) -> list[float]:
    return [values.get(key, missing) for values in points.values()]


def _draw_tasks(axes: Axes, points: Points, tasks: Sequence[str]) -> None:
    """Plot the scores of tasks over the steps, the first with a band, and the worst in the background."""
    first, *others = tasks or ["score"]
    _draw(axes, points, "score", COLOURS[1], f"task {first}" if tasks else "score", band=BAND)
    for index, task in enumerate(others):
        colour = COLOURS[(index + 2) % len(COLOURS)]
        axes.plot(list(points), _series(points, f"task/{task}"), color=colour, linewidth=1.2, label=f"task {task}")
    if others:
        worst = _series(points, "worst")
        axes.plot(list(points), worst, color=OPTIMUM, linewidth=5, alpha=0.25, zorder=1, label="worst task")
    axes.legend(loc="best", ncols=2 if others else 1)


def _draw(axes: Axes, points: Points, key: str, colour: str, label: str, band: str | None = None) -> None:
    steps, values, errors = list(points), _series(points, key), _series(points, f"{key}_se", 0.0)
    axes.plot(steps, values, color=colour, linewidth=2.0, marker="." if len(steps) < 3 else None, label=label)
    low, high = ([v + side * e for v, e in zip(values, errors, strict=True)] for side in (-1, 1))
    axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0, label=band)
