import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from synbench_lightning.functional.minimax import (
    exponentiated_gradient,
    smoothed_maximum,
    softmax_weights,
    task_means,
)

LOSSES = np.random.default_rng(0).normal(1.0, 0.5, (20, 5))


def largest_on_the_simplex(objective, k):
    """The maximiser of a concave function of weights, by a general solver."""
    found = minimize(
        lambda p: -objective(p), np.full(k, 1 / k), method="SLSQP", bounds=[(1e-12, 1)] * k,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1}, options={"ftol": 1e-14, "maxiter": 500},
    )  # fmt: skip
    return found.x


@pytest.mark.parametrize("temperature", [0.01, 0.3, 5.0])
def test_the_smoothed_maximum_lies_between_the_maximum_and_mu_log_k_above_it(temperature):
    found = smoothed_maximum(torch.tensor(LOSSES), temperature).numpy()
    assert found == pytest.approx(temperature * logsumexp(LOSSES / temperature, axis=-1))
    assert (found >= LOSSES.max(-1)).all()
    assert (found <= LOSSES.max(-1) + temperature * np.log(5)).all()


def test_the_softmax_weights_are_the_gradient_of_the_smoothed_maximum():
    step = 1e-6 * np.eye(5)
    for row in LOSSES:
        high, low = (smoothed_maximum(torch.tensor(row + sign * step), 0.2).numpy() for sign in (1, -1))
        assert softmax_weights(torch.tensor(row), 0.2).numpy() == pytest.approx((high - low) / 2e-6, abs=1e-8)
    assert softmax_weights(torch.tensor(LOSSES), 0.2).numpy() == pytest.approx(softmax(LOSSES / 0.2, axis=-1))


def test_the_softmax_weights_are_those_of_the_worst_mixture_with_an_entropy_bonus():
    row = LOSSES[0]
    best = largest_on_the_simplex(lambda p: p @ row - 0.2 * (p * np.log(p)).sum(), 5)
    assert softmax_weights(torch.tensor(row), 0.2).numpy() == pytest.approx(best, abs=1e-4)


def test_an_exponentiated_step_is_the_worst_mixture_near_the_present_one():
    row, weights = LOSSES[1], np.array([0.1, 0.4, 0.2, 0.2, 0.1])
    best = largest_on_the_simplex(lambda q: q @ row - (q * np.log(q / weights)).sum() / 0.7, 5)
    found = exponentiated_gradient(torch.tensor(weights), torch.tensor(row), 0.7).numpy()
    assert found == pytest.approx(best, abs=1e-4)


def test_small_exponentiated_steps_add_up_to_one_with_their_mean():
    weights = start = torch.full((5,), 0.2, dtype=torch.float64)
    for row in torch.tensor(LOSSES):
        weights = exponentiated_gradient(weights, row, 0.5 / len(LOSSES))
    torch.testing.assert_close(weights, exponentiated_gradient(start, torch.tensor(LOSSES).mean(0), 0.5))


def test_a_weight_comes_back_from_zero():
    weights = exponentiated_gradient(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 100.0]), 1.0)
    assert weights[1] > 0.9


def test_a_task_at_minus_infinity_is_left_out():
    row = torch.tensor(LOSSES[2])
    without = softmax_weights(row[:4], 0.1)
    torch.testing.assert_close(softmax_weights(torch.cat([row[:4], row.new_tensor([-torch.inf])]), 0.1)[:4], without)
    assert smoothed_maximum(torch.tensor([1.0, -torch.inf]), 0.1) == 1.0


def test_task_means_are_those_of_numpy():
    rng = np.random.default_rng(1)
    losses, tasks = rng.random((30, 8)), rng.integers(0, 4, 8)
    means, counts = task_means(torch.tensor(losses), torch.tensor(tasks), 5)
    assert means[:4].numpy() == pytest.approx([losses[:, tasks == task].mean() for task in range(4)])
    assert counts.tolist() == [*(30 * np.bincount(tasks, minlength=4)), 0]
    assert means[4] == 0


def test_losses_of_no_task_are_left_out_whatever_they_are():
    losses, tasks = (
        torch.tensor([[1.0, torch.nan, 3.0], [torch.inf, 7.0, 5.0]]),
        torch.tensor([[0, -1, 1], [-100, 1, 0]]),
    )
    means, counts = task_means(losses, tasks, 2)
    assert means.tolist() == [3.0, 5.0]
    assert counts.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (torch.tensor([0, 1, 2]), "`tasks` must be below `num_tasks`, 2, got 2"),
        (torch.tensor([0.0, 1.0, 1.0]), r"`tasks` must be a tensor of integers, got a Tensor \(torch.float32\)"),
        (torch.tensor([0, 1]), r"`tasks` must broadcast to the shape of `losses`, \(4, 3\), got \(2,\)"),
        ([0, 1, 1], r"`tasks` must be a tensor of integers, got \[0, 1, 1\]"),
    ],
)
def test_tasks_that_do_not_fit_the_losses_are_refused(tasks, message):
    with pytest.raises(ValueError, match=message):
        task_means(torch.ones(4, 3), tasks, 2)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32])
def test_tasks_of_any_integers_are_means_of_the_same(dtype):
    losses, tasks = torch.randn(6), torch.tensor([0, 2, 1, 2, 0, 1])
    for found, expected in zip(task_means(losses, tasks.to(dtype), 3), task_means(losses, tasks, 3), strict=True):
        assert torch.equal(found, expected)


def test_task_means_add_in_float32_and_an_empty_task_has_no_gradient():
    losses = torch.full((4096,), 0.1, dtype=torch.bfloat16, requires_grad=True)
    means, _ = task_means(losses, torch.zeros(4096, dtype=torch.long), 2)
    assert means[0].item() == pytest.approx(losses[0].item(), rel=1e-5)
    means.sum().backward()
    assert losses.grad.isfinite().all()


@pytest.mark.parametrize(
    ("losses", "temperature", "message"),
    [
        (torch.tensor(1.0), 0.5, "`losses` must be a tensor"),
        (torch.ones(2) * 1j, 0.5, "`losses` must be a tensor"),
        ([1.0, 2.0], 0.5, "`losses` must be a tensor"),
        (torch.ones(2), 0, "`temperature` must be a positive number, got 0"),
        (torch.ones(2), torch.ones(2), "`temperature` must be a positive number"),
        (torch.ones(2), torch.tensor(1j), "`temperature` must be a positive number"),
    ],
)
def test_what_has_no_smoothed_maximum_is_refused(losses, temperature, message):
    with pytest.raises(ValueError, match=message):
        smoothed_maximum(losses, temperature)
    one = smoothed_maximum(torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([0.5]))
    assert one.tolist() == pytest.approx([0.5 * np.logaddexp(2, 4), 0.5 * np.logaddexp(6, 0)])


def test_losses_are_real_and_tasks_below_their_number():
    with pytest.raises(ValueError, match="`losses` must be a tensor of real numbers"):
        task_means(torch.ones(3) * 1j, torch.zeros(3, dtype=torch.long), 2)
    with pytest.raises(ValueError, match="`tasks` must be below `num_tasks`, 2, got 2"):
        task_means(torch.ones(3), torch.tensor([0, 1, 2]), 2)
    with pytest.raises(ValueError, match="`num_tasks` must be an integer of at least 1, got 0"):
        task_means(torch.ones(3), torch.tensor([0, 0, 0]), 0)
    assert task_means(torch.ones(0), torch.zeros(0, dtype=torch.long), 1)[1].tolist() == [0]
