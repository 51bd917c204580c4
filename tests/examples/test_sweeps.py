"""The study of sweeps, and that of wrong labels."""

import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from validity import label_measure
from validity.answers import read_table, write_table
from validity.inputs import augment, load_images
from validity.label_measure import rows_of
from validity.noisy_labels import held_out, with_wrong
from validity.sweep_answers import Sweep, report
from validity.sweep_measure import PREDICTORS, SweepMeasurement, SweepRun
from validity.sweep_settings import METHODS, WIDTH, WIDTHS, WITH_PROJECTOR, Setting, objective_of, settings_of

EXAMPLES = Path(__file__).parents[2] / "examples"
KEPT = EXAMPLES / "validity"


def rows(values, accuracy, method="simclr"):
    settings = settings_of(method, len(values))
    return [
        {"images": "digits", "regime": method, "encoder": "one width", "seed": setting.number, "step": 300}
        | {"accuracy:linear": found, "error:linear": 0.01, "predictor:loss": value}
        for setting, value, found in zip(settings, values, accuracy, strict=True)
    ]


@pytest.mark.parametrize("method", METHODS)
def test_fewer_settings_are_the_first_of_more_and_only_their_own_knobs_have_values(method):
    assert repr(settings_of(method, 12)) == repr(settings_of(method, 24)[:12])
    assert {setting.width for setting in settings_of(method, 24)} == {WIDTH}
    assert {setting.width for setting in settings_of(method, 24, "any width")} == set(WIDTHS)
    alike = settings_of(method, 24, "one augmentation")
    assert {(setting.width, setting.strength) for setting in alike} == {(WIDTH, 1)}
    assert len({setting.learning_rate for setting in alike}) == 24
    knobs = {name for name in Setting._fields[7:] if not math.isnan(getattr(settings_of(method, 1)[0], name))}
    expected = {"simclr": {"temperature"}, "vicreg": {"invariance", "covariance"}, "masked": {"hidden"}}
    assert knobs == expected.get(method, {"wrong"})


def test_the_objective_has_what_the_setting_says():
    images = load_images("digits")
    setting = settings_of("simclr", 1)[0]._replace(batch_size=32, temperature=0.07, weight_decay=0.5)
    objective = objective_of(setting, images)
    assert (objective.temperature, objective.weight_decay) == (0.07, 0.5)
    assert len(objective.batch().images) == 32


@pytest.mark.parametrize("name", ["digits", "recoloured"])
def test_augmentation_of_strength_0_changes_nothing_and_that_of_strength_1_is_the_default(name):
    images = load_images(name)
    few = images.train[:16]
    torch.testing.assert_close(images.augment(few, strength=0.0), few, atol=1e-5, rtol=1e-5)
    torch.manual_seed(0)
    expected = images.augment(few)
    torch.manual_seed(0)
    assert torch.equal(images.augment(few, strength=1.0), expected)
    assert not torch.allclose(expected, few, atol=0.5)
    mean_change = [(augment(few, strength) - few).abs().mean() for strength in (0.25, 0.5, 1.0, 1.5)]
    assert mean_change == sorted(mean_change)


def test_held_out_examples_are_not_trained_on():
    images = load_images("digits")
    kept, out, labels = held_out(images, 100)
    assert len(kept.train) == len(images.train) - 100 == len(kept.train_labels["digit"])
    pixels = {tuple(image) for image in kept.train.flatten(1).tolist()}
    assert sum(tuple(image) in pixels for image in out.flatten(1).tolist()) == 0
    assert len(labels) == 100


def test_two_fifths_of_the_labels_are_replaced_and_a_class_in_ten_of_them_by_the_right_one():
    torch.manual_seed(0)
    labels = torch.arange(20_000) % 10
    assert (with_wrong(labels, 0.4) != labels).double().mean().item() == pytest.approx(0.36, abs=0.01)
    assert torch.equal(with_wrong(labels, 0.0), labels)


def test_a_ranking_is_spearman_s_and_what_the_best_number_loses():
    accuracy, values = [0.5, 0.9, 0.7, 0.8, 0.6], [1.0, 3.0, 2.0, 5.0, 0.0]
    ranking = Sweep(rows(values, accuracy)).ranking("loss")
    assert ranking.rho == pytest.approx(spearmanr(values, accuracy).statistic)
    assert ranking.low <= ranking.rho <= ranking.high
    assert ranking.regret == pytest.approx(0.1)


def test_runs_without_the_number_count_as_lost_and_a_number_of_few_runs_is_left_out():
    accuracy = [0.5, 0.9, 0.7, 0.8, 0.6]
    assert Sweep(rows([1.0, math.nan, 2.0, 5.0, 0.0], accuracy)).ranking("loss").regret == pytest.approx(0.1)
    assert Sweep(rows([1.0, math.nan, math.nan, math.nan, 0.0], accuracy)).ranking("loss") is None


def test_a_table_of_runs_is_reported_by_method_and_source(tmp_path):
    table = rows([1.0, 3.0, 2.0], [0.5, 0.9, 0.7]) + rows([3.0, 1.0, 2.0], [0.5, 0.9, 0.7], "masked")
    write_table(table, tmp_path / "sweep.csv.gz")
    lines = list(report(read_table(tmp_path / "sweep.csv.gz"), ["loss"]))
    assert any(line.startswith("| loss | 1.00 [") and "| -1.00 [" in line for line in lines)
    assert "| loss | 0.00 / 0.200 (0.400) |" in lines


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_is_measured(method, tmp_path):
    run = SweepRun("digits", "one width", settings_of(method, 1)[0]._replace(batch_size=32), 2)
    row = SweepMeasurement("digits").row(run, tmp_path)
    assert 0 <= row["accuracy:linear"] <= 1
    without = [] if method in WITH_PROJECTOR else [name for name in PREDICTORS if "projector" in name]
    assert [name for name in PREDICTORS if not np.isfinite(row[f"predictor:{name}"])] == without


def test_a_run_on_noisy_labels_is_measured(tmp_path):
    found = rows_of("digits", 0, 4, tmp_path)
    assert found == rows_of("digits", 0, 4, tmp_path)  # read again
    assert all(np.isfinite(row[f"predictor:{name}"]) for row in found for name in label_measure.PREDICTORS)


def printed(monkeypatch, capsys, name, *tables):
    monkeypatch.setattr(sys, "argv", [name, "--table", *map(str, tables)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


def test_in_the_kept_results_information_under_the_same_views_ranks_runs_and_under_their_own_views_does_not(
    monkeypatch, capsys
):
    tables = [KEPT / f"sweep_{images}.csv.gz" for images in ("digits", "recoloured")]
    lines = printed(monkeypatch, capsys, "sweep_study.py", *tables).split("## All sources, one width, all runs")[1]

    def medians(name):
        line = next(line for line in lines.splitlines() if line.startswith(f"| {name} |"))
        return [float(cell.split(" / ")[0]) for cell in line.split("|")[2:-1]]

    assert min(medians("information, views")) > 0.6
    assert max(medians("information, own views")) < 0.3
    assert max(medians("LiDAR")) < 0


def test_in_the_kept_results_labels_that_are_trained_on_mislead_and_wrong_ones_of_held_out_examples_do_not(
    monkeypatch, capsys
):
    out = printed(monkeypatch, capsys, "label_study.py", KEPT / "labels.csv.gz").split("after a tenth of the steps")[1]

    def means(name):
        line = next(line for line in out.splitlines() if line.startswith(f"| readout, {name} |"))
        return [float(cell.split(" (")[0]) for cell in line.split("|")[2:-1]]

    for trained_on, held_out_labels in zip(means("training labels"), means("held-out wrong labels"), strict=True):
        assert trained_on < held_out_labels
