"""Figures from results (needs the extra ``plots``)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from synbench_lightning.functional.theory import optimal_accuracy, optimal_bound
from synbench_lightning.result import ProbeResult

try:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("Figures need matplotlib: pip install 'synbench-lightning[plots]'") from error

OPTIMUM, ENCODER, SHADE = "#6e6e6e", "#0b6e99", "#0b6e9933"
TASK_COLOURS = ("#0b6e99", "#c2571a", "#3f8f4f", "#8a4fa3", "#d4a017", "#666a1f", "#b03060", "#1f4e5f")


def robustness_accuracy_figure(result: ProbeResult, task: str | None = None, threshold: float = 0.7) -> Figure:
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
    scores = [result.score(name, epsilon, threshold) for epsilon in result.epsilons]
    row = result.tasks.index(name)
    levels = torch.linspace(0.5, 1.0, 251, dtype=torch.float64)
    scales = torch.tensor(result.scales, dtype=torch.float64)
    figure, axes = new_figure()
    optimum = _curve(levels, optimal_accuracy(scales), optimal_bound(scales), result.plan.weights)
    axes.plot(levels, optimum, color=OPTIMUM, linestyle="--", label="optimum in input space")
    accuracy, bound = (torch.tensor(table[row], dtype=torch.float64) for table in (result.accuracy, result.bound))
    for index, epsilon in enumerate(result.epsilons):
        kept = _curve(levels, accuracy[index], bound[index], result.plan.weights)
        style = "-" if index == 0 else ":"
        axes.plot(levels, kept, style, color=ENCODER, label=f"encoder, ε = {epsilon:g}, score {scores[index]:.3f}")
        if index == 0:
            axes.fill_between(levels, kept, where=(levels >= threshold).tolist(), color=SHADE, linewidth=0)
    axes.axvline(threshold, color=OPTIMUM, linewidth=0.8)
    axes.set(xlabel="threshold accuracy", ylabel="expected bound, summed over scales", xlim=(0.5, 1), ylim=(0, None))
    place = "" if result.step is None else f" after {result.step:,} steps"
    axes.set_title(f"Robustness-accuracy curve, task {name}{place}")
    axes.legend(loc="lower left")
    return figure


def history_figure(history: Sequence[ProbeResult], threshold: float = 0.7) -> Figure:
    """The score over the steps of a run: the monitored task, the others, and the worst of them.

    A dotted line marks where a run was resumed with other tasks, plan or seed: scores do not compare across it.

    Args:
        history: results of one run, as in ``SynBenchCallback.history``.
        threshold: threshold accuracy of the score, in [0.5, 1).

    Raises:
        ValueError: if the history is empty.
    """
    if not history:
        raise ValueError("`history` holds no result: nothing has been probed yet.")
    figure, axes = new_figure()
    steps = [result.step or 0 for result in history]
    tasks = history[-1].tasks
    for index, task in enumerate(tasks):
        scores = [result.score(task, threshold=threshold) for result in history]
        width = 2.0 if index == 0 else 1.2
        colour = TASK_COLOURS[index % len(TASK_COLOURS)]
        axes.plot(steps, scores, color=colour, linewidth=width, label=f"task {task}")
        if index == 0:
            errors = [result.standard_error(task, threshold=threshold) or 0.0 for result in history]
            low, high = ([s + side * e for s, e in zip(scores, errors, strict=True)] for side in (-1, 1))
            axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0, label="± 1 standard error")
    if len(tasks) > 1:
        worst = [result.worst(threshold=threshold)[1] for result in history]
        axes.plot(steps, worst, color=OPTIMUM, linewidth=5, alpha=0.25, zorder=1, label="worst task")
    for before, result in pairwise(history):
        if before.settings != result.settings:  # a run resumed with other arguments: the scores do not compare
            axes.axvline(result.step or 0, color=OPTIMUM, linestyle=":", linewidth=1.0)
    axes.set(xlabel="optimizer steps", ylabel=f"SynBench score (threshold {threshold:g})")
    axes.set_title("Representation quality during pretraining")
    axes.legend(loc="best")
    return figure


def pixels(figure: Figure) -> np.ndarray:
    """The figure as an image ``(height, width, 3)`` of bytes."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def new_figure() -> tuple[Figure, Axes]:
    """A figure with one pair of axes in the style of this package."""
    figure = Figure(figsize=(6.4, 4.0), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def _curve(levels: torch.Tensor, accuracy: torch.Tensor, bound: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    weighted = torch.tensor(weights, dtype=torch.float64) * bound
    return (accuracy > levels[:, None]).double() @ weighted
