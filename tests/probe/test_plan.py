import numpy as np
import pytest

from synbench_lightning import ProbePlan


def test_the_official_plan_is_the_published_protocol():
    plan = ProbePlan.official()
    np.testing.assert_allclose(plan.scales, np.arange(0.1, 5, 0.1))
    assert (plan.noise_vectors(3), plan.num_forwards(1), plan.num_forwards(3)) == (4096, 200_704, 602_112)


def test_the_fast_plan_integrates_polynomials_over_the_scales_exactly():
    plan = ProbePlan.fast()
    for power in range(16):
        integral = sum(w * s**power for w, s in zip(plan.weights, plan.scales, strict=True))
        assert integral == pytest.approx(5 ** (power + 1) / (power + 1))


@pytest.mark.parametrize("tasks", [1, 3, 7])
def test_the_budget_is_for_the_whole_family(tasks):
    plan = ProbePlan(forwards=4096)
    assert 0.9 * 4096 < plan.num_forwards(tasks) <= 4096


def test_presets_have_names():
    assert ProbePlan.of("fast") == ProbePlan() == ProbePlan.fast()
    assert ProbePlan.of("official") == ProbePlan.official()
    with pytest.raises(ValueError, match="`plan` must be 'fast', 'official' or a ProbePlan, got 'slow'"):
        ProbePlan.of("slow")


def test_a_budget_too_small_for_the_family_names_the_number_needed():
    with pytest.raises(ValueError, match=r"`forwards` must be at least 384 for 3 tasks at 16 scales.*got 100"):
        ProbePlan(forwards=100).noise_vectors(3)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="`forwards` must be an integer of at least 1, got 0"):
        ProbePlan(forwards=0)
    with pytest.raises(ValueError, match="`protocol` must be 'fast' or 'official', got 'other'"):
        ProbePlan(protocol="other")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="official protocol is fixed"):
        ProbePlan(forwards=100, protocol="official")


def test_the_fast_plan_has_the_documented_budget():
    plan = ProbePlan.fast()
    assert (plan.num_forwards(1), plan.noise_vectors(1), len(plan.scales), plan.signs) == (8192, 256, 16, 2)
    assert (plan.grid, plan.lowest_threshold) == (None, 0.5)
    assert sum(plan.weights) == pytest.approx(5.0)
    short = ProbePlan(num_scales=8, max_scale=3.0)
    assert short.num_forwards(2) == 8192
    assert max(short.scales) < 3.0 == pytest.approx(sum(short.weights))


def test_the_official_plan_sums_over_its_grid():
    plan = ProbePlan.official()
    assert (plan.forwards, plan.num_scales, plan.max_scale, plan.signs) == (200_704, 49, 4.9, 1)
    assert plan.weights == (0.1,) * 49
    assert len(plan.grid) == 100
    assert plan.lowest_threshold == pytest.approx(0.6)


def test_four_noise_vectors_are_enough():
    assert ProbePlan(forwards=8 * 16 * 3).noise_vectors(3) == 4
    with pytest.raises(ValueError, match="`forwards` must be at least 384 for 3 tasks at 16 scales"):
        ProbePlan(forwards=8 * 16 * 3 - 1).noise_vectors(3)
    ProbePlan(forwards=1, num_scales=1, max_scale=1e-9)
    for name, value in (("num_scales", 0), ("max_scale", 0.0), ("max_scale", -1.0)):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            ProbePlan(**{name: value})


@pytest.mark.parametrize("change", [{"forwards": 200_705}, {"num_scales": 48}, {"max_scale": 5.0}])
def test_the_official_protocol_cannot_be_changed(change):
    official = {"forwards": 200_704, "num_scales": 49, "max_scale": 4.9, "protocol": "official"}
    assert ProbePlan(**official) == ProbePlan.official()
    with pytest.raises(ValueError, match=r"protocol is fixed at 200,704 forwards for 49 scales up to 4\.9"):
        ProbePlan(**official | change)
