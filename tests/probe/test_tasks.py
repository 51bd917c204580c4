import pytest
import torch
from scipy.stats import kstest

from synbench_lightning import GaussianTask, LabelledTask
from synbench_lightning.probe.tasks import noise_block


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
    with pytest.raises(ValueError, match="`direction` of task 'zero' must be finite and not zero"):
        GaussianTask("zero", torch.zeros(3))
    with pytest.raises(ValueError, match="`name` must be a non-empty string without '/'"):
        GaussianTask("a/b", torch.ones(3))


@pytest.mark.parametrize(
    ("colour", "message"),
    [
        (torch.relu, "must be linear and not zero"),
        (lambda x: x + 1, "must be linear and not zero"),
        (torch.zeros_like, "must be linear and not zero"),
        (lambda x: x[:, :2], r"must keep the shape \(3, ...\) of three inputs, got torch.float32 of shape \(3, 2\)"),
        (lambda x: x.reshape(7, 7), "must be a linear map of tensors .*, but raised RuntimeError"),
    ],
)
def test_a_colour_that_would_make_the_optimum_unknown_is_refused(colour, message):
    with pytest.raises(ValueError, match=f"`colour` of task 'a' {message}"):
        GaussianTask("a", torch.ones(3), colour)


@pytest.mark.parametrize(
    ("examples", "labels", "message"),
    [
        (
            torch.zeros(8, dtype=torch.int64),
            torch.zeros(8),
            "`examples` .* finite floating-point tensor .*got torch.int64",
        ),
        (torch.full((8, 2), float("nan")), torch.zeros(8), "`examples` of task 'a' must be a finite"),
        (
            torch.zeros(8, 2),
            torch.arange(8),
            "`labels` of task 'a' must be 8 numbers 0 or 1.*one task per class against the",
        ),
        (torch.zeros(8, 2), torch.zeros(7), r"`labels` .* got shape \(7,\)"),
        (
            torch.zeros(8, 2),
            torch.arange(8) < 3,
            "at least four examples of each class, got 5 of class 0 and 3 of class 1",
        ),
    ],
)
def test_wrong_labelled_tasks_are_refused(examples, labels, message):
    with pytest.raises(ValueError, match=message):
        LabelledTask("a", examples, labels)


def test_a_task_is_equal_to_itself_alone():
    for make in (
        lambda: LabelledTask("a", torch.ones(8, 2), torch.arange(8) % 2),
        lambda: GaussianTask("a", torch.ones(2), mean=torch.ones(2)),
    ):
        one, other = make(), make()
        assert one in {one}
        assert one != other


def test_classes_of_a_labelled_task_count_alike_in_both_folds():
    task = LabelledTask("a", torch.randn(100, 3), torch.arange(100) < 21)
    assert task.num_examples == 42
    for part in (task.fold, ~task.fold):
        assert task.labels[part].float().mean() == 0.5


def test_a_mean_of_another_shape_is_refused():
    with pytest.raises(
        ValueError, match=r"`mean` of task 'a' must be finite and of the shape of its direction, \(3,\)"
    ):
        GaussianTask("a", torch.ones(3), mean=torch.ones(4))


def test_the_folds_of_real_examples_alternate_in_pairs_of_both_classes():
    task = LabelledTask("one", torch.randn(12, 3), torch.arange(12) % 2)
    assert task.fold.tolist() == [True, True, False, False] * 3
    assert [int(task.labels[task.fold == fold].sum()) for fold in (True, False)] == [3, 3]


def test_a_task_is_shown_by_its_name_and_not_by_its_numbers():
    assert "tensor" not in repr(GaussianTask("one", torch.ones(4), mean=torch.zeros(4)))
    assert "tensor" not in repr(LabelledTask("one", torch.randn(12, 3), torch.arange(12) % 2))


def test_a_color_may_be_as_small_as_it_likes():
    assert GaussianTask("one", torch.ones(4), colour=lambda x: 1e-3 * x).coloured(torch.ones(1, 4)).sum() > 0
