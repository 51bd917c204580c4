import pytest
import torch

from synbench_lightning.functional.benchmark.representatives import anchor_points, coefficient_clusters, coverage
from synbench_lightning.functional.benchmark.selection import allotment, proportional, stratified, uniform

TASKS = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)

CURVES = torch.randn(12, 100, generator=torch.Generator().manual_seed(0)).cumsum(0)

SIZES = torch.linspace(0.1, 4, 100)

METHODS = {
    "uniform": lambda budget, seed: uniform(TASKS, budget, seed),
    "stratified": lambda budget, seed: stratified(TASKS, budget, seed),
    "proportional": lambda budget, seed: proportional(SIZES, TASKS, budget, seed),
    "anchor points": lambda budget, seed: anchor_points(CURVES, TASKS, budget, seed),
    "clusters": lambda budget, seed: coefficient_clusters(CURVES, TASKS, budget, 5, seed),
    "coverage": lambda budget, seed: coverage(CURVES, TASKS, budget, seed),
}

RANDOM = ["uniform", "stratified", "proportional"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("budget", [3, 12, 100])
def test_a_selection_is_within_its_budget_reproducible_and_weighs_each_task_once(method, budget):
    found, again = (METHODS[method](budget, 7) for _ in range(2))
    assert len(found.indices) == len(found.indices.unique()) == budget
    assert torch.equal(found.indices, again.indices)
    assert torch.equal(found.weights, again.weights)
    assert found.inclusion.shape == (100,)
    assert found.inclusion.sum().item() == pytest.approx(budget, rel=1e-6)
    tasks = TASKS[found.indices]
    assert tasks.tolist() == sorted(tasks.tolist())
    if method != "proportional":  # whose weights sum to 1 in expectation
        for task in tasks.unique():
            assert found.weights[tasks == task].sum().item() == pytest.approx(1.0)
    assert (found.proposal is None) == (method not in RANDOM)


@pytest.mark.parametrize("method", RANDOM)
def test_points_are_included_with_the_probabilities_that_are_stated(method):
    draws = 1500
    counts = torch.zeros(100)
    for seed in range(draws):
        counts[METHODS[method](24, seed).indices] += 1
    expected = METHODS[method](24, 0).inclusion
    scatter = (expected * (1 - expected) / draws).sqrt()
    tolerance = 0.012 if method == "proportional" else 0  # true to first order
    assert bool(((counts / draws - expected).abs() < 4.5 * scatter + tolerance).all())


@pytest.mark.parametrize("method", RANDOM)
def test_the_weights_estimate_each_task_without_bias(method):
    values = SIZES.double().sqrt()
    sums = torch.zeros(3, 1500)
    for seed in range(1500):
        found = METHODS[method](24, seed)
        sums[:, seed] = (
            torch.zeros(3).double().index_add_(0, TASKS[found.indices], found.weights * values[found.indices])
        )
    for task in range(3):
        truth = values[task == TASKS].mean().item()
        assert abs(sums[task].mean().item() - truth) < 4 * sums[task].std().item() / 1500**0.5


def test_drawn_one_by_one_points_have_the_stated_proposals():
    draws = 1500
    tasks, sizes = torch.zeros(5, dtype=torch.long), torch.tensor([1.0, 1.0, 2.0, 4.0, 8.0])
    share = 0.9 * sizes / sizes.sum() + 0.1 / 5
    firsts = torch.zeros(5)
    for seed in range(draws):
        found = proportional(sizes, tasks, 2, seed)
        one, two = found.indices.tolist()
        firsts[one] += 1
        assert found.proposal[0].item() == pytest.approx(share[one].item())
        assert found.proposal[1].item() == pytest.approx((share[two] / (1 - share[one])).item())
    assert bool(((firsts / draws - share).abs() < 4 * (share / draws).sqrt()).all())


def test_sizes_of_zero_leave_the_floor_and_are_even_where_all_are():
    tasks, sizes = torch.zeros(4, dtype=torch.long), torch.tensor([0.0, 0.0, 0.0, 1.0])
    assert proportional(sizes, tasks, 1, floor=0.2).inclusion.tolist() == pytest.approx([0.05, 0.05, 0.05, 0.85])
    assert proportional(sizes * 0, tasks, 1, floor=0.2).inclusion.tolist() == pytest.approx([0.25] * 4)


@pytest.mark.parametrize("draw", [uniform, stratified])
def test_a_single_point_of_a_single_task_can_be_asked_for(draw):
    found = draw(torch.zeros(4, dtype=torch.long), 1)
    assert len(found.indices) == 1
    assert found.weights.tolist() == [1.0]


def test_shares_are_equal_as_far_as_tasks_have_points():
    assert allotment(torch.tensor([50, 30, 2]), 12).tolist() == [5, 5, 2]
    assert allotment(torch.tensor([5, 5, 5]), 7).tolist() == [3, 2, 2]
    for budget in range(3, 83):
        counts = allotment(torch.tensor([50, 30, 2]), budget)
        assert counts.sum() == budget
        assert bool((counts >= 1).all())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: uniform(torch.tensor([0, 2, 2]), 1), "`tasks` must be integers from 0 on without gaps; .* task 1"),
        (lambda: uniform(torch.tensor([0.0]), 1), "`tasks` must be a tensor of integers"),
        (lambda: stratified(TASKS, 2), r"`budget` must be a number of items from 3 \(one for each task\) to 100"),
        (lambda: stratified(TASKS, 101), r"`budget` must be a number of items from 3 .* got 101"),
        (lambda: stratified(TASKS, 1.5), "`budget` must be an integer"),
        (lambda: proportional(-SIZES, TASKS, 10), "`sizes` must be numbers of at least 0"),
        (lambda: proportional(SIZES, TASKS, 10, floor=0.0), r"`floor` must be a number in \(0, 1\]"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
