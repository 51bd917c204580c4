import pytest
import torch

from synbench_lightning.callbacks.first_batches import FirstBatches


def test_two_views_of_1024_examples_are_taken_from_as_many_batches_as_that_takes():
    first, views = FirstBatches((4,)), torch.rand(2, 3, 600, 4)
    assert first.pairs is None
    assert [first.add((list(batch), torch.arange(600))) for batch in views] == [False, True]
    assert first.batches == 2
    expected = torch.cat([views[0, :2], views[1, :2]], 1).movedim(0, 1)[:1024].half()
    assert torch.equal(first.pairs, expected)


def test_a_batch_without_views_adds_nothing_and_is_counted():
    first = FirstBatches((4,))
    assert not first.add((torch.rand(5000, 4), torch.arange(5000)))
    assert (first.batches, first.pairs) == (1, None)


@pytest.mark.parametrize("size", [256, 1000])
def test_pairs_of_large_inputs_take_256_mib_at_most(size):
    first = FirstBatches((3, size, size))
    one = 2 * 2 * 3 * size**2  # two views, two bytes each
    assert first.wanted * one <= 2**28 < (first.wanted + 1) * one
