"""The examples of a plan: noise around the class means, whatever the block, the process or the memory."""

import pytest
import torch

from synbench_lightning import GaussianTask, ProbePlan, evaluate, task_family
from synbench_lightning.probe.proxy_samples import ProxySamples, in_blocks
from synbench_lightning.probe.tasks import noise_block

CPU = torch.device("cpu")
PLAN = ProbePlan(forwards=2 * 2 * 3 * 150, num_scales=2)  # 150 noise vectors of each of three tasks at each scale


def written(samples):
    """All examples, ``(vectors, signs, *shape)``, by cell."""
    found = []
    for cell in samples.cells:
        whole = torch.full((samples.vectors, samples.plan.signs, *samples.input_shape), torch.nan)
        for block in samples.examples([cell]).blocks:
            out = torch.empty(samples.plan.signs * block.vectors, *samples.input_shape)
            samples.write(block, out)
            whole[block.row : block.row + block.vectors] = out.unflatten(0, (samples.plan.signs, -1)).transpose(0, 1)
        found.append(whole)
    return found


def noise_of(task, scale, vectors, seed=3):
    blocks = [noise_block(seed, task.name, scale, block, task.direction.shape) for block in range(-(-vectors // 64))]
    return torch.cat(blocks)[:vectors]


def made(tasks, plan=PLAN, normalize=None):
    return ProxySamples(tasks, plan, normalize=normalize, seed=3, device=CPU)


def test_each_noise_vector_is_shown_on_both_sides_of_its_scale():
    tasks = task_family("default", (3, 5, 4))
    samples = made(tasks)
    assert samples.vectors == 150
    assert len(samples.cells) == 6
    for (task, scale), found in zip(samples.cells, written(samples), strict=True):
        shift = PLAN.scales[scale] * tasks[task].direction
        noise = noise_of(tasks[task], PLAN.scales[scale], 150)
        torch.testing.assert_close(found[:, 0], noise + shift)
        torch.testing.assert_close(found[:, 1], noise - shift)


def test_the_official_protocol_shows_the_classes_in_turns():
    (task,) = tasks = task_family("dc", (3,))
    samples = made(tasks, ProbePlan.official())
    assert samples.signs.tolist() == [1.0, -1.0] * 2048
    blocks = samples.examples([(0, 48)]).blocks
    assert [block.row for block in blocks] == list(range(0, 4096, 64))
    out = torch.empty(64, 3)
    samples.write(blocks[-1], out)
    noise = noise_block(3, "dc", 4.9, 63, (3,))
    torch.testing.assert_close(out, noise + 4.9 * samples.signs[:64, None] * task.direction)


@pytest.mark.parametrize("normalize", [None, (0.3, 2.0), ([0.1, 0.2, 0.3], [1.0, 2.0, 4.0]), ([0.5], 1.0)])
def test_the_color_the_mean_and_the_normalization_apply_to_noise_and_means_alike(normalize):
    tasks = [
        GaussianTask("plain", torch.randn(3, 4)),
        GaussianTask("colored", torch.randn(3, 4), colour=lambda x: 3 * x.flip(-1), mean=torch.arange(12.0).view(3, 4)),
        GaussianTask("other", torch.randn(3, 4), colour=lambda x: x.flip(-2)),
    ]
    plain, found = written(made(tasks)), written(made(tasks, normalize=normalize))
    mean, std = (torch.tensor(side).reshape(-1, 1) for side in normalize or (0.5, 1.0))
    for (task, scale), own, its in zip(made(tasks).cells, plain, found, strict=True):
        given = tasks[task]
        white = noise_of(given, PLAN.scales[scale], 150) + PLAN.scales[scale] * given.direction
        expected = given.coloured(white) + (0 if given.mean is None else given.mean)
        torch.testing.assert_close(own[:, 0], expected)
        torch.testing.assert_close(its, (own + 0.5 - mean) / std)


def test_examples_are_the_same_again_and_without_memory_for_them(monkeypatch):
    tasks = task_family("natural", (1, 4, 4))
    samples = made(tasks)
    first, again = written(samples), written(samples)
    monkeypatch.setattr("synbench_lightning.probe.proxy_samples.NOISE_BUDGET_BYTES", 0)
    for one, two, three in zip(first, again, written(made(tasks)), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


@pytest.mark.parametrize("vectors", [1, 64, 65, 150])
def test_blocks_hold_each_vector_once(vectors):
    blocks = in_blocks(vectors)
    assert [(block.task, block.scale) for block in blocks] == [(0, 0)] * len(blocks)
    assert [index for block in blocks for index in range(block.first, block.first + block.vectors)] == [*range(vectors)]
    assert [block.row for block in blocks] == [block.first for block in blocks]


@pytest.mark.parametrize(
    ("normalize", "message"),
    [
        (3, r"must be a pair \(mean, std\)"),
        ((0.5,), r"must be a pair \(mean, std\)"),
        (("a", 1.0), r"must be a pair \(mean, std\)"),
        (([0.5, 0.5], 1.0), "mean must be a number or 3 numbers"),
        ((0.5, [[1.0]]), "std must be a number or 3 numbers"),
        ((0.5, 0.0), "std must be positive and both finite"),
        ((0.5, [1.0, 1.0, -1.0]), "std must be positive and both finite"),
        ((0.5, float("inf")), "std must be positive and both finite"),
        ((float("nan"), 1.0), "std must be positive and both finite"),
    ],
)
def test_normalizations_that_are_none_are_refused(normalize, message):
    with pytest.raises(ValueError, match=f"`normalize`.*{message}"):
        evaluate(torch.nn.Flatten(), (3, 2, 2), normalize=normalize)
