"""The study of the views that a run has by itself."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from validity.encoders import DIM, build_encoder
from validity.inputs import TEST_IMAGES, load_images
from validity.regimes import REGIMES
from validity.run_views import PREDICTORS, RunMeasurement, own_views
from validity.runs import Run, checkpoint_steps, pretrain, started

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def images():
    return load_images("digits")


def of(images, regime):
    objective = REGIMES[regime](images, DIM)
    return objective.source.images[:128], own_views(objective, objective.source).versions


def test_a_runs_own_views_are_what_its_steps_give_the_encoder(images):
    inputs, views = of(images, "masked")
    assert views.shape == (128, 16, 1, 8, 8)
    hidden = views == 0
    assert torch.equal(views[~hidden], inputs[:, None].expand_as(views)[~hidden])
    assert hidden.double().mean().item() == pytest.approx(0.5, abs=0.02)
    assert len({tuple(view.flatten().tolist()) for view in hidden[0]}) == 16
    inputs, views = of(images, "denoising")
    assert (views - inputs[:, None]).std().item() == pytest.approx(0.7, abs=0.01)


def test_where_nothing_is_random_a_run_has_noise_about_the_images_that_it_trains_on(images):
    torch.manual_seed(0)
    objective = REGIMES["over-training"](images, DIM)
    views = own_views(objective, objective.source).versions
    assert torch.allclose(views.mean(1), objective.source.images[:128], atol=1.0)
    assert views.std(1).mean().item() == pytest.approx(0.7, abs=0.05)


@pytest.mark.parametrize("name", ["digits", "patches", "glyphs"])
def test_the_number_of_test_images_is_known_without_reading_them(name):
    assert TEST_IMAGES[name] == len(load_images(name).test)


def test_the_start_of_a_run_is_the_same_in_each_call(images):
    run = Run("digits", "over-training", "conv", 1, 2)
    one, two = (started(run, images) for _ in range(2))
    assert torch.equal(one[1].source.images, two[1].source.images)
    assert all(torch.equal(a, b) for a, b in zip(one[0].parameters(), two[0].parameters(), strict=True))


def test_dropout_is_a_source_of_views_only_of_an_encoder_that_has_it(tmp_path):
    for encoder in ("conv", "conv-dropout"):
        run = Run("digits", "collapse", encoder, 0, 2)
        pretrain(run, tmp_path)
        rows = RunMeasurement("digits").rows(run, tmp_path)
        assert [row["step"] for row in rows] == checkpoint_steps(2)
        assert all(np.isfinite(row[f"predictor:{name}"]) for row in rows for name in PREDICTORS)
        assert all((row["predictor:information, dropout"] > 0) == (encoder == "conv-dropout") for row in rows)


def test_dropout_changes_nothing_but_what_it_hides():
    torch.manual_seed(0)
    plain = build_encoder("conv", 1).eval()
    torch.manual_seed(0)
    with_dropout = build_encoder("conv-dropout", 1).eval()
    x = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(with_dropout(x), plain(x))
    assert not torch.allclose(with_dropout.train()(x), with_dropout(x))


def test_on_fashion_mnist_over_training_is_followed_by_information_and_not_by_the_loss(monkeypatch, capsys):
    table = EXAMPLES / "validity" / "fashion.csv.gz"
    monkeypatch.setattr(sys, "argv", ["run_views_study.py", "--table", str(table)])
    runpy.run_path(str(EXAMPLES / "run_views_study.py"), run_name="__main__")
    within = capsys.readouterr().out.split("### Regret")[0].splitlines()
    column = next(line for line in within if "over-training" in line).split(" | ").index("over-training")

    def followed(name):
        return float(next(line for line in within if line.startswith(f"| {name} |")).split(" | ")[column].split()[0])

    assert followed("information, views") > 0.8
    assert followed("loss") < -0.8
