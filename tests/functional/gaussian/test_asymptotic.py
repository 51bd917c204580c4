import pytest
import torch

from synbench_lightning.functional.gaussian.asymptotic import estimate_limit
from synbench_lightning.functional.gaussian.bayes_optimal import optimal_accuracy, optimal_bound
from synbench_lightning.functional.gaussian.discriminant import accuracy_and_bound
from synbench_lightning.functional.gaussian.score import synbench_score
from synbench_lightning.functional.jackknife import jackknife_error
from synbench_lightning.probe.plan import ProbePlan

PLAN = ProbePlan()


def features(dim, vectors, scales=PLAN.scales, tasks=1, seed=0, encoder=lambda x: x):
    """Tasks along the first axes of the input; features ``(T, K, n, 2, D)``."""
    noise = torch.randn(tasks, len(scales), vectors, 1, dim, generator=torch.Generator().manual_seed(seed))
    shift = torch.tensor(scales).reshape(-1, 1, 1, 1) * torch.eye(dim)[:tasks].reshape(tasks, 1, 1, 1, dim)
    return encoder(torch.cat([noise + shift, noise - shift], 3))


def score(found, task=0, epsilon=0, threshold=0.7):
    return float(
        synbench_score(
            found.accuracy[task, epsilon], found.bound[task, epsilon], PLAN.scales, [threshold], PLAN.weights
        )
    )


@pytest.mark.parametrize("dim", [16, 384])
def test_an_isometric_encoder_reaches_the_optimum_though_dimensions_are_many(dim):
    found = estimate_limit(features(dim, 256), PLAN.scales, [0.0, 0.2])
    scales = torch.tensor(PLAN.scales)
    for row in range(2):
        torch.testing.assert_close(found.accuracy[0, row], optimal_accuracy(scales), rtol=0, atol=0.02)
        torch.testing.assert_close(found.bound[0, row, 3:], optimal_bound(scales)[3:], rtol=0.03, atol=0)
        for threshold in (0.6, 0.7, 0.8):
            assert score(found, 0, row, threshold) == pytest.approx(1, abs=0.03)


def test_a_linear_encoder_with_unequal_noise_has_the_accuracy_of_its_gaussians():
    # Features x A' + noise of covariance B: Gaussian, so the discriminant's accuracy is known in closed form.
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(12, 8, generator=generator), torch.randn(12, 12, generator=generator)

    def encoder(x):
        added = torch.randn(*x.shape[:-1], 12, generator=torch.Generator().manual_seed(2))
        return x @ a.T + added @ b.T

    found = estimate_limit(features(8, 1024, encoder=encoder), PLAN.scales, [0.0])
    covariance = (a @ a.T + b @ b.T).double()
    delta = (a[:, 0].double() @ torch.linalg.solve(covariance, a[:, 0].double())).sqrt() * torch.tensor(PLAN.scales)
    torch.testing.assert_close(found.accuracy[0, 0], optimal_accuracy(delta), rtol=0, atol=0.02)


def test_it_agrees_with_the_plain_discriminant_on_very_many_samples_of_a_nonlinear_encoder():
    weights = torch.randn(10, 20, generator=torch.Generator().manual_seed(3))

    def encoder(x):
        return torch.relu(x @ weights)

    found = estimate_limit(features(10, 512, encoder=encoder), PLAN.scales, [0.0, 0.2])
    many = features(10, 40_000, scales=(PLAN.scales[7],), seed=9, encoder=encoder)[0, 0]
    labels = torch.tensor([1, 0]).expand(20_000, 2).flatten()
    halves = [half.flatten(0, 1) for half in many.split(20_000)]
    accuracy, bound = accuracy_and_bound(halves[0], labels, halves[1], labels, [0.0, 0.2])
    torch.testing.assert_close(found.accuracy[0, :, 7], accuracy, rtol=0, atol=0.015)
    torch.testing.assert_close(found.bound[0, :, 7], bound, rtol=0.03, atol=0)


def test_tasks_share_a_covariance_and_keep_their_own_means():
    def encoder(x):  # the second task's direction is lost
        return torch.cat([x[..., :1], x[..., 2:]], -1)

    found = estimate_limit(features(24, 256, tasks=3, encoder=encoder), PLAN.scales, [0.0])
    assert score(found, 0) == pytest.approx(1, abs=0.05)
    assert score(found, 1) == pytest.approx(0, abs=0.05)
    assert score(found, 2) == pytest.approx(1, abs=0.05)


def test_an_orthogonal_transformation_scale_and_shift_of_the_features_change_nothing():
    x = features(12, 128)
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(2))).Q
    before = estimate_limit(x, PLAN.scales, [0.0, 0.2])
    for changed in (x @ rotation, 1e-4 * x, x + 1):
        after = estimate_limit(changed, PLAN.scales, [0.0, 0.2])
        torch.testing.assert_close(after.accuracy, before.accuracy, rtol=0, atol=2e-3)
        torch.testing.assert_close(after.bound, before.bound, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(("dim", "tasks"), [(12, 1), (12, 2), (60, 2)])
def test_an_isometry_into_more_dimensions_than_examples_changes_nothing(dim, tasks):
    x = features(dim, 16, scales=(0.5, 1.0, 2.0, 3.0), tasks=tasks)
    size = x[..., 0].numel() + 40
    axes = torch.randn(size, dim, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    before = estimate_limit(x, (0.5, 1.0, 2.0, 3.0), [0.0, 0.2])
    after = estimate_limit(x.double() @ torch.linalg.qr(axes).Q.T, (0.5, 1.0, 2.0, 3.0), [0.0, 0.2])
    assert (after.resolved, after.rank) == (before.resolved, before.rank)
    for name in ("accuracy", "bound"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(after.eigenvalues[-dim:], before.eigenvalues)
    assert len(after.eigenvalues) == len(after.variances) == size
    torch.testing.assert_close(after.variances.sum(), before.variances.sum())


def test_no_matrix_of_dimensions_by_dimensions_is_made_of_wide_features():
    x = torch.randn(1, 2, 4, 2, 100_000, generator=torch.Generator().manual_seed(0))  # whose square is 80 GB
    found = estimate_limit(x, [0.5, 1.0], [0.0])
    assert found.rank <= x[..., 0].numel() < len(found.eigenvalues)


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_the_number_of_replicates_changes_no_estimate(blocks):
    x = features(16, 64)
    few, many = (estimate_limit(x, PLAN.scales, [0.0, 0.2], blocks=number) for number in (blocks, 32))
    torch.testing.assert_close(few.accuracy, many.accuracy)
    torch.testing.assert_close(few.bound, many.bound)
    assert len(few.jackknife_accuracy) == blocks


def test_the_standard_error_is_the_scatter_over_seeds():
    scores, errors = [], []
    for seed in range(24):
        found = estimate_limit(features(32, 64, seed=seed), PLAN.scales, [0.0])
        scores.append(score(found))
        replicates = synbench_score(
            found.jackknife_accuracy[:, 0, 0], found.jackknife_bound[:, 0, 0], PLAN.scales, [0.7], PLAN.weights
        )
        errors.append(float(jackknife_error(torch.tensor(scores[-1]), replicates)))
    scatter = torch.tensor(scores).std().item()
    assert 0.6 < torch.tensor(errors).mean().item() / scatter < 1.6


def test_constant_features_are_chance_with_no_bound():
    for constant in (torch.zeros(1, 16, 8, 2, 3), 1e3 * torch.ones(1, 16, 8, 2, 3)):
        found = estimate_limit(constant, PLAN.scales, [0.0, 0.2])
        assert (found.accuracy == 0.5).all()
        assert (found.bound == 0).all()


@pytest.mark.parametrize(("dim", "resolved"), [(60, True), (400, False)])
def test_more_dimensions_than_the_pairs_resolve_are_told_and_stay_finite(dim, resolved):
    found = estimate_limit(features(dim, 16), PLAN.scales, [0.0, 0.2])
    assert found.resolved is resolved
    assert torch.isfinite(found.accuracy).all()
    assert torch.isfinite(found.bound).all()


def test_features_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"`features` must have the shape \(tasks, 16 scales"):
        estimate_limit(torch.ones(1, 2, 8, 2, 3), PLAN.scales, [0.0])


@pytest.mark.parametrize(("dim", "noise"), [(2, 1.0), (4, 1.0), (4, 3.0), (12, 1.0), (24, 1.0), (48, 1.0)])
def test_an_encoder_that_adds_noise_of_its_own_has_lost_that_much_in_few_dimensions_too(dim, noise):
    # Found wrong once: with as many candidate directions as dimensions the noise subtracted for them had no bound.
    generator = torch.Generator().manual_seed(4)
    x = features(dim, 1024)
    found = estimate_limit(x + noise * torch.randn(x.shape, generator=generator), PLAN.scales, [0.0])
    expected = optimal_accuracy(torch.tensor(PLAN.scales) / (1 + noise**2) ** 0.5)
    torch.testing.assert_close(found.accuracy[0, 0], expected, rtol=0, atol=0.02)


def test_a_matrix_that_is_decomposed_in_float32_gives_what_the_plain_formula_gives_in_float64(monkeypatch):
    x = features(80, 8, scales=(0.5, 1.0, 2.0))
    plain = estimate_limit(x, (0.5, 1.0, 2.0), [0.0, 0.2])
    monkeypatch.setattr("synbench_lightning.functional.gaussian.pooled_covariance.DOUBLE", 16)
    for wide in (x, torch.nn.functional.pad(x, (0, 20))):
        found = estimate_limit(wide, (0.5, 1.0, 2.0), [0.0, 0.2])
        assert not found.resolved
        torch.testing.assert_close(found.accuracy, plain.accuracy, rtol=0, atol=1e-3)
        torch.testing.assert_close(found.bound, plain.bound, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(found.eigenvalues[-48:], plain.eigenvalues[-48:], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("tasks", [1, 3])
def test_classes_that_are_one_have_the_accuracy_of_chance_in_every_replicate(tasks):
    x = features(6, 64, tasks=tasks)
    x[0] = x[0].abs()  # of an example and its negative it is the same
    found = estimate_limit(x, PLAN.scales, [0.0, 0.2])
    for accuracy in (found.accuracy[0], found.jackknife_accuracy[:, 0], found.uncorrected_accuracy[0]):
        assert (accuracy == 0.5).all()
    for task in range(1, tasks):
        assert score(found, task) == pytest.approx(1, abs=0.1)
        assert (found.uncorrected_accuracy[task] > 0.5).any()


def test_without_the_correction_accuracy_is_lower():
    found = estimate_limit(features(100, 32), PLAN.scales, [0.0])
    lower = found.accuracy[0, 0] - found.uncorrected_accuracy[0, 0]
    assert (lower > -1e-3).all()
    assert lower.max() > 0.02
    assert found.correction_error == pytest.approx(10 / (16 * 32) ** 0.5)


@pytest.mark.parametrize("shape", [(1, 16, 3, 2, 5), (1, 16, 8, 3, 5), (16, 8, 2, 5)])
def test_too_few_noise_vectors_and_other_signs_are_refused(shape):
    with pytest.raises(ValueError, match="at least 4 noise vectors, 2 signs"):
        estimate_limit(torch.randn(shape), PLAN.scales, [0.0])
    assert estimate_limit(torch.randn(1, 16, 4, 2, 5), PLAN.scales, [0.0]).accuracy.shape == (1, 1, 16)


def test_the_unit_of_unequal_features_changes_no_robust_rule():
    generator = torch.Generator().manual_seed(5)
    mixing = torch.randn(6, 6, generator=generator) * torch.logspace(-1, 0.5, 6)
    x = features(6, 32, encoder=lambda x: x @ mixing)
    before, after = (estimate_limit(one, PLAN.scales, [0.3, 0.6]) for one in (x, 100 * x))
    torch.testing.assert_close(after.accuracy, before.accuracy, rtol=0, atol=1e-3)
    torch.testing.assert_close(after.bound, before.bound, rtol=1e-2, atol=1e-3)
