"""Proxy tasks as a benchmark with labels."""

import math

import pytest
import torch

from synbench_lightning import GaussianTask, LabelledTask, labelled_proxies
from synbench_lightning.probe.tasks import noise_block


@pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -1.0), (1.0, math.inf)])
def test_scales_are_positive_and_finite(scales):
    with pytest.raises(ValueError, match="`scales` must be positive numbers, at least one"):
        labelled_proxies("dc", (1, 8, 8), scales=scales)


def test_each_class_has_its_mean_on_its_side_of_the_direction():
    benchmark = labelled_proxies("dc", (1, 4, 4), scales=(1.0, 3.0), examples=400)
    for scale, name in ((1.0, "dc@1"), (3.0, "dc@3")):
        inputs, labels = zip(*benchmark[name], strict=True)
        along = [float(x.sum()) / 4 * (2 * int(y) - 1) for x, y in zip(inputs, labels, strict=True)]
        assert sum(along) / 400 == pytest.approx(scale, abs=0.2)  # four standard errors


def test_the_classes_alternate_around_the_mean_of_the_task_in_its_color():
    colour = lambda x: 2 * x.flip(-1)  # noqa: E731
    task = GaussianTask("red", torch.arange(1.0, 5.0), colour, mean=torch.tensor([5.0, 0, 0, -5]))
    x, y = labelled_proxies([task], (4,), scales=(2.5,), seed=7)["red@2.5"].tensors
    assert y.tolist() == [0, 1] * 128
    noise = torch.cat([noise_block(7, "red", 2.5, block, (4,)) for block in range(4)])
    expected = colour(noise + 2.5 * (2 * y[:, None] - 1) * task.direction) + task.mean
    torch.testing.assert_close(x, expected)


@pytest.mark.parametrize("examples", [4, 64, 65, 100])
def test_as_many_examples_as_asked_for(examples):
    tasks = labelled_proxies("default", (1, 4, 4), (0.5, 12.25), examples)
    assert {name: len(dataset) for name, dataset in tasks.items()} == dict.fromkeys(
        [f"{task}@{scale}" for task in ("dc", "cos_1", "cos_2") for scale in ("0.5", "12.25")], examples
    )
    assert list(labelled_proxies("dc", (3,))) == ["dc@0.5", "dc@1", "dc@2"]
    one, other = (labelled_proxies("dc", (3,), seed=seed)["dc@1"].tensors[0] for seed in (0, 1))
    assert not torch.equal(one, other)
    assert torch.equal(labelled_proxies("dc", (3,))["dc@1"].tensors[0], one)


def test_too_few_examples_and_labelled_tasks_are_refused():
    with pytest.raises(ValueError, match="`examples` must be an integer of at least 4, got 3"):
        labelled_proxies("dc", (3,), examples=3)
    with pytest.raises(ValueError, match="`seed` must be an integer of at least 0, got -1"):
        labelled_proxies("dc", (3,), seed=-1)
    real = LabelledTask("real", torch.randn(20, 3), torch.arange(20) % 2)
    with pytest.raises(ValueError, match="'real' is labelled already"):
        labelled_proxies([GaussianTask("one", torch.ones(3)), real], (3,))
