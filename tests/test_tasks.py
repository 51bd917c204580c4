import pytest
import torch
from scipy.stats import kstest

from synbench_lightning import GaussianTask, task_family
from synbench_lightning.tasks import noise_block, resolve_tasks


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


def test_noise_depends_on_its_key_alone_and_not_on_the_global_state():
    torch.manual_seed(1)
    first = noise_block(0, "dc", 1.5, 2, (4, 4))
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(first, noise_block(0, "dc", 1.5, 2, (4, 4)))
    assert torch.equal(state, torch.get_rng_state())


def test_noise_of_different_keys_is_independent_and_standard_normal():
    keys = [(s, t, k, b) for s in (0, 1) for t in ("dc", "cos_1") for k in (0.5, 1.0) for b in (0, 1)]
    noise = torch.stack([noise_block(*key, (64,)).flatten() for key in keys])
    assert kstest(noise.flatten().numpy(), "norm").pvalue > 1e-3
    assert (torch.corrcoef(noise) - torch.eye(len(keys))).abs().max() < 0.08  # five sigma of 4096 samples


def test_wrong_tasks_are_refused():
    with pytest.raises(ValueError, match="`tasks` must be 'dc', 'default' or a sequence of GaussianTask, got 'hard'"):
        task_family("hard", (3,))
    with pytest.raises(ValueError, match="`direction` of task 'zero' must be finite and not zero"):
        GaussianTask("zero", torch.zeros(3))
    with pytest.raises(ValueError, match="`name` must be a non-empty text without '/'"):
        GaussianTask("a/b", torch.ones(3))
    one = GaussianTask("one", torch.ones(3))
    with pytest.raises(ValueError, match=r"direction of task 'one' has shape \(3,\).*shape \(4,\)"):
        resolve_tasks([one], (4,))
    with pytest.raises(ValueError, match="different names"):
        resolve_tasks([one, one], (3,))
    with pytest.raises(ValueError, match="non-empty sequence of GaussianTask"):
        resolve_tasks([], (3,))


@pytest.mark.parametrize("shape", [(), (0,), (3, -1), (3.0,), "3", 3, None])
def test_wrong_input_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="`input_shape` must be the shape of one example"):
        task_family("dc", shape)
