from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib import rc_context
from scipy.integrate import trapezoid
from torch import nn

from synbench_lightning import ProbePlan, evaluate
from synbench_lightning.plots import (
    comparison_figure,
    history_figure,
    logged_figure,
    pixels,
    robustness_accuracy_figure,
    task_map_figure,
)

PLAN = ProbePlan(forwards=2048)


def result(noise, step=None):
    generator = torch.Generator().manual_seed(0)
    return evaluate(
        lambda x: x.flatten(1) + noise * torch.randn(x.flatten(1).shape, generator=generator),
        (1, 4, 4),
        tasks="default",
        plan=PLAN,
    ).at(step=step)


def test_the_shaded_area_over_that_of_the_optimum_is_the_score():
    found = evaluate(nn.Flatten(), (1, 4, 4), plan=PLAN)
    axes = robustness_accuracy_figure(found, threshold=0.7).axes[0]
    optimum, encoder = axes.lines[0], axes.lines[1]
    level = np.asarray(optimum.get_xdata())
    inside = level >= 0.7
    areas = [trapezoid(np.asarray(line.get_ydata())[inside], level[inside]) for line in (encoder, optimum)]
    assert areas[0] / areas[1] == pytest.approx(found.score(threshold=0.7), abs=0.02)


def test_figures_have_axes_with_names_and_a_title():
    for figure in (
        robustness_accuracy_figure(result(0.5, 10), "cos_1"),
        history_figure([result(1.0, 0), result(0.1, 5)]),
    ):
        axes = figure.axes[0]
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        assert axes.get_title()
        assert axes.get_legend() is not None


def test_the_history_shows_each_task_over_the_steps():
    history = [result(1.0, 0), result(0.5, 100), result(0.1, 200)]
    lines = {line.get_label(): line for line in history_figure(history).axes[0].lines}
    assert set(lines) == {"task dc", "task cos_1", "task cos_2", "worst task"}
    assert list(lines["task dc"].get_xdata()) == [0, 100, 200]
    assert list(lines["task cos_1"].get_ydata()) == [found.score("cos_1") for found in history]


def test_information_about_inputs_stands_above_the_scores():
    history = [replace(result(1.0, step), information=float(step), information_error=0.5) for step in (3, 5)]
    above, below = history_figure(history).axes
    assert list(above.lines[0].get_ydata()) == [3, 5]
    assert "nats" in above.get_ylabel()
    assert "score" in below.get_ylabel()
    points = {3: {"score": 0.5, "information": 3.0}, 5: {"score": 0.6, "information": 5.0}}
    for figure in (logged_figure(points), comparison_figure({"a": points, "b": points})):
        assert [list(axes.lines[0].get_ydata()) for axes in figure.axes] in ([[3, 5], [0.5, 0.6]], [[0.5, 0.6], [3, 5]])
    assert len(comparison_figure({"a": points, "b": {0: {"score": 0.1}}}).axes) == 1


def test_the_map_has_a_row_for_each_task_and_marks_the_worst_of_each_probe():
    history = [result(1.0, 0), result(0.5, 100), result(0.1, 200)]
    axes = task_map_figure(history).axes[0]
    shown = np.asarray(axes.images[0].get_array())
    assert shown.tolist() == [[found.score(task) for found in history] for task in history[0].tasks]
    marked = np.asarray(axes.collections[0].get_offsets())[:, 1]
    assert [history[0].tasks[int(row)] for row in marked] == [found.worst()[0] for found in history]


def test_probes_of_other_tasks_before_a_resume_are_not_in_the_map():
    other = evaluate(nn.Flatten(), (1, 4, 4), plan=PLAN).at(0)
    axes = task_map_figure([other, result(1.0, 100), result(0.5, 200)]).axes[0]
    assert np.asarray(axes.images[0].get_array()).shape == (3, 2)


def test_pixels_are_an_image():
    image = pixels(result(0.5).plot())
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3
    assert image.std() > 10


def test_an_empty_history_and_an_unknown_task_are_refused():
    with pytest.raises(ValueError, match="`history` is empty"):
        history_figure([])
    with pytest.raises(ValueError, match="`history` is empty"):
        task_map_figure([])
    with pytest.raises(ValueError, match="`task` must be one that was probed"):
        robustness_accuracy_figure(result(0.5), "x")


def test_the_colours_of_the_map_range_over_the_scores_and_one_standard_error_is_marked():
    history = [result(1.0, 0), result(0.5, 100), result(0.1, 200)]
    axes, bar = task_map_figure(history).axes
    scores = [score for found in history for score in found.task_scores().values()]
    assert axes.images[0].get_clim() == (min(scores), max(scores))
    low, high = sorted(float(line.get_ydata()[0]) for line in bar.lines)
    errors = [found.standard_error(task) for found in history for task in found.tasks]
    assert high - low == pytest.approx(float(np.median(errors)))


def test_the_one_to_monitor_stands_on_top():
    told = {"information": 3.0, "readout": 0.5}
    for kind, label in (("views", "nats"), ("noise", "labels")):
        history = [replace(result(1.0, step), information_kind=kind, **told) for step in (3, 5)]
        assert label in history_figure(history).axes[0].get_ylabel()
        assert len(history_figure(history).axes) == 3


def test_the_style_is_that_of_the_package_whatever_the_caller_has_set():
    with rc_context({"axes.grid": False, "font.size": 20}):
        axes = history_figure([result(1.0, 0), result(0.1, 5)]).axes[0]
    assert axes.xaxis.label.get_size() == 9
    assert not axes.spines["top"].get_visible()
