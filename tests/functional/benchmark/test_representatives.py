from itertools import combinations

import numpy as np
import pytest
import torch

from synbench_lightning.functional.benchmark.curve_correlation import standardised
from synbench_lightning.functional.benchmark.representatives import anchor_points, coverage

TASKS = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)

CURVES = torch.randn(12, 100, generator=torch.Generator().manual_seed(0)).cumsum(0)


def test_doubles_and_constant_curves_can_be_anchors():
    curves = torch.cat([CURVES[:, :1].repeat(1, 6), torch.ones(12, 4)], 1)
    found = anchor_points(curves, torch.zeros(10, dtype=torch.long), 8)
    assert len(found.indices.unique()) == 8
    assert bool((found.weights > 0).all())


def test_coverage_takes_the_best_first_and_spends_less_on_tasks_that_are_alike():
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(15, 1, generator=generator).cumsum(0)
    alike = common + 0.3 * torch.randn(15, 80, generator=generator)
    unlike = torch.randn(15, 40, generator=generator).cumsum(0)
    curves, tasks = torch.cat([alike, unlike], 1), torch.tensor([0] * 40 + [1] * 40 + [2] * 40)
    counts = torch.bincount(tasks[coverage(curves, tasks, 18).indices])
    assert counts[2] > counts[0] + counts[1]
    vectors = standardised(curves).T
    single = coverage(curves, tasks[:120] * 0, 1).indices
    assert single.item() == (vectors @ vectors.T).clamp_min(0).sum(0).argmax().item()


def test_tasks_count_alike_however_many_points_they_have():
    a, b, c, d = torch.linalg.qr(torch.randn(9, 5, generator=torch.Generator().manual_seed(0)).sub_(1)).Q.T[1:]
    kinds = [(a, 40), (b, 10), (c, 4), (d, 4)]  # a fifth of the large task is unlike the rest, half of the small one
    curves = torch.cat([curve[:, None].repeat(1, number) for curve, number in kinds], 1)
    tasks = torch.tensor([0] * 50 + [1] * 8)
    assert torch.bincount(tasks[coverage(curves, tasks, 3).indices]).tolist() == [1, 2]


def test_greedy_coverage_is_near_the_best_there_is():
    curves = CURVES[:, :12]
    vectors = standardised(curves).T
    similarity = (vectors @ vectors.T).clamp_min(0)

    def covered(chosen):
        return similarity[:, list(chosen)].amax(1).sum().item()

    best = max(covered(chosen) for chosen in combinations(range(12), 3))
    found = covered(coverage(curves, torch.zeros(12, dtype=torch.long), 3).indices.tolist())
    assert (1 - np.exp(-1)) * best <= found <= best + 1e-9


def test_missing_checkpoints_are_taken_as_the_mean_of_their_curve():
    gaps = CURVES.clone()
    gaps[3, ::4] = torch.nan
    for method in (anchor_points, coverage):
        assert len(method(gaps, TASKS, 12).indices) == 12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: anchor_points(CURVES[:, :5], TASKS, 10), r"`tasks` must be .* of shape \(5,\)"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
