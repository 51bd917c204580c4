import numpy as np
import pytest
import torch

from synbench_lightning import GaussianTask, evaluate, task_family
from synbench_lightning.probe.families import FAMILIES, StationaryColour, resolve_tasks


def test_dc_is_the_papers_direction():
    (task,) = task_family("dc", (3, 32, 32))
    torch.testing.assert_close(task.direction, torch.full((3, 32, 32), 3072**-0.5))


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        ((3, 32, 32), ["dc", "cos_1", "cos_2"]),
        ((1, 8, 1), ["dc", "cos_1"]),
        ((2, 16), ["dc", "cos_0", "cos_1"]),
        ((1, 400), ["dc", "cos_1"]),
        ((3, 4, 8, 8), ["dc", "cos_1", "cos_2", "cos_3"]),
        ((32,), ["dc", "random_1", "random_2"]),
    ],
)
def test_the_default_family_varies_along_the_axes_that_an_input_has(shape, names):
    tasks = task_family("default", shape)
    assert [task.name for task in tasks] == names
    for task in tasks:
        assert task.direction.shape == shape
        assert task.direction.norm().item() == pytest.approx(1, abs=1e-5)


def test_directions_of_the_default_family_are_orthogonal():
    flat = torch.stack([task.direction.flatten() for task in task_family("default", (3, 16, 24))])
    torch.testing.assert_close(flat @ flat.T, torch.eye(3), atol=1e-5, rtol=0)


def test_random_directions_are_the_same_in_each_call():
    first, second = (task_family("default", (32,))[1].direction for _ in range(2))
    assert torch.equal(first, second)


def test_wrong_tasks_are_refused():
    with pytest.raises(ValueError, match=r"`name` must be 'default', 'dc', .* got 'hard'"):
        task_family("hard", (3,))
    with pytest.raises(ValueError, match=r"`tasks` must be 'default', .* or a sequence of GaussianTask, got 'hard'"):
        resolve_tasks("hard", (3,))
    one = GaussianTask("one", torch.ones(3))
    with pytest.raises(ValueError, match=r"direction of task 'one' has shape \(3,\).*shape \(4,\)"):
        resolve_tasks([one], (4,))
    with pytest.raises(ValueError, match="different names"):
        resolve_tasks([one, one], (3,))
    with pytest.raises(ValueError, match="sequence of GaussianTask, at least one"):
        resolve_tasks([], (3,))


@pytest.mark.parametrize("shape", [(), (0,), (3, -1), (3.0,), "3", 3, None])
def test_wrong_input_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="`input_shape` must be the shape of one example"):
        task_family("dc", shape)


SHAPES = [(3, 32, 32), (1, 8, 8), (2, 16), (1, 400), (3, 4, 8, 8), (32,), (1, 5, 7)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_tasks_of_unit_directions_or_says_that_it_has_none(name, shape):
    flat, single = len(shape) == 1, shape[0] == 1 or len(shape) == 1
    if (name in ("patches", "natural", "correlated") and flat) or (name == "channels" and single):
        with pytest.raises(ValueError, match="has no tasks for inputs of shape"):
            task_family(name, shape)
        return
    tasks = task_family(name, shape)
    assert tasks[0].name == "dc"
    assert len({task.name for task in tasks}) == len(tasks)
    for task in tasks:
        assert task.direction.norm().item() == pytest.approx(1, abs=1e-5)
        assert task.coloured(torch.randn(2, *shape)).shape == (2, *shape)


@pytest.mark.parametrize("sizes", [(16,), (9,), (8, 12)])
@pytest.mark.parametrize("make", [StationaryColour.power_law, StationaryColour.exponential])
def test_coloured_noise_has_the_covariance_that_its_spectrum_has_by_wiener_khinchin(make, sizes):
    colour = make(sizes)
    size = int(np.prod(sizes))
    matrix = colour(torch.eye(size).reshape(size, *sizes)).reshape(size, size).T  # the map A, a column for each place
    covariance = (matrix @ matrix.T).numpy()
    expected = np.fft.ifftn(np.square(colour.gains.numpy())).real  # of a place with the first one
    np.testing.assert_allclose(covariance[:, 0].reshape(sizes), expected, atol=1e-5)
    np.testing.assert_allclose(np.diag(covariance), 1, atol=1e-5)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)


def test_exponential_correlation_falls_to_one_over_e_over_its_length():
    gains = StationaryColour.exponential((1024,), length=1 / 16).gains.double()
    correlation = torch.fft.ifft(gains.square()).real
    assert correlation[64] / correlation[0] == pytest.approx(np.exp(-1), abs=0.02)


def test_natural_noise_has_amplitudes_of_one_over_the_frequency():
    gains = StationaryColour.power_law((64, 64)).gains
    assert gains[0, 2] / gains[0, 8] == pytest.approx(4, abs=1e-3)
    assert gains[3, 4] / gains[0, 5] == pytest.approx(1, abs=1e-4)


def test_an_encoder_that_loses_nothing_scores_one_whatever_the_colour():
    tasks = task_family("natural", (1, 8, 8))
    result = evaluate(torch.nn.Flatten(), (1, 8, 8), tasks=tasks)
    for score in result.task_scores().values():
        assert score == pytest.approx(1, abs=0.04)


def test_a_coloured_task_is_the_white_one_seen_through_the_colour():
    colour = StationaryColour.power_law((8, 8))
    white = evaluate(lambda x: colour(x).flatten(1)[:, :40], (1, 8, 8), seed=3)
    coloured = evaluate(
        lambda x: x.flatten(1)[:, :40], (1, 8, 8), tasks=[GaussianTask("dc", torch.ones(1, 8, 8), colour)], seed=3
    )
    assert coloured.score() == pytest.approx(white.score(), abs=1e-4)


@pytest.mark.parametrize(
    ("gains", "message"),
    [
        (torch.zeros(4), "not all 0"),
        (-torch.ones(4), "at least 0"),
        (torch.tensor([1.0, 2.0, 1.0, 1.0]), "the same for a frequency and its negative"),
    ],
)
def test_gains_that_are_no_covariance_are_refused(gains, message):
    with pytest.raises(ValueError, match=f"`gains` must be .*{message}"):
        StationaryColour(gains)


@pytest.mark.parametrize("shape", [(3,), (1, 4, 4), (9, 4, 4)])
def test_vectors_one_channel_and_many_have_no_tasks_of_channels(shape):
    with pytest.raises(ValueError, match="'channels' has no tasks for inputs of shape"):
        task_family("channels", shape)
