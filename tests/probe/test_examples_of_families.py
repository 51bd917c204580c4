"""Directions of the families against what their names say."""

import pytest
import torch

from synbench_lightning import GaussianTask, LabelledTask, task_family
from synbench_lightning.probe.families import StationaryColour, resolve_tasks
from synbench_lightning.probe.tasks import fixed_direction, noise_block

NOISE = [0.56017, -0.59822]
DIRECTION = [-0.81005, 0.27049, 1.51087]


def unit(values):
    return values / values.norm()


def test_patches_are_the_middle_and_the_first_corner_of_half_of_each_axis():
    _, middle, corner = task_family("patches", (3, 8, 12))
    assert (middle.name, corner.name) == ("patch_middle", "patch_corner")
    box = torch.zeros(3, 8, 12)
    box[:, 2:6, 3:9] = 1
    torch.testing.assert_close(middle.direction, unit(box))
    box = torch.zeros(3, 8, 12)
    box[:, :4, :6] = 1
    torch.testing.assert_close(corner.direction, unit(box))
    _, middle, _ = task_family("patches", (2, 9))  # both axes of a sequence are spatial
    box = torch.zeros(2, 9)
    box[0, 2:6] = 1
    torch.testing.assert_close(middle.direction, unit(box))
    assert task_family("patches", (1, 3, 1))[2].direction.nonzero().tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(("channels", "number"), [(2, 2), (8, 8), (9, 0), (1, 0)])
def test_each_of_up_to_eight_channels_is_shifted_alone(channels, number):
    if not number:
        with pytest.raises(ValueError, match="The family 'channels' has no tasks for inputs of shape"):
            task_family("channels", (channels, 4, 4))
        return
    tasks = task_family("channels", (channels, 4, 4))[1:]
    assert [task.name for task in tasks] == [f"channel_{index}" for index in range(number)]
    for index, task in enumerate(tasks):
        expected = torch.zeros(channels, 4, 4)
        expected[index] = 0.25
        torch.testing.assert_close(task.direction, expected)


def test_cosines_run_once_from_one_end_of_an_axis_to_the_other():
    _, rows, columns = task_family("smooth", (2, 6, 10))
    for task, axis, size in ((rows, 1, 6), (columns, 2, 10)):
        wave = torch.cos(torch.pi * (torch.arange(size) + 0.5) / size)
        shape = [1, 1, 1]
        shape[axis] = size
        torch.testing.assert_close(task.direction, unit(wave.reshape(shape).expand(2, 6, 10)))


def test_random_directions_are_three_different_ones_and_two_where_there_is_no_axis():
    assert [task.name for task in task_family("random", (40,))] == ["dc", "random_1", "random_2", "random_3"]
    flat = torch.stack([task.direction for task in task_family("random", (4000,))[1:]])
    torch.testing.assert_close(flat @ flat.T, torch.eye(3), rtol=0, atol=0.08)
    assert [task.name for task in task_family("smooth", (40,))] == ["dc", "random_1", "random_2"]


def test_samples_and_directions_are_those_of_earlier_versions():
    """Results are comparable across versions only where the same seed gives the same noise."""
    noise = noise_block(3, "dc", 1.5, 2, (2,))
    assert noise.shape == (64, 2)
    assert noise[0].tolist() == pytest.approx(NOISE, abs=1e-5)
    assert fixed_direction(1, (3,)).tolist() == pytest.approx(DIRECTION, abs=1e-5)


def test_colored_families_have_one_color_over_their_spatial_axes():
    for name, make in (("natural", StationaryColour.power_law), ("correlated", StationaryColour.exponential)):
        white, *colored = task_family(name, (3, 8, 12))
        assert white.colour is None
        assert [task.name for task in colored] == [f"{name}_cos_1", f"{name}_cos_2"]
        assert colored[0].colour is colored[1].colour
        torch.testing.assert_close(colored[0].colour.gains, make((8, 12)).gains)
        for task, plain in zip(colored, task_family("smooth", (3, 8, 12))[1:], strict=True):
            assert torch.equal(task.direction, plain.direction)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 2.0])
def test_the_amplitude_falls_with_the_given_power_and_the_mean_has_that_of_the_lowest_frequency(exponent):
    gains = StationaryColour.power_law((64,), exponent).gains
    assert (gains[2] / gains[8]).item() == pytest.approx(4**exponent, rel=1e-5)
    assert gains[0] == gains[1]
    assert gains.square().mean().item() == pytest.approx(1, rel=1e-5)


def test_the_default_correlation_length_is_an_eighth_of_the_axis_in_two_dimensions_too():
    gains = StationaryColour.exponential((256, 256)).gains.double()
    correlation = torch.fft.ifft2(gains.square()).real
    correlation = correlation / correlation[0, 0]
    for place in ((32, 0), (0, 32)):
        assert correlation[place].item() == pytest.approx(torch.tensor(-1.0).exp().item(), abs=0.03)


def test_exponents_lengths_and_gains_out_of_range_are_refused():
    with pytest.raises(ValueError, match="`exponent` must be a number of at least 0, got -1"):
        StationaryColour.power_law((8,), -1)
    with pytest.raises(ValueError, match="`length` must be a positive number, got 0"):
        StationaryColour.exponential((8,), 0)
    with pytest.raises(ValueError, match="`gains` must be finite"):
        StationaryColour(torch.tensor([1.0, float("inf"), 1.0]))
    StationaryColour(torch.tensor([0.0, 1.0, 1.0]))  # noise without a mean


def test_families_and_tasks_are_resolved_by_name_or_as_given():
    labelled = LabelledTask("real", torch.randn(20, 3), torch.arange(20) % 2)
    one = GaussianTask("one", torch.ones(3))
    assert resolve_tasks((one, labelled), (3,)) == (one, labelled)
    assert [task.name for task in resolve_tasks("random", (3,))] == ["dc", "random_1", "random_2", "random_3"]
    for wrong in ([labelled], [one, 3], one):
        with pytest.raises(ValueError, match="sequence of GaussianTask, at least one, and LabelledTask"):
            resolve_tasks(wrong, (3,))
    with pytest.raises(ValueError, match=r"The input of task 'real' has shape \(3,\), but one input .* \(4,\)"):
        resolve_tasks([GaussianTask("one", torch.ones(4)), labelled], (4,))


def test_a_direction_and_a_mean_are_finite():
    for wrong in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`direction` of task 'a' must be finite and not zero"):
            GaussianTask("a", torch.tensor([1.0, wrong]))
        with pytest.raises(ValueError, match="`mean` of task 'a' must be finite"):
            GaussianTask("a", torch.ones(2), mean=torch.tensor([1.0, wrong]))
    task = GaussianTask("a", [3.0, 4.0], mean=[1, 2])
    torch.testing.assert_close(task.direction, torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(task.mean, torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("off", [1e-2, 1e-4])
def test_a_color_is_linear_up_to_rounding(off):
    def colour(x):
        return x + off * x.abs()

    if off > 1e-3:
        with pytest.raises(ValueError, match="must be linear and not zero"):
            GaussianTask("a", torch.ones(30), colour)
    else:
        assert GaussianTask("a", torch.ones(30), colour).colour is colour


def test_a_color_of_integers_or_of_another_number_of_rows_is_refused():
    for wrong in (lambda x: x.long(), lambda x: x[:2], lambda x: None):
        with pytest.raises(ValueError, match=r"`colour` of task 'a' must keep the shape \(3, ...\) of three inputs"):
            GaussianTask("a", torch.ones(3), wrong)


def test_a_labelled_task_alternates_its_classes_and_drops_the_last_examples_of_the_larger():
    x, y = torch.arange(22.0).view(11, 2), torch.tensor([1, 1, 0, 0, 0, 1, 0, 1, 1, 1, 1])
    task = LabelledTask("a", x, y)
    assert task.labels.tolist() == [0, 1] * 4
    assert task.examples[:, 0].tolist() == [4.0, 0.0, 6.0, 2.0, 8.0, 10.0, 12.0, 14.0]
    assert task.fold.tolist() == [True, True, False, False] * 2
    with pytest.raises(ValueError, match="at least four examples of each class, got 7 of class 0 and 3 of class 1"):
        LabelledTask("a", torch.randn(10, 2), (torch.arange(10) < 3).long())
    with pytest.raises(ValueError, match="`examples` of task 'a' must be a finite floating-point tensor"):
        LabelledTask("a", torch.randn(10), torch.arange(10) % 2)
    with pytest.raises(ValueError, match="`examples` of task 'a' must be a finite floating-point tensor"):
        LabelledTask("a", torch.empty(0, 2), torch.empty(0))
