"""Figures of one probe: the representation compared to the Bayes optimum in input space (extra ``plots``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from synbench_lightning.functional.gaussian.bayes_optimal import optimal_accuracy, optimal_bound
from synbench_lightning.plots.style import ENCODER, OPTIMUM, SHADE, Figure, in_style, new_figure

MARGIN = "robustness margin"
Table = tuple[tuple[tuple[float, ...], ...], ...]


class Drawn(Protocol):
    """The part of :class:`synbench_lightning.ProbeResult` that the figures need."""

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
    def readout(self) -> float | None: ...
    @property
    def readout_error(self) -> float | None: ...
    @property
    def best_key(self) -> str: ...
    @property
    def step(self) -> int | None: ...
    def compares(self, other: Any, /) -> bool: ...
    def score(self, task: str | None = None, epsilon: float = 0.0, threshold: float = 0.7) -> float: ...
    def standard_error(self, task: str | None = None, epsilon: float = 0.0, threshold: float = 0.7) -> float | None: ...
    def task_scores(self, epsilon: float = 0.0, threshold: float = 0.7) -> dict[str, float]: ...
    def worst(self, epsilon: float = 0.0, threshold: float = 0.7) -> tuple[str, float]: ...


@in_style
def robustness_accuracy_figure(result: Drawn, task: str | None = None, threshold: float = 0.7) -> Figure:
    """Plot the robustness-accuracy curve of the representation, and of the Bayes-optimal classifier in input space.

    The robustness margin is the paper's expected bound: the mean distance of correctly classified examples from the
    decision boundary, in units of the class mean's distance from it. It is integrated over the scales at which the
    accuracy exceeds the threshold.

    Args:
        result: a probe.
        task: one of its tasks; by default the first.
        threshold: where the shaded area begins, in [0.5, 1); the score is its fraction of the optimal area.

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
            f"`task` must be a Gaussian task, {name!r} consists of real examples, for which the optimum is unknown."
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
    axes.set(xlabel="threshold accuracy", ylabel=f"total {MARGIN}", xlim=(0.5, 1), ylim=(0, None))
    place = "" if result.step is None else f" after {result.step:,} steps"
    axes.set_title(f"Robustness-accuracy curve, task {name}{place}")
    axes.legend(loc="lower left")
    return figure


@in_style
def scale_figure(result: Drawn, task: str | None = None) -> Figure:
    """Plot accuracy and robustness margin over the scale, to show at which difficulty the representation falls short.

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
        ['accuracy', 'robustness margin']
    """
    name = result.tasks[0] if task is None else task
    result.score(name)  # raises for a task that was not probed
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
    both[1].set(ylabel=MARGIN, ylim=(0, 1.1 * float(optimal_bound(max(0.5, result.scales[0])))))
    both[1].set_xlabel(
        "scale: half the distance between class means in input space, in standard deviations of the noise"
    )
    both[0].legend(loc="lower right")
    place = "" if result.step is None else f" after {result.step:,} steps"
    both[0].set_title(f"Accuracy and robustness margin over the scale, task {name}{place}")
    return figure


def _curve(levels: torch.Tensor, accuracy: torch.Tensor, bound: torch.Tensor, weights: Sequence[float]) -> torch.Tensor:
    weighted = torch.tensor(weights, dtype=torch.float64) * bound
    return (accuracy > levels[:, None]).double() @ weighted
