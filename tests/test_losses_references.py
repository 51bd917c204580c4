"""What losses are compared with: what can be reached, what can be learnt, and what a proxy has learnt so far."""

import pytest
import torch

from synbench_lightning import TaskRobustLoss
from tests.test_losses import LOSSES, MODES, gradient


def test_a_reference_keeps_a_task_that_nobody_can_solve_from_taking_the_weight():
    hopeless = torch.tensor([0.5, 0.5, 5.0])
    plain, informed = TaskRobustLoss(3), TaskRobustLoss(3, reference=torch.tensor([0.1, 0.3, 4.9]))
    plain(hopeless), informed(hopeless)
    assert (plain.worst_task, informed.worst_task) == (2, 0)
    assert plain.weights[2] > 0.99
    assert informed.weights.argmax() == 0


@pytest.mark.parametrize("mode", MODES)
def test_shares_of_what_can_be_learnt_do_not_depend_on_the_size_and_the_noise_of_a_task(mode):
    """Losses ``a x + b`` over references ``a r + b`` are the same shares of ``a t - a r``."""
    size, noise = torch.tensor([1.0, 10.0, 0.1, 3.0]), torch.tensor([0.0, 5.0, 1.0, -2.0])
    plain = TaskRobustLoss(4, mode, reference=[0.2, 0.4, 0.1, 0.5], trivial=torch.full((4,), 2.0))
    other = TaskRobustLoss(4, mode, reference=size * plain.reference + noise, trivial=2 * size + noise)
    for factor in (1.0, 0.8, 0.7):
        losses = factor * LOSSES
        torch.testing.assert_close(plain(losses), other(size * losses + noise), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(plain.weights, other.weights, rtol=1e-5, atol=1e-6)
    assert plain.worst_task == other.worst_task == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_task_of_noise_takes_no_weight_and_no_gradient(mode):
    noisy = TaskRobustLoss(4, mode, reference=[0.2, 0.1, 0.0, 1.0], trivial=[1.0, 2.0, 0.9, 1.0])
    without = TaskRobustLoss(3, mode, reference=[0.2, 0.1, 0.0], trivial=[1.0, 2.0, 0.9])
    for factor in (1.0, 0.7):
        found = gradient(noisy, factor * LOSSES)
        torch.testing.assert_close(found[:3], gradient(without, factor * LOSSES[:3]))
        assert found[3] == noisy.weights[3] == 0
    assert noisy.worst_task == without.worst_task
    assert noisy.running_losses[3].isfinite()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("trivial", [0.0, -1.0, 1e-30])
def test_a_task_of_which_nothing_can_be_learnt_may_have_any_trivial_loss(mode, trivial):
    found = gradient(
        TaskRobustLoss(2, mode, trivial=[1.0, trivial], reference=[0.0, trivial]), torch.tensor([0.5, 0.3])
    )
    assert found.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("mode", MODES)
def test_the_losses_of_a_proxy_are_the_reference_from_then_on(mode):
    reference = [0.2, 0.5, 0.1, 0.4]
    given = TaskRobustLoss(4, mode, reference=reference, trivial=[2.0] * 4)
    learnt = TaskRobustLoss(4, mode, trivial=[2.0] * 4)
    proxy = torch.tensor(reference, dtype=torch.float64, requires_grad=True)
    for factor in (1.0, 0.7):
        value = learnt(factor * LOSSES.requires_grad_(), reference=proxy)
        assert torch.autograd.grad(value, proxy, allow_unused=True) == (None,)
        torch.testing.assert_close(value, given(factor * LOSSES))
    torch.testing.assert_close(learnt(LOSSES), given(LOSSES))  # a batch without a proxy
    torch.testing.assert_close(learnt.weights, given.weights)


def test_the_reference_is_the_running_mean_of_what_a_proxy_lost_where_a_task_was_there():
    loss, rows = TaskRobustLoss(4, momentum=0.8), torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    counts = torch.tensor([[1, 0, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]])
    same = TaskRobustLoss(4, momentum=0.8)
    for row, present in zip(rows, counts, strict=True):
        loss(torch.ones(4), present, row.where(present > 0, torch.nan))
        same(row, present)
    torch.testing.assert_close(loss.running_reference, same.running_losses)
    before = loss.running_reference.clone()
    loss.eval()(torch.ones(4), reference=rows[0])
    assert torch.equal(loss.running_reference, before)


def test_while_a_proxy_has_learnt_nothing_all_tasks_are_compared_and_a_late_one_starts_with_an_equal_share():
    loss = TaskRobustLoss(3, "exponentiated_gradient", trivial=[1.0, 2.0, 4.0], momentum=0.0)
    equal = torch.tensor([1.0, 2.0, 4.0])
    loss(equal, reference=equal)
    assert loss.weights.tolist() == pytest.approx([1 / 3] * 3)
    loss(equal, reference=equal * torch.tensor([0.5, 0.5, 1.0]))
    assert loss.weights.tolist() == pytest.approx([1 / 2, 1 / 2, 0])
    loss(equal, reference=equal / 2)
    assert loss.weights.tolist() == pytest.approx([3 / 8, 3 / 8, 2 / 8])
