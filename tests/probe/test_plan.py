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
