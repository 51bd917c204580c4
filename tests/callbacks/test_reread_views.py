"""How many examples are read again how often, and which of what was read is kept."""

from types import SimpleNamespace

import pytest
import torch

from synbench_lightning.callbacks import reread_views
from synbench_lightning.callbacks.reread_views import (
    IN_DATA,
    ReadViews,
    Wanted,
    _averaged,
    _belong,
    _fits,
    _Found,
    _Reader,
    kept,
    kept_views,
    wanted,
)
from synbench_lightning.probe.text_views import MOST_TEXTS
from synbench_lightning.runtime.encoder_call import EncoderCall
from synbench_lightning.runtime.example_reading import ExpensiveError
from synbench_lightning.runtime.input_leaf import InputLeaf
from synbench_lightning.runtime.step_replay import NotReachedError
from synbench_lightning.runtime.structures import Arguments

STRATEGY = SimpleNamespace(broadcast=lambda x: x)
TRAINER = SimpleNamespace(strategy=STRATEGY)


def given(x):
    return Arguments((x,), {})


def batch(rows=8, seed=0):
    return torch.randn(rows, 4, generator=torch.Generator().manual_seed(seed))


def reader(views=16, opened=None, read_once=False):
    own = _Reader.__new__(_Reader)
    own.trainer, own.wanted, own.views, own.chunk_count = TRAINER, Wanted(128, 16), views, 9
    own.opened = None if opened is None else SimpleNamespace(workers=opened)
    own.read_once = read_once
    return own


def limited(seconds, several=True, chunks=4, rows=32, read=1.0, step=0.0, **arguments):
    """Views and chunks that are read within some seconds, where a batch of 32 takes so long."""
    own = reader(**arguments)
    own._limit(given(batch(rows)), _Found(0, 0, rows, None, None, read, step), seconds, chunks, several)
    return own.views, own.chunk_count


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(64, (16, 4)), (63.9, (8, 4)), (32, (8, 4)), (31, (4, 4)), (16, (4, 4)), (15, (4, 2)), (7, (4, 1)), (4, (4, 1))],
)
def test_first_the_views_are_halved_to_four_and_then_the_examples(seconds, expected):
    assert limited(seconds) == expected  # 16 views of 4 batches take 64 seconds


def test_where_the_fewest_take_too_long_the_error_has_the_numbers():
    with pytest.raises(ExpensiveError, match=r"^reading 32 examples 4 times takes 4 s$"):
        limited(3.9)


def test_the_time_is_that_of_reading_by_all_workers_and_of_the_steps():
    assert limited(64, read=4.0, opened=4) == (16, 4)
    assert limited(63, read=4.0, opened=4) == (8, 4)
    assert limited(64, read=0.5, step=0.5) == (16, 4)
    assert limited(63, read=0.5, step=0.5) == (8, 4)
    assert limited(68, step=1.0, read_once=True) == (16, 4)  # read once, stepped 16 times
    assert limited(67, step=1.0, read_once=True) == (8, 4)


def test_where_nothing_is_random_each_example_is_read_once_and_no_more_than_are_wanted():
    assert limited(4, several=False) == (1, 4)
    assert limited(3.9, several=False) == (1, 2)
    assert limited(1000, chunks=9) == (16, 4)
    assert limited(1000, chunks=9, rows=30) == (16, 5)
    assert limited(1000, chunks=2) == (16, 2)


def test_memory_limits_the_views_as_time_does(monkeypatch):
    size = 32 * 4 * 4
    monkeypatch.setattr(reread_views, "VIEW_BYTES", 16 * 4 * size)
    assert limited(1000) == (16, 4)
    monkeypatch.setattr(reread_views, "VIEW_BYTES", 16 * 4 * size - 1)
    assert limited(1000) == (8, 4)
    monkeypatch.setattr(reread_views, "VIEW_BYTES", 4 * size - 1)
    with pytest.raises(ExpensiveError, match=r"^32 examples in 4 views take 1.9e-06 GiB$"):
        limited(1000)


def test_batches_are_read_view_after_view_up_to_the_present_limits():
    own = reader(views=3)
    own.chunk_count = 2
    assert list(own._order()) == [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]
    order = own._order()
    found = [next(order), next(order)]
    own.views = 2
    assert [*found, *order] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    own.read_once = True
    assert list(own._order()) == [(0, 0), (0, 1)]


CHUNKS = [[[0]], [[1]], [[2]]]


def complete(read, random_in=IN_DATA, views=None):
    own = reader(views=len(read) if views is None else views)
    return own._complete([[given(x) for x in view] for view in read], CHUNKS, random_in)


def views_of(x, number):
    return [x + 0.05 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)) for seed in range(number)]


def test_what_was_read_in_all_views_is_kept_with_the_plan_to_read_it_again():
    one, two = views_of(batch(20), 3), views_of(batch(20, 1), 3)
    found = complete([[one[0], two[0]], [one[1], two[1]], [one[2]]])
    assert (found.examples, found.plan.chunks, found.plan.views, found.random_in) == (20, CHUNKS[:1], 3, IN_DATA)
    assert torch.equal(found.views[2][0].args[0], one[2])
    found = complete([[one[0], two[0]], [one[1], two[1]], [one[2], two[2]], []], views=3)
    assert (found.examples, found.plan.chunks, found.plan.views) == (40, CHUNKS[:2], 3)
    short = complete([[one[0]], [one[1]], []])  # of the first batch not all views were read
    assert (short.examples, short.plan.chunks, short.plan.views) == (20, CHUNKS[:1], 2)
    plain = complete([[one[0], two[0]], [], []], random_in="")
    assert (plain.examples, plain.plan.chunks, plain.plan.views) == (40, CHUNKS[:2], 1)


def test_what_is_incomplete_or_does_not_belong_together_is_refused():
    one = views_of(batch(20), 2)
    for read in ([[], []], [[one[0]], []]):
        with pytest.raises(ExpensiveError, match="reading takes too long"):
            complete(read)
    with pytest.raises(NotReachedError, match="another number of examples each time"):
        complete([[one[0]], [one[1][:19]]])
    with pytest.raises(NotReachedError, match="no nearer to itself than to others"):
        complete([[batch(40)], [batch(40, 1)]])


def test_views_whose_mean_alone_shows_the_example_belong_together():
    example, *noise = torch.randn(33, 60, 16, generator=torch.Generator().manual_seed(0))
    views = [[example + 4 * one] for one in noise]
    assert complete(views).examples == 60


def test_chunks_are_joined_and_of_too_many_rows_those_that_differ_are_kept():
    one = torch.arange(20.0)[:, None].repeat(1, 3)
    other = one.clone()
    other[[2, 5, 11, 19], 1] += 0.5
    views = [[given(x[:10]), given(x[10:])] for x in (one, other)]
    found = kept_views(views, IN_DATA, 6)
    assert found.views[0][0].args[0][:, 0].tolist() == [0, 1, 2, 5, 11, 19]
    assert torch.equal(found.views[1][0].args[0], other[[0, 1, 2, 5, 11, 19]])
    assert (found.examples, found.random_in, len(found.views[0])) == (6, IN_DATA, 1)
    assert kept_views(views, "", 20).examples == 20
    assert kept_views(views[:1], "", 6).views[0][0].args[0][:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    labels = torch.arange(20)
    both = [[Arguments((one, labels + number), {})] for number in range(2)]
    assert kept_views(both, IN_DATA, 3).views[1][0].args[1].tolist() == [1, 2, 3]


def test_chunks_that_cannot_be_joined_stay_as_they_are():
    views = [[given(batch(8)), given(torch.randn(6, 5))]]
    assert kept_views(views, "", 100) == ReadViews(views, 14, "")


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (torch.tensor([1.0, -59_000.0]), torch.float16), (torch.tensor([1.0, -61_000.0]), torch.float32),
        (torch.ones(2, dtype=torch.float64), torch.float16), (torch.ones(2, dtype=torch.bfloat16), torch.bfloat16),
        (torch.ones(2, dtype=torch.long), torch.long), (torch.ones(0), torch.float32),
    ],
)  # fmt: skip
def test_tensors_are_kept_in_half_precision_within_its_range(value, dtype):
    assert kept(value).dtype == dtype


def test_texts_are_read_twice_and_other_inputs_sixteen_times():
    assert wanted(None) == wanted(EncoderCall("a", input=InputLeaf(("args", 0), (8,), 4))) == (128, 16)
    assert wanted(EncoderCall("a", input=InputLeaf(("args", 0), (32,), 4, torch.long))) == (MOST_TEXTS, 2)


def test_examples_fit_into_a_batch_of_a_quarter_gibibyte():
    assert _fits(EncoderCall("a", input=InputLeaf(("args", 0), (1000,), 4)), 67_108)
    assert not _fits(EncoderCall("a", input=InputLeaf(("args", 0), (1000,), 4)), 67_109)
    assert _fits(EncoderCall("a"), 10**9)


def test_means_of_views_are_taken_where_there_are_any():
    one, other = torch.ones(4, 3), torch.full((4, 3), 3.0)
    (found,) = _averaged([[given(one)], [given(other)]])
    assert torch.equal(found.args[0], torch.full((4, 3), 2.0))
    for sides in (
        (one, torch.ones(4, 2)),
        (one + 0j, other + 0j),
        (one.repeat(1, 11).long(), other.repeat(1, 11).long()),
    ):
        (found,) = _averaged([[given(side)] for side in sides])
        assert found.args[0] is sides[0]


def test_few_examples_or_views_of_another_shape_are_given_the_benefit_of_the_doubt():
    assert _belong([given(batch(15))], [given(batch(15, 1))])
    assert not _belong([given(batch(40))], [given(batch(40, 1))])
    assert not _belong([given(batch(20, seed)) for seed in (0, 1)], [given(batch(20, seed)) for seed in (2, 3)])
    assert _belong([given(batch(40))], [given(batch(40, 1)[:, :3])])
    assert _belong([given(batch(1))] * 40, [given(batch(1, 1))] * 40)
    assert _belong([given(torch.arange(40))], [given(torch.arange(40))])
