"""The study of layers: what is read, and what follows from a table."""

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from validity.answers import read_table, write_table
from validity.encoders import DIMENSIONS, LAYERS, build_encoder
from validity.layer_answers import LayerRun, report, runs_of
from validity.layer_figure import layers_figure
from validity.layer_measure import PREDICTORS, LayerMeasurement, margin, measured_steps, outputs_of, pooled
from validity.layer_widths import WIDTH_CANDIDATES
from validity.runs import Run, pretrain

ACCURACY = np.array([[0.5, 0.6, 0.4], [0.7, 0.9, 0.8], [0.6, 0.8, 0.85]])
EVEN = np.array([[0.0, 0.0, 0.0], [0.0, 0.02, 0.0], [0.0, 0.0, -0.0625]])
INFORMATION = np.array([[3.0, 1.0, 1.0], [4.0, 3.0, 2.5], [2.0, 6.0, 3.0]])


def table():
    return [
        {"images": "digits", "regime": "rotation", "encoder": "conv-6", "seed": seed, "step": step, "layer": layer}
        | {"width": 48, "accuracy:linear": float(ACCURACY[at, layer])}
        | {"accuracy:linear, even": round(ACCURACY[at, layer] + EVEN[at, layer], 4)}
        | {"accuracy:linear, odd": round(ACCURACY[at, layer] - EVEN[at, layer], 4)}
        | {"margin": float(INFORMATION[at, layer] - INFORMATION[at, 2])}
        | {"predictor:information": float(INFORMATION[at, layer])}
        for seed in range(2)
        for at, step in enumerate((0, 10, 100))
        for layer in range(3)
    ]


def test_what_is_lost_by_a_layer_a_pair_and_the_last_layer():
    run = LayerRun(table()[:9])
    assert run.lost_by_layer("information") == pytest.approx([0.1, 0.2, 0.05])
    assert run.lost_by_last() == pytest.approx([0.2, 0.1, 0])
    assert run.lost_by_pair("information") == pytest.approx(0.1)  # the second layer at the last checkpoint
    assert run.lost_by_last_of_chosen("information") == pytest.approx(0.05)
    assert run.lost_by_layer_of_last("information") == pytest.approx(0.1)
    assert run.rank_correlation("information") == pytest.approx(
        spearmanr(INFORMATION.ravel(), ACCURACY.ravel()).statistic
    )


def test_what_is_lost_by_the_rules_for_a_pair():
    run = LayerRun(table()[:9])
    assert [run.chosen_by(rule) for rule in ("most", "clear", "late")] == [(2, 1)] * 3  # above the last layer by 3
    assert run.lost_by_rule("most") == pytest.approx(0.1)
    # best on even images: 0.88 on odd ones, chosen 0.8; on odd ones: 0.7875 on even ones, chosen 0.8
    assert run.lost_across_halves("most") == pytest.approx((0.08 - 0.0125) / 2)
    run.margins[2, 1] = 1.5
    assert (run.chosen_by("clear"), run.chosen_by("late, clear")) == ((2, 2), (2, 2))
    assert run.lost_by_rule("clear") == pytest.approx(0.05)


def test_the_margin_of_a_layer_is_in_standard_errors_of_the_difference():
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(64, 1, 8, generator=generator) + 0.5 * torch.randn(64, 16, 8, generator=generator)
    noisy = views + torch.randn(64, 16, 8, generator=generator)
    assert margin(views, views) == 0
    assert margin(views, noisy) > 5
    assert margin(noisy, views) == pytest.approx(-margin(views, noisy))


def test_a_table_comes_back_as_it_was_written_and_is_reported(tmp_path):
    write_table(table()[::-1], tmp_path / "one.csv.gz")
    write_table(table(), tmp_path / "two.csv.gz")
    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "two.csv.gz").read_bytes()
    rows = read_table(tmp_path / "one.csv.gz")
    assert rows == table()
    assert [run.seed for run in runs_of(rows)] == [0, 1]
    assert "| digits | rotation | 3, 3 | 2, 2 | 0.100 | 0.050 |" in "\n".join(report(rows))


def test_the_picture_marks_the_best_layer_of_each_checkpoint_by_information_and_by_labels():
    information, accuracy, *_ = layers_figure(table()).axes
    for axes, values in ((information, INFORMATION), (accuracy, ACCURACY)):
        np.testing.assert_allclose(axes.images[0].get_array(), values.T, rtol=1e-4)
        marked = axes.collections[0].get_offsets().data
        assert [values[int(step), int(layer)] for step, layer in marked] == values.max(1).tolist()
    with pytest.raises(ValueError, match="no run"):
        layers_figure([row | {"encoder": "other"} for row in table()])


@pytest.mark.parametrize("name", LAYERS)
def test_the_layers_are_read_in_the_order_of_their_calls_and_the_last_one_is_the_output(name):
    encoder, found = build_encoder(name, 1).eval(), {}
    x = torch.randn(4, 1, 8, 8)
    with torch.no_grad(), outputs_of(encoder, LAYERS[name], lambda layer, output: found.update({layer: output})):
        features = encoder(x)
    assert tuple(found) == LAYERS[name]
    assert len(found) >= 6
    torch.testing.assert_close(pooled(found[LAYERS[name][-1]]), features)
    assert features.shape == (4, DIMENSIONS[name])


def test_candidates_of_features_that_views_do_not_tell_apart_are_about_nothing():
    generator = torch.Generator().manual_seed(0)
    means, noise = torch.randn(64, 1, 48, generator=generator), torch.randn(64, 16, 48, generator=generator)
    for name, candidate in WIDTH_CANDIDATES.items():
        nothing, much = candidate(noise), candidate(means + 0.3 * noise)
        assert abs(nothing) < 0.1 * much, name


@pytest.mark.slow
def test_a_run_is_measured(tmp_path):
    run = Run("digits", "rotation", "conv-6", 0, 50)
    pretrain(run, tmp_path)
    rows = LayerMeasurement("digits").rows(run, tmp_path)
    assert len(rows) == len(measured_steps(50)) * len(LAYERS["conv-6"])
    assert all(np.isfinite(row[f"predictor:{name}"]) for row in rows for name in PREDICTORS)
    assert all(0 < row["accuracy:linear"] <= 1 for row in rows)
