import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.stats import multivariate_normal, spearmanr, zscore
from sklearn.neighbors import KNeighborsClassifier
from torch import nn
from validity.alignment import agreement
from validity.answers import Study, movement, read_table, write_table
from validity.encoders import DIMENSIONS, build_encoder
from validity.inputs import load_images
from validity.measure import PREDICTORS, Measurement
from validity.proxies import lidar, logme
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


def test_movement_is_in_standard_errors_of_the_best_and_halves_are_compared_by_rank():
    rows = table({"truth": LINEAR})
    for row in rows:
        shift = {0: 0.0, 10: 0.3, 100: 0.1, 1000: 0.0}[row["step"]]
        row |= {"accuracy:first half": row["accuracy:linear/digit"], "accuracy:second half": shift}
    lines = list(movement(Study(rows, ["simclr", "collapse"], "digit"), 100))
    simclr = next(line for line in lines if line.startswith("| simclr")).split(" | ")
    best = 0.905  # the median of two seeds
    errors = np.median([0.4 / (b * (1 - b) / 100) ** 0.5 for b in (0.9, 0.91)])
    assert simclr[1:4] == ["0.505", f"{best:.3f}", "0.805"]
    assert float(simclr[4]) == pytest.approx(errors, abs=0.06)
    assert float(simclr[5].rstrip(" |")) == pytest.approx(spearmanr(LINEAR[0], [0, 0.3, 0.1, 0]).statistic, abs=0.006)


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
    chance = replace(glyphs, train_labels={"none": torch.arange(len(glyphs.train)) % 3})
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
        scores = family.scores(nn.Flatten(), (0.0, 0.2, 0.5, 0.8))
        # White noise has one eigenvalue: every epsilon gives the same rule.
        assert scores.mean().item() == pytest.approx(1, abs=0.05)


def test_lidar_counts_the_directions_that_tell_images_apart():
    generator = torch.Generator().manual_seed(0)
    means = torch.zeros(512, 1, 8)
    means[..., :3] = 10 * torch.randn(512, 1, 3, generator=generator)
    features = means + torch.randn(512, 16, 8, generator=generator)
    assert lidar(features) == pytest.approx(3, abs=0.3)


def test_logme_is_the_largest_log_evidence_of_a_linear_model():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 5, generator=generator).double(), torch.arange(40) % 2

    targets = torch.nn.functional.one_hot(y).double().T.numpy()

    def without_evidence(logarithms, target):
        alpha, beta = np.exp(np.clip(logarithms, -9, 9))
        covariance = (torch.eye(40).double() / beta + x @ x.T / alpha).numpy()
        return -multivariate_normal(np.zeros(40), covariance).logpdf(target) / 40

    best = [minimize(without_evidence, [0, 0], (target,), method="Nelder-Mead").fun for target in targets]
    assert logme(x, y) == pytest.approx(-np.mean(best), abs=1e-3)


def test_views_keep_what_the_label_is_about_and_wrong_ones_do_not():
    images = load_images("digits")
    torch.manual_seed(0)
    neighbours = KNeighborsClassifier(5).fit(images.train.flatten(1), images.train_labels["digit"])
    kept, lost = (
        neighbours.score(view(images.test).flatten(1), images.test_labels["digit"])
        for view in (images.views, images.wrong_views)
    )
    assert kept > lost + 0.2


def test_letters_are_recoloured_as_they_were_coloured():
    images = load_images("recoloured")
    torch.manual_seed(0)
    first, second = (images.views(images.test) for _ in range(2))
    assert first.shape == images.test.shape
    # The colour of the ground, the median over places, does not tell that of another view.
    grounds = [view.flatten(2).median(2).values.flatten().numpy() for view in (first, second)]
    assert abs(np.corrcoef(grounds)[0, 1]) < 0.1
    assert first.mean().item() == pytest.approx(images.test.mean().item(), abs=0.2)


def test_sums_are_of_what_varies_within_a_run():
    predictors = {"information, views": [[0, 1, 2, 3]] * 2, "readout 100": [[0, -1, 5, 9]] * 2, "other": [STEPS, STEPS]}
    found = study(**predictors).predictors["views + readout 100"]
    expected = zscore([0, 1, 2, 3]) + zscore([0, -1, 5, 9])
    assert found == pytest.approx(np.stack([expected] * 4))


@pytest.mark.parametrize(("name", "encoder"), [("digits", "conv"), ("digits", "transformer"), ("pictures", "resnet")])
def test_every_way_trains_on_every_size(name, encoder):
    if name == "pictures":
        pytest.importorskip("skimage")
    images = load_images(name)
    for make in REGIMES.values():
        regime = make(images, DIMENSIONS[encoder])
        torch.manual_seed(0)
        few = regime.batch()._replace(images=regime.batch().images[:128])
        assert torch.isfinite(regime.loss(build_encoder(encoder, images.input_shape[0]), few))


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
