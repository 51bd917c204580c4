import numpy as np
import pytest
import torch

from synbench_lightning.functional.benchmark.confidence_intervals import Estimate
from synbench_lightning.functional.benchmark.curve_correlation import pearson
from synbench_lightning.plots import (
    correlation_figure,
    point_map_figure,
    prediction_figure,
    task_curves_figure,
)

CURVES = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)).cumsum(0)
NAMES = ["digit", "parity", "photo"]
STEPS = list(range(0, 90, 10))


def estimate(values):
    return Estimate(values, torch.full_like(values, 0.1), torch.full_like(values, torch.inf))


def test_the_curves_are_those_of_the_tasks_and_their_mean():
    axes = task_curves_figure(CURVES, NAMES, STEPS, warmup=4).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert set(lines) == {*NAMES, "benchmark (mean)", "end of warm-up"}
    np.testing.assert_allclose(lines["parity"].get_ydata(), CURVES[:, 1])
    np.testing.assert_allclose(lines["benchmark (mean)"].get_ydata(), CURVES.mean(1))
    assert lines["end of warm-up"].get_xdata()[0] == 30


def test_each_correlation_is_written_with_the_mark_of_its_significance():
    correlation = pearson(torch.cat([CURVES, CURVES[:, :1] + 1e-3, torch.ones(9, 1)], 1))
    axes = correlation_figure(correlation, [*NAMES, "double", "constant"]).axes[0]
    texts = {text.get_position(): text.get_text() for text in axes.texts}
    for row in range(3):
        for column in range(row):
            value, chance = correlation.r[row, column].item(), correlation.p_value[row, column].item()
            mark = "**" if chance < 0.01 else "*" if chance < 0.05 else ""
            assert texts[column, row] == f"{value:.2f}{mark}"
    assert texts[0, 3] == "1.00**"
    assert texts[4, 0] == ""


def test_the_map_shows_every_point_in_its_group_and_rings_the_selected():
    figure = point_map_figure(torch.randn(30, 2), torch.arange(30) % 3, NAMES, torch.tensor([4, 8]))
    sizes = [len(drawn.get_offsets()) for drawn in figure.axes[0].collections]
    assert sizes == [10, 10, 10, 2]


def test_predictions_stand_above_their_true_values_with_intervals():
    truth = torch.linspace(-1, 0, 6).double()
    axes = prediction_figure(truth, {"few": estimate(truth + 0.2), "many": estimate(truth)}, 0.95).axes[0]
    points, bars = axes.containers[0].lines[0], axes.containers[0].lines[2][0]
    np.testing.assert_allclose(points.get_ydata(), truth + 0.2)
    np.testing.assert_allclose(np.diff(bars.get_segments()[0][:, 1]), 2 * 1.96 * 0.1, rtol=1e-3)


def test_figures_have_axes_with_names_and_a_title():
    truth = torch.linspace(-1, 0, 6)
    for figure in (
        task_curves_figure(CURVES, NAMES, STEPS),
        point_map_figure(torch.randn(30, 2), torch.arange(30) % 3, NAMES),
        prediction_figure(truth, {"few": estimate(truth)}),
    ):
        axes = figure.axes[0]
        assert axes.get_xlabel()
        assert axes.get_ylabel()
        assert axes.get_title()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"`curves` must have shape \(9, 2\)"):
        task_curves_figure(CURVES, NAMES[:2], STEPS)
    with pytest.raises(ValueError, match="`names` must be one for each of 3 tasks, got 2"):
        correlation_figure(pearson(CURVES), NAMES[:2])
    with pytest.raises(ValueError, match="`positions` must have shape"):
        point_map_figure(torch.randn(5, 3), torch.zeros(5, dtype=torch.long), NAMES)
    with pytest.raises(ValueError, match="`estimates` must contain at least one"):
        prediction_figure(torch.ones(3), {})
