import pickle

import numpy as np
import pytest
import torch
from jsonargparse import ArgumentParser

from synbench_lightning import TaskRobustLoss

MODES = ["softmax", "exponentiated_gradient"]
LOSSES = torch.tensor([0.9, 1.4, 0.6, 1.1], dtype=torch.float64)


def exact(mode="softmax", k=4, **arguments):
    """Nothing remembered and nothing relative: a function of the batch alone, but for the weights of the gradient."""
    settings = {"temperature": 0.3, "step_size": 0.5, "relative": False, "momentum": 0.0}
    return TaskRobustLoss(k, mode, **{**settings, **arguments})


def gradient(loss, losses, counts=None):
    losses = losses.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss(losses, counts), losses)
    return found


@pytest.mark.parametrize("floor", [0.0, 0.3])
@pytest.mark.parametrize("trivial", [None, [1.0, 2.0, 0.9, 1.5]])
def test_the_gradient_is_that_of_the_value_by_finite_differences(floor, trivial):
    loss = exact(floor=floor, reference=[0.2, 0.1, 0.0, -0.3], trivial=trivial)
    counts = torch.tensor([3, 1, 8, 2])
    step = 1e-6 * torch.eye(4, dtype=torch.float64)
    slopes = [(loss(LOSSES + row, counts) - loss(LOSSES - row, counts)).item() / 2e-6 for row in step]
    found = gradient(loss, LOSSES, counts)
    assert found.tolist() == pytest.approx(slopes, abs=1e-8)
    size = 1.0 if trivial is None else torch.tensor(trivial) - loss.reference
    torch.testing.assert_close(loss.weights / size, found.float())


def test_the_softmax_has_the_second_derivative_of_its_value_too():
    torch.autograd.gradgradcheck(exact(), LOSSES.clone().requires_grad_())


def test_exponentiated_gradient_weighs_by_the_sum_of_all_losses_so_far():
    loss, rows = exact("exponentiated_gradient"), torch.rand(5, 4, dtype=torch.float64)
    for row in rows:
        found = gradient(loss, row)
    torch.testing.assert_close(found, torch.softmax(0.5 * rows.sum(0), 0))
    assert loss(LOSSES).item() == pytest.approx((loss.weights.double() @ LOSSES).item())


@pytest.mark.parametrize("temperature", [0.05, 0.3, 2.0])
def test_the_value_lies_between_the_maximum_and_mu_log_k_above_it(temperature):
    value = exact(temperature=temperature)(LOSSES).item()
    assert LOSSES.max() <= value <= LOSSES.max() + temperature * np.log(4)


@pytest.mark.parametrize("mode", MODES)
def test_for_equal_losses_the_gradient_is_that_of_the_mean(mode):
    found = gradient(TaskRobustLoss(4, mode), torch.full((4,), 0.7, dtype=torch.float64))
    assert found.tolist() == pytest.approx([0.25] * 4)


@pytest.mark.parametrize("mode", MODES)
def test_tasks_in_another_order_have_their_weights_in_that_order(mode):
    order = torch.tensor([2, 0, 3, 1])
    one, other = TaskRobustLoss(4, mode), TaskRobustLoss(4, mode)
    for factor in (1.0, 0.7, 1.2):
        first, second = one(factor * LOSSES), other(factor * LOSSES[order])
        torch.testing.assert_close(first, second)
        torch.testing.assert_close(one.weights[order], other.weights)


@pytest.mark.parametrize("mode", MODES)
def test_a_shift_of_all_losses_shifts_the_value_where_the_temperature_is_in_units_of_the_loss(mode):
    one, other = exact(mode), exact(mode)
    torch.testing.assert_close(one(LOSSES) + 3, other(LOSSES + 3))
    torch.testing.assert_close(one.weights, other.weights)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [1e-4, 1e5])
def test_a_relative_setting_serves_losses_of_every_size(mode, size):
    one, other = TaskRobustLoss(4, mode), TaskRobustLoss(4, mode)
    for factor in (1.0, 0.7):
        torch.testing.assert_close(size * one(factor * LOSSES), other(size * factor * LOSSES))
        torch.testing.assert_close(one.weights, other.weights, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mode", MODES)
def test_the_floor_leaves_every_task_its_share_and_is_the_mean_at_one(mode):
    loss = exact(mode, floor=0.2)
    loss(LOSSES)
    assert loss.weights.min() >= 0.05 - 1e-7
    assert loss.weights.sum().item() == pytest.approx(1)
    assert exact(mode, floor=1.0)(LOSSES).item() == pytest.approx(LOSSES.mean().item())


def test_running_losses_are_the_exponential_mean_of_the_batches():
    loss, rows = TaskRobustLoss(4, momentum=0.8), np.random.default_rng(0).random((6, 4))
    for row in rows:
        loss(torch.tensor(row))
    expected = rows[0]
    for row in rows[1:]:
        expected = 0.8 * expected + 0.2 * row
    assert loss.running_losses.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
    assert loss.worst_task == expected.argmax()


def test_with_momentum_accumulated_batches_make_the_step_of_one_large_batch():
    rows = LOSSES * torch.rand(8, 4, generator=torch.Generator().manual_seed(0)).double() * 2
    away = {}
    for momentum in (0.0, 0.999):
        small, large = (TaskRobustLoss(4, momentum=momentum) for _ in range(2))
        small(rows.mean(0)), large(rows.mean(0))  # where training has been for a while
        accumulated = torch.stack([gradient(small, row) for row in rows]).mean(0)
        away[momentum] = (accumulated - gradient(large, rows.mean(0))).abs().sum()
    assert away[0.999] < 0.02 < 0.2 < away[0.0]


@pytest.mark.parametrize("mode", MODES)
def test_a_task_that_never_came_is_not_there(mode):
    some, all_of_them = TaskRobustLoss(4, mode), TaskRobustLoss(3, mode)
    counts = torch.tensor([4, 0, 4, 4])
    for row in torch.rand(4, 4, generator=torch.Generator().manual_seed(0)).double():
        row[1] = torch.nan
        found, expected = gradient(some, row, counts), gradient(all_of_them, row[[0, 2, 3]])
        torch.testing.assert_close(found[[0, 2, 3]], expected)
        assert found[1] == 0
    assert some.weights[1] == 0
    assert some.running_losses[1].isnan()


def test_a_task_that_comes_late_starts_with_an_equal_share():
    loss, equal = TaskRobustLoss(4, "exponentiated_gradient"), torch.ones(4)
    for _ in range(3):
        loss(equal, torch.tensor([1, 0, 1, 1]))
    loss(equal)
    assert loss.weights.tolist() == pytest.approx([4 / 15, 3 / 15, 4 / 15, 4 / 15])  # 1/4 beside three times 1/3


@pytest.mark.parametrize("mode", MODES)
def test_a_task_absent_from_a_batch_keeps_its_place_and_has_no_gradient(mode):
    absent, present = TaskRobustLoss(4, mode), TaskRobustLoss(4, mode)
    absent(LOSSES), present(LOSSES)
    found = gradient(absent, LOSSES.where(LOSSES != 1.4, torch.nan), torch.tensor([1, 0, 1, 1]))
    gradient(present, LOSSES)
    torch.testing.assert_close(absent.weights, present.weights)  # not as if its loss were zero
    assert found[1] == 0
    torch.testing.assert_close(found[[0, 2, 3]], present.weights[[0, 2, 3]].double() * 4 / 3)


def test_batches_of_one_task_each_have_on_average_the_gradient_of_all_tasks_together():
    loss = exact()
    whole = gradient(loss, LOSSES)
    parts = [gradient(loss, LOSSES, row) for row in torch.eye(4)]
    torch.testing.assert_close(torch.stack(parts).mean(0), whole)


@pytest.mark.parametrize("mode", MODES)
def test_a_batch_without_any_task_changes_nothing(mode):
    loss = TaskRobustLoss(4, mode)
    nothing, unknown = torch.zeros(4), torch.full((4,), torch.nan)
    assert loss(unknown, nothing).isfinite()
    assert loss.running_losses.isnan().all()
    loss(LOSSES)
    before = loss.running_losses.clone()
    assert gradient(loss, unknown, nothing).tolist() == [0, 0, 0, 0]
    assert torch.equal(loss.running_losses, before)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("mode", MODES)
def test_a_loss_that_is_no_number_is_seen_in_the_value_and_forgotten(mode, bad):
    loss = TaskRobustLoss(4, mode)
    loss(LOSSES)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    assert not loss(LOSSES.where(LOSSES != 1.4, bad)).isfinite()
    assert torch.equal(loss.weights, before["weights"])
    assert loss.running_losses.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_changes_no_state_and_looks_at_its_own_losses_alone(mode):
    loss = TaskRobustLoss(4, mode, temperature=0.01)
    loss(10 * LOSSES)
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    value = loss.eval()(LOSSES).item()
    assert 0.9 < value < 1.45
    torch.testing.assert_close(loss.state_dict(), before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("mode", MODES)
def test_the_state_comes_back_from_a_checkpoint(mode):
    rows = torch.rand(8, 4, generator=torch.Generator().manual_seed(0))
    whole, first, second = (TaskRobustLoss(4, mode) for _ in range(3))
    values = [whole(row) for row in rows]
    for row in rows[:4]:
        first(row)
    second.load_state_dict(first.state_dict())
    copied = pickle.loads(pickle.dumps(second))
    assert [second(row) for row in rows[4:]] == values[4:]
    assert [copied(row) for row in rows[4:]] == values[4:]
    assert set(whole.state_dict()) == {"weights", "running_losses", "running_reference"}


@pytest.mark.parametrize("mode", MODES)
def test_half_precision_losses_are_compared_in_float32(mode):
    half, full = TaskRobustLoss(4, mode).bfloat16(), TaskRobustLoss(4, mode)
    assert {buffer.dtype for buffer in half.buffers()} == {torch.float32}
    for row in torch.rand(20, 4, generator=torch.Generator().manual_seed(0)).bfloat16():
        with torch.autocast("cpu", torch.bfloat16):
            value = half(row)
        assert value.dtype == torch.float32
        assert value == full(row.float())
    torch.testing.assert_close(half.weights, full.weights, rtol=0, atol=0)


@pytest.mark.parametrize("mode", MODES)
def test_a_compiled_loss_is_one_graph_with_the_same_values(mode):
    plain, compiled = TaskRobustLoss(4, mode, floor=0.1), TaskRobustLoss(4, mode, floor=0.1)
    fast = torch.compile(compiled, fullgraph=True, backend="aot_eager")
    for row in torch.rand(5, 4, generator=torch.Generator().manual_seed(0)):
        counts = torch.tensor([1.0, 2.0, 3.0, row[0].round()])
        torch.testing.assert_close(gradient(fast, row, counts), gradient(plain, row, counts))
        torch.testing.assert_close(compiled.running_losses, plain.running_losses, equal_nan=True)


def test_metrics_are_the_running_losses_and_weights_by_name():
    loss = TaskRobustLoss(4)
    with pytest.raises(RuntimeError, match="no worst task before the first batch"):
        loss.worst_task  # noqa: B018
    loss(LOSSES)
    found = loss.metrics(["low", "high", "left", "right"])
    assert list(found)[:2] == ["robust/worst_loss", "robust/worst_task"]
    assert found["robust/worst_loss"].item() == pytest.approx(1.4)
    assert found["robust/worst_task"] == 1
    assert found["robust/loss/left"].item() == pytest.approx(0.6)
    assert found["robust/weight/high"] == loss.weights[1]
    loss(2 * LOSSES)
    assert found["robust/loss/left"].item() == pytest.approx(0.6)  # a value, not a view of the state
    assert set(TaskRobustLoss(1).metrics()) == {
        "robust/worst_loss", "robust/worst_task", "robust/loss/0", "robust/weight/0",
    }  # fmt: skip


def test_the_loss_is_configured_from_the_command_line():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TaskRobustLoss, "robust")
    given = ["--robust.num_tasks=2", "--robust.mode=exponentiated_gradient", "--robust.reference=[0.1, 0.2]"]
    robust = parser.instantiate_classes(parser.parse_args(given)).robust
    assert robust.mode == "exponentiated_gradient"
    assert robust.reference.tolist() == pytest.approx([0.1, 0.2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_tasks": 0}, "`num_tasks` must be an integer of at least 1, got 0"),
        ({"mode": "softmin"}, "`mode` must be 'softmax' or 'exponentiated_gradient', got 'softmin'"),
        ({"temperature": 0}, "`temperature` must be a positive number, got 0"),
        ({"step_size": -1.0}, "`step_size` must be a positive number, got -1.0"),
        ({"relative": 1}, "`relative` must be True or False, got 1"),
        ({"floor": 1.5}, r"`floor` must be a number in \[0, 1\], got 1.5"),
        ({"momentum": 1.0}, r"`momentum` must be a number in \[0, 1\), got 1.0"),
        ({"reference": [0.1]}, r"`reference` must hold one finite loss for each of the 3 tasks, got \[0.1\]"),
        ({"reference": [0.1, torch.nan, 0.0]}, "`reference` must hold one finite loss for each of the 3 tasks"),
        ({"trivial": [1.0]}, r"`trivial` must hold one finite loss for each of the 3 tasks, got \[1.0\]"),
        ({"trivial": [0.0, 0.0, -1.0]}, r"`trivial` must be above the reference, \[0.0, 0.0, 0.0\], for one task"),
        ({"reference": 0.1}, "`reference` must be a sequence of numbers, got 0.1"),
    ],
)
def test_settings_outside_their_range_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        TaskRobustLoss(**{"num_tasks": 3, **arguments})


@pytest.mark.parametrize(
    ("losses", "counts", "message"),
    [
        (torch.ones(2), None, r"`losses` must be a tensor of shape \(3,\).*got shape \(2,\)"),
        ([1.0, 2.0, 3.0], None, r"`losses` must be a tensor.*got a list.*`torch.stack`"),
        (torch.ones(3), torch.ones(3, 1), r"`counts` must be a tensor of shape \(3,\).*got shape \(3, 1\)"),
        (torch.ones(3, dtype=torch.long), None, "`losses` must be floating-point numbers, got torch.int64"),
    ],
)
def test_losses_of_another_form_are_refused(losses, counts, message):
    with pytest.raises(ValueError, match=message):
        TaskRobustLoss(3)(losses, counts)


@pytest.mark.parametrize("names", [["a", "b"], ["a", "b", "b"], ["a", "b", "c/d"]])
def test_names_that_do_not_fit_are_refused(names):
    with pytest.raises(ValueError, match="`names` must be"):
        TaskRobustLoss(3).metrics(names)


@pytest.mark.parametrize("count", [-1.0, float("nan")])
def test_counts_that_are_no_numbers_of_examples_are_refused(count):
    with pytest.raises(ValueError, match=r"`counts` must be numbers of examples, 0 or more for each task, got \[1.0, "):
        TaskRobustLoss(2)(torch.ones(2), torch.tensor([1.0, count]))


def test_defaults_are_those_that_are_documented():
    loss = TaskRobustLoss(3)
    assert (loss.mode, loss.temperature, loss.step_size, loss.relative) == ("softmax", 0.1, 0.01, True)
    assert (loss.floor, loss.momentum) == (0.0, 0.9)
    assert loss.reference.tolist() == [0, 0, 0]
    assert loss.trivial is None
    assert loss.extra_repr() == "num_tasks=3, mode='softmax', temperature=0.1, floor=0.0"
    slow = TaskRobustLoss(2, "exponentiated_gradient", floor=0.5, step_size=0.2)
    assert slow.extra_repr() == "num_tasks=2, mode='exponentiated_gradient', step_size=0.2, floor=0.5"
    TaskRobustLoss(1, floor=1, momentum=0)
    told = TaskRobustLoss(2, trivial=[1.0, 2.0], reference=[0.1, 0.2])
    assert set(told.state_dict()) == set(loss.state_dict()) == {"weights", "running_losses", "running_reference"}


@pytest.mark.parametrize(("learnable", "counts"), [(0.02, True), (0.005, False)])
def test_a_task_of_which_less_than_a_hundredth_can_be_learned_is_ignored(learnable, counts):
    loss = exact(k=2, reference=[2.0 * (1 - learnable), 0.0], trivial=[2.0, 1.0])
    loss(torch.tensor([5.0, 0.5]))
    assert (loss.weights[0] > 0).item() == counts
    assert loss.worst_task == (0 if counts else 1)


def test_the_worst_task_is_that_with_the_largest_excess_over_its_reference():
    loss = TaskRobustLoss(3, reference=[0.0, 2.0, 0.5], momentum=0.0)
    loss(torch.tensor([1.0, 2.5, 2.0]))
    assert loss.worst_task == 2
    loss(torch.tensor([1.0, 2.5, 2.0]), reference=torch.tensor([0.5, 0.2, 1.9]))
    assert loss.worst_task == 1
    assert loss.metrics()["robust/worst_loss"] == 2.5
    with pytest.raises(ValueError, match="`trivial` must be above the reference"):
        TaskRobustLoss(2, reference=[1.0, 2.0], trivial=[1.0, 1.5])
    TaskRobustLoss(2, reference=[1.0, 2.0], trivial=[1.1, 1.5])
    for names in (["a", "b"], ["a", "b", "b"]):
        with pytest.raises(ValueError, match="`names` must be 3 different names"):
            loss.metrics(names)
