"""Figures of a benchmark during training: curves, correlations, a map of items, predictions (extra ``plots``)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from synbench_lightning.functional.benchmark.confidence_intervals import Estimate
from synbench_lightning.functional.benchmark.curve_correlation import Correlation
from synbench_lightning.plots.style import COLOURS, OPTIMUM, Axes, Figure, in_style, new_figure

MARKS = ((0.01, "**"), (0.05, "*"))
"""Significance levels of correlations and their marks."""


@in_style
def task_curves_figure(curves: Tensor, names: Sequence[str], steps: Sequence[int], warmup: int | None = None) -> Figure:
    """Plot the mean log-likelihood of the correct label of each task over training.

    Args:
        curves: ``(T, K)`` of :func:`~synbench_lightning.functional.benchmark.curve_correlation.task_curves`.
        names: of the K tasks.
        steps: optimizer steps of the T checkpoints.
        warmup: number of checkpoints at which all items were evaluated; ``None`` draws no line after them.

    Returns:
        A figure of its own, not known to ``pyplot``.

    Raises:
        ValueError: if names or steps do not fit the curves.

    Example:
        >>> figure = task_curves_figure(torch.randn(5, 2), ["parity", "digit"], [0, 10, 20, 30, 40])
        >>> figure.axes[0].get_ylabel()
        'mean log-likelihood of the right label, nats'
    """
    if curves.shape != (len(steps), len(names)):
        raise ValueError(
            f"`curves` must have shape {(len(steps), len(names))}, steps by names, got {tuple(curves.shape)}."
        )
    figure, (axes,) = new_figure()
    for index, name in enumerate(names):
        axes.plot(steps, curves[:, index], color=COLOURS[index % len(COLOURS)], label=name)
    axes.plot(steps, curves.mean(1), color="black", linewidth=2.2, label="benchmark (mean)")
    if warmup is not None:
        axes.axvline(steps[warmup - 1], color=OPTIMUM, linestyle=":", linewidth=1.2, label="end of warm-up")
    axes.set(xlabel="optimizer steps", ylabel="mean log-likelihood of the right label, nats")
    axes.set_title("Tasks of the benchmark during pretraining")
    figure.legend(loc="outside right upper")
    return figure


@in_style
def correlation_figure(correlation: Correlation, names: Sequence[str]) -> Figure:
    """Plot the correlations between tasks, marked ``*`` where p < .05 and ``**`` where p < .01.

    Args:
        correlation: ``(K, K)`` of :func:`~synbench_lightning.functional.benchmark.curve_correlation.pearson`.
        names: of the K tasks.

    Raises:
        ValueError: if the names do not fit.

    Example:
        >>> from synbench_lightning.functional.benchmark.curve_correlation import pearson
        >>> figure = correlation_figure(pearson(torch.randn(9, 3)), ["a", "b", "c"])
        >>> figure.axes[0].get_title()
        'Correlation of tasks over training'
    """
    r, p_value = correlation
    if r.shape != (len(names), len(names)):
        raise ValueError(f"`names` must be one for each of {len(r)} tasks, got {len(names)}.")
    figure, (axes,) = new_figure()
    axes.grid(False)
    image = axes.imshow(r.numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    for row in range(len(names)):
        for column in range(len(names)):
            value, chance = float(r[row, column]), float(p_value[row, column])
            mark = "" if row == column else next((mark for level, mark in MARKS if chance < level), "")
            text = "" if math.isnan(value) else f"{value:.2f}{mark}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=_ink(value))
    axes.set_xticks(range(len(names)), names, rotation=35, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_title("Correlation of tasks over training")
    figure.colorbar(image, ax=axes, label="Pearson r   (* p < .05, ** p < .01)")
    return figure


@in_style
def point_map_figure(positions: Tensor, groups: Tensor, names: Sequence[str], chosen: Tensor | None = None) -> Figure:
    """Plot a map of benchmark items, in which items with similar training dynamics are close.

    Args:
        positions: ``(n, 2)`` of :func:`~synbench_lightning.functional.benchmark.cartography.multidimensional_scaling`.
        groups: ``(n,)`` class or task of each item, integers from 0 on.
        names: of the groups.
        chosen: ``(B,)`` places of selected items, which are ringed.

    Raises:
        ValueError: for positions that are not in the plane, or groups or names that do not fit.

    Example:
        >>> figure = point_map_figure(torch.randn(20, 2), torch.arange(20) % 2, ["even", "odd"])
        >>> [text.get_text() for text in figure.legends[0].get_texts()]
        ['even', 'odd']
    """
    if positions.shape != (len(groups), 2) or int(groups.max()) >= len(names):
        raise ValueError(
            f"`positions` must have shape {(len(groups), 2)}, a row for each of `groups`, which must be below "
            f"{len(names)}, the number of `names`; got {tuple(positions.shape)} and {int(groups.max())}."
        )
    figure, (axes,) = new_figure()
    for index, name in enumerate(names):
        own = positions[groups == index]
        axes.scatter(
            own[:, 0], own[:, 1], s=14, alpha=0.75, color=COLOURS[index % len(COLOURS)], linewidths=0, label=name
        )
    if chosen is not None:
        ringed = positions[chosen]
        axes.scatter(
            ringed[:, 0], ringed[:, 1], s=60, facecolors="none", edgecolors="black", linewidths=1.0, label="selected"
        )
    axes.set(xlabel="first axis of the scaling", ylabel="second axis of the scaling")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_title("Items by training dynamics")
    figure.legend(loc="outside right upper")
    return figure


@in_style
def prediction_figure(truth: Tensor, estimates: dict[str, Estimate], confidence: float = 0.95) -> Figure:
    """Plot the benchmark predicted from a subset of its items against its true value, with intervals.

    Args:
        truth: ``(T,)`` true values at the checkpoints.
        estimates: of each method to compare, ``(T,)`` each, by its name.
        confidence: of the intervals, in (0, 1).

    Raises:
        ValueError: for no estimate, or one that does not fit the truth.

    Example:
        >>> truth = torch.linspace(0, 1, 5)
        >>> estimate = Estimate(truth + 0.1, torch.full((5,), 0.1), torch.full((5,), 30.0))
        >>> prediction_figure(truth, {"10 % of the points": estimate}).axes[0].get_xlabel()
        'true value, nats'
    """
    if not estimates or any(estimate.value.shape != truth.shape for estimate in estimates.values()):
        raise ValueError(
            f"`estimates` must contain at least one, each with the shape of `truth`, {tuple(truth.shape)}."
        )
    figure, (axes,) = new_figure()
    _identity(axes, truth)
    for index, (name, estimate) in enumerate(estimates.items()):
        low, high = estimate.interval(confidence)
        spread = torch.stack([estimate.value - low, high - estimate.value]).numpy()
        axes.errorbar(
            truth.numpy(), estimate.value.numpy(), spread, fmt="o", markersize=4, linewidth=0.9, alpha=0.85,
            color=COLOURS[index % len(COLOURS)], label=name,
        )  # fmt: skip
    axes.set(xlabel="true value, nats", ylabel=f"predicted value with {confidence:.0%} interval, nats")
    axes.set_title("Predicted and true benchmark value")
    figure.legend(loc="outside lower center")
    return figure


def _identity(axes: Axes, truth: Tensor) -> None:
    ends = [float(truth.min()), float(truth.max())]
    axes.plot(ends, ends, color=OPTIMUM, linestyle="--", linewidth=1.0, label="exact")


def _ink(value: float) -> str:
    return "white" if abs(value) > 0.6 else "black"
