import pickle

import pytest
import torch

from synbench_lightning import GaussianTask, ProbePlan, evaluate, matched_tasks, task_family


def blobs(noise=0.1):
    """Sixteen inputs around each of four corners."""
    corners = 6 * torch.tensor([[1.0, 1, 0, 0], [-1, 1, 0, 0], [1, -1, 0, 0], [-1, -1, 0, 0]])
    return corners.repeat_interleave(16, 0) + noise * torch.randn(64, 4, generator=torch.Generator().manual_seed(0))


def test_tasks_lead_from_the_mean_of_one_cluster_to_that_of_another_around_their_middle():
    x = blobs()
    corners = x.reshape(4, 16, 4).mean(1)
    ends = []
    for task in matched_tasks(x, num_tasks=2):
        toward = [(c - task.mean) for c in corners]
        on_line = [
            c for c, t in zip(corners, toward, strict=True) if (t - (t @ task.direction) * task.direction).norm() < 1e-3
        ]
        assert len(on_line) == 2
        torch.testing.assert_close(task.mean, sum(on_line) / 2)
        ends += [tuple(c.tolist()) for c in on_line]
    assert len(set(ends)) == 4  # each cluster is in one task


def test_the_noise_has_its_share_of_the_deviation_of_the_inputs():
    x = blobs()
    task = matched_tasks(x, num_tasks=2, noise=0.25)[0]
    assert task.coloured(torch.ones(1, 4)).flatten().tolist() == pytest.approx([0.25 * x.std().item()] * 4)


def test_an_encoder_that_loses_nothing_scores_one_around_any_mean():
    tasks = matched_tasks(blobs(), num_tasks=2)
    result = evaluate(
        lambda x: x @ torch.randn(4, 4, generator=torch.Generator().manual_seed(1)) + 3, (4,), tasks=tasks
    )
    assert list(result.task_scores().values()) == pytest.approx([1, 1], abs=0.03)


def test_an_encoder_that_rectifies_sees_the_mean():
    # Where ReLU cuts nothing off, it loses nothing; around zero it does.
    direction, plan = torch.tensor([1.0, 0, 0, 0]), ProbePlan(forwards=4096)
    high = evaluate(torch.relu, (4,), tasks=[GaussianTask("high", direction, mean=torch.full((4,), 50.0))], plan=plan)
    zero = evaluate(torch.relu, (4,), tasks=[GaussianTask("zero", direction)], plan=plan)
    assert high.score() == pytest.approx(1, abs=0.03)
    assert zero.score() < 0.95


def test_tasks_are_the_same_in_each_call_join_a_family_and_are_pickled():
    first, second = matched_tasks(blobs()), matched_tasks(blobs())
    assert all(
        torch.equal(a.direction, b.direction) and torch.equal(a.mean, b.mean)
        for a, b in zip(first, second, strict=True)
    )
    family = pickle.loads(pickle.dumps([*task_family("dc", (4,)), *first]))
    result = evaluate(torch.nn.Identity(), (4,), tasks=family)
    assert result.tasks[:2] == ("dc", "matched_1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": torch.ones(64, 4).long()}, "`inputs` must be a floating-point tensor .* got torch.int64"),
        ({"inputs": torch.randn(5, 4)}, "at least 12 inputs, two for each task"),
        ({"inputs": torch.ones(64, 4)}, "`inputs` must be finite and vary; their standard deviation is 0"),
        ({"inputs": torch.full((64, 4), float("nan"))}, "`inputs` must be finite and vary"),
        ({"inputs": torch.randn(64, 4), "noise": 0}, "`noise` must be a positive number, got 0"),
        ({"inputs": torch.randn(64, 4), "num_tasks": 0}, "`num_tasks` must be an integer of at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        matched_tasks(**arguments)


def test_a_mean_of_another_shape_is_refused():
    with pytest.raises(
        ValueError, match=r"`mean` of task 'a' must be finite and of the shape of its direction, \(3,\)"
    ):
        GaussianTask("a", torch.ones(3), mean=torch.ones(4))
