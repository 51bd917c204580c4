import json

import pytest
import torch
from scipy.integrate import quad
from scipy.stats import norm

from synbench_lightning.functional.gaussian.bayes_optimal import optimal_accuracy, optimal_bound
from synbench_lightning.functional.gaussian.score import check_thresholds, official_grid, synbench_score
from tests.encoders import DATA

CURVE = json.loads((DATA / "encoder_a.json").read_text())["official_curve_seed1"]
SCALES = torch.linspace(0.1, 4.9, 49, dtype=torch.float64)


def tensor(name):
    return torch.tensor(CURVE[name], dtype=torch.float64)


def test_official_curve_gives_the_nine_official_scores():
    scores = synbench_score(
        tensor("accuracy"), tensor("bound"), CURVE["scales"], CURVE["thresholds"], grid=official_grid()
    )
    torch.testing.assert_close(scores, tensor("score"), rtol=0, atol=1e-6)


def test_the_optimum_scores_one_and_chance_scores_zero():
    best = synbench_score(optimal_accuracy(SCALES), optimal_bound(SCALES), SCALES, [0.6, 0.8])
    none = synbench_score(torch.full((49,), 0.5), torch.zeros(49), SCALES, [0.6, 0.8])
    assert best.tolist() == pytest.approx([1, 1])
    assert none.tolist() == [0, 0]


def test_the_exact_area_is_the_integral_of_the_curve():
    accuracy, bound = norm.cdf(SCALES.numpy() / 2), 1 + 1 / SCALES.numpy()

    def area(accuracy, bound):
        return quad(
            lambda a: (bound * (accuracy > a)).sum(), 0.7, 1, points=sorted(accuracy[accuracy > 0.7])[:40], limit=500
        )[0]

    expected = area(accuracy, bound) / area(norm.cdf(SCALES.numpy()), optimal_bound(SCALES).numpy())
    found = synbench_score(torch.tensor(accuracy), torch.tensor(bound), SCALES, [0.7])
    assert found.item() == pytest.approx(expected, rel=1e-4)


def test_a_fine_grid_tends_to_the_exact_area():
    accuracy, bound = tensor("accuracy"), tensor("bound")
    exact = synbench_score(accuracy, bound, CURVE["scales"], [0.7])
    fine = synbench_score(accuracy, bound, CURVE["scales"], [0.7], grid=torch.linspace(0.6, 1, 100_001).double())
    torch.testing.assert_close(fine, exact, rtol=1e-3, atol=0)


def test_equal_weights_are_no_weights():
    accuracy, bound = tensor("accuracy"), tensor("bound")
    torch.testing.assert_close(
        synbench_score(accuracy, bound, CURVE["scales"], [0.7], weights=[0.1] * 49),
        synbench_score(accuracy, bound, CURVE["scales"], [0.7]),
    )


@pytest.mark.parametrize("threshold", [0.49, 1.0, float("nan")])
def test_thresholds_outside_their_range_are_refused(threshold):
    with pytest.raises(ValueError, match=r"`thresholds` must be accuracies in \[0.5, 1\)"):
        synbench_score(torch.ones(49), torch.ones(49), SCALES, [threshold])


def test_the_official_grid_refuses_thresholds_below_its_start():
    with pytest.raises(ValueError, match=r"\[0.6, 1\).*`grid` of the plan starts at 0.6"):
        synbench_score(torch.ones(49), torch.ones(49), SCALES, [0.5], grid=official_grid())


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"`accuracy` and `bound` must have one shape"):
        synbench_score(torch.ones(48), torch.ones(48), SCALES, [0.7])
    with pytest.raises(ValueError, match=r"`weights` must have the shape of `scales`"):
        synbench_score(torch.ones(49), torch.ones(49), SCALES, [0.7], weights=[1.0])


def test_an_accuracy_that_equals_a_point_of_the_grid_does_not_exceed_it():
    grid = torch.tensor([0.6, 0.7, 0.8], dtype=torch.float64)
    at, above = (
        synbench_score(torch.tensor([accuracy], dtype=torch.float64), torch.ones(1), [3.0], [0.6], grid=grid)
        for accuracy in (0.7, 0.7 + 1e-9)
    )
    torch.testing.assert_close(above, 2 * at)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"scales": [0.0, 1.0]}, "scales"), ({"scales": [torch.inf, 1.0]}, "scales"),
        ({"grid": []}, "grid"), ({"grid": [[0.6, 0.8]]}, "grid"), ({"grid": [0.6, 1.2]}, "grid"),
        ({"grid": [-0.1, 0.8]}, "grid"), ({"grid": [0.6, torch.nan]}, "grid"),
    ],
)  # fmt: skip
def test_scales_and_grids_that_are_none_are_refused(arguments, name):
    right = {"accuracy": torch.ones(2), "bound": torch.ones(2), "scales": [1.0, 2.0], "thresholds": [0.7]}
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        synbench_score(**{**right, **arguments})


def test_a_grid_may_begin_at_0_and_end_at_1():
    scales = torch.tensor([1.0, 2.0])
    optimum = optimal_accuracy(scales), optimal_bound(scales)
    assert synbench_score(*optimum, scales, [0.7], grid=torch.linspace(0, 1, 101)).item() == pytest.approx(1)


def test_thresholds_are_accuracies_from_chance_on():
    assert check_thresholds([0.5, 0.99]) == (0.5, 0.99)
    for wrong in ([0.49], [1.0], []):
        with pytest.raises(ValueError, match=r"`thresholds` must be accuracies in \[0\.5, 1\).*Chance is 0\.5"):
            check_thresholds(wrong)
