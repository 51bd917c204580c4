import warnings

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.neighbors import NearestCentroid
from torch import nn
from validity.alignment import agreement
from validity.answers import Study, read_table, write_table
from validity.inputs import Images, load_images
from validity.measure import EPSILONS, PREDICTORS, Measurement
from validity.proxies import Mixture, class_rules, unlabelled
from validity.regimes import DEVELOPMENT, HELD_OUT, REGIMES
from validity.runs import Run, checkpoint_steps, pretrain

STEPS = [0, 10, 100, 1000]
LINEAR = [[0.5, 0.6, 0.9, 0.8], [0.5, 0.7, 0.6, 0.55]]


def table(predictors):
    """Two regimes, one architecture, two seeds that are alike but for a constant."""
    return [
        {"images": "digits", "regime": regime, "encoder": "conv", "seed": seed, "step": step}
        | {"accuracy:linear/digit": LINEAR[row][at] + 0.01 * seed}
        | {f"predictor:{name}": float(values[row][at]) for name, values in predictors.items()}
        for row, regime in enumerate(["simclr", "collapse"])
        for seed in range(2)
        for at, step in enumerate(STEPS)
    ]


def study(**predictors):
    return Study(table(predictors), ["simclr", "collapse"], "digit")


def test_the_halves_share_no_regime_and_leave_none_out():
    assert {*DEVELOPMENT, *HELD_OUT} == {*REGIMES}
    assert len(DEVELOPMENT) == len(HELD_OUT) == len(REGIMES) / 2


def test_checkpoints_are_spaced_by_logarithm_from_the_first_step_to_the_last():
    steps = checkpoint_steps(800)
    assert steps[0] == 0
    assert steps[-1] == 800
    assert len(steps) >= 15
    ratios = np.array(steps[2:]) / np.array(steps[1:-1])
    assert 1.2 < ratios.min() <= ratios.max() < 1.7


def test_correlation_within_runs_is_spearmans():
    found = study(truth=LINEAR, step=[STEPS, STEPS], nothing=[[1] * 4] * 2)
    assert found.within("truth") == pytest.approx([1.0] * 4)
    expected = {"simclr": spearmanr(STEPS, LINEAR[0]).statistic, "collapse": spearmanr(STEPS, LINEAR[1]).statistic}
    assert found.within("step") == pytest.approx([expected[regime] for regime in found.of_regime])
    assert not found.within("nothing").any()


def test_the_regret_of_a_checkpoint_is_what_the_best_one_has_more():
    found = study(step=[STEPS, STEPS], truth=LINEAR)
    lost = {"simclr": 0.1, "collapse": 0.15}
    assert found.checkpoint_regret("step") == pytest.approx([lost[regime] for regime in found.of_regime])
    assert not found.checkpoint_regret("truth").any()


def test_the_regret_of_a_regime_is_what_the_best_one_ends_with_more():
    found = study(good=[[0, 0, 0, 2], [0, 0, 0, 1]], bad=[[0, 0, 0, 1], [0, 0, 0, 2]])
    assert found.regime_regret("good") == pytest.approx([0.0, 0.0])
    assert found.regime_regret("bad") == pytest.approx([0.25, 0.25])


def test_a_table_comes_back_as_it_was_written_and_the_same_rows_give_the_same_bytes(tmp_path):
    rows = table({"mixture, nearest mean": [STEPS, STEPS]})
    write_table(rows, tmp_path / "one.csv.gz")
    write_table(rows[::-1], tmp_path / "two.csv.gz")
    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "two.csv.gz").read_bytes()
    assert read_table(tmp_path / "one.csv.gz") == sorted(
        rows, key=lambda row: (row["regime"], row["seed"], row["step"])
    )


def test_clusters_agree_with_the_digit_and_not_with_its_parity():
    found = agreement(load_images("digits"))
    assert found["digit"] > 0.6
    assert found["parity"] < 0.4
    glyphs = load_images("glyphs")
    chance = Images(glyphs.train, glyphs.test, {"none": torch.arange(len(glyphs.train)) % 3}, {})
    assert agreement(chance)["none"] < 0.02


def test_letters_of_all_fonts_are_drawn():
    images = load_images("glyphs")
    x = torch.cat([images.train, images.test])
    letters = torch.cat([images.train_labels["letter"], images.test_labels["letter"]])
    assert torch.bincount(letters).tolist() == [210] * 10  # 21 fonts, ten colourings
    spread = x.flatten(2).std(2).max(1).values
    assert (spread > 0.05).all()  # nothing is blank, and ink differs from its ground


@pytest.mark.parametrize("name", ["digits", "patches", "glyphs"])
def test_an_encoder_that_loses_nothing_has_the_score_one_whatever_the_centre_and_the_noise(name):
    families = Measurement(name).families
    for family in families.values():
        scores = family.scores(nn.Flatten(), EPSILONS)
        # White noise has one eigenvalue: every epsilon gives the same rule.
        assert scores.mean().item() == pytest.approx(1, abs=0.05)


def test_the_linear_discriminant_and_the_nearest_mean_are_those_of_scikit_learn():
    x = torch.randn(600, 8, generator=torch.Generator().manual_seed(0)).double()
    y = torch.arange(600) % 3
    x[:, 0] += y
    x = x @ torch.randn(8, 8, generator=torch.Generator().manual_seed(1)).double()
    reference = LinearDiscriminantAnalysis(priors=[1 / 3] * 3).fit(x[:300].numpy(), y[:300].numpy())
    expected = reference.score(x[300:].numpy(), y[300:].numpy())
    nearest = NearestCentroid().fit(x[:300].numpy(), y[:300].numpy()).score(x[300:].numpy(), y[300:].numpy())
    assert class_rules(x[:300], y[:300], x[300:], y[300:]) == pytest.approx((expected, nearest), abs=0.005)


def test_a_nonlinear_encoder_makes_a_mixture_more_separable_than_the_inputs_are():
    # With a covariance for each class the optimum is quadratic; squares of the inputs come nearer to it.
    mixture = Mixture(unlabelled(load_images("digits")), 2.0, classes=3)

    def squares(images):
        flat = images.flatten(1)
        return torch.cat([flat, flat.square()], 1)

    assert mixture.accuracies(squares)[0] > mixture.accuracies(nn.Flatten())[0] + 0.01
    assert mixture.accuracies(lambda images: torch.zeros(len(images), 4))[0] == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("regime", REGIMES)
def test_every_regime_trains_and_is_measured(regime, tmp_path):
    warnings.simplefilter("ignore")  # scikit-learn: iterations of logistic regression
    run = Run("patches", regime, "conv", 0, 20)
    pretrain(run, tmp_path)
    rows = Measurement("patches").rows(run, tmp_path)
    assert [row["step"] for row in rows] == checkpoint_steps(20)
    assert all(np.isfinite(row[f"predictor:{name}"]) for row in rows for name in PREDICTORS)
    assert all(0 <= value <= 1 for row in rows for name, value in row.items() if name.startswith("accuracy:"))
