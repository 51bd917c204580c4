"""Which rows of an encoder's input belong to which example, found by exchanging examples of the batch."""

import pytest
import torch

from synbench_lightning.runtime.example_rows import ExampleRows, exchanged
from synbench_lightning.runtime.structures import Arguments

N = 6
X = torch.arange(1.0, N + 1)[:, None].repeat(1, 4)


def given(x):
    return Arguments((x,), {})


def blocks(x):
    return given(torch.cat([x, -x, 10 * x]))


def turns(x):
    return given(torch.stack([x, -x, 10 * x], 1).flatten(0, 1))


def traced(way, x=X):
    rows = ExampleRows()
    other = exchanged(x, len(x))
    rows.trace(way(x), way(other.batch), other.examples)
    return rows


@pytest.mark.parametrize("examples", [4, 6, 30])
def test_a_third_of_the_examples_are_exchanged_among_each_other(examples):
    x = torch.arange(1.0, examples + 1)[:, None].repeat(1, 3)
    batch, moved = exchanged({"image": x, "label": torch.arange(examples)}, examples)
    assert int(moved.sum()) == examples // 3 + 1
    assert batch["image"][:, 0].sort().values.tolist() == x[:, 0].tolist()
    assert ((batch["image"] != x).any(1) == moved).all()
    assert torch.equal(exchanged(x / 100, examples).examples, moved)  # whatever the size of values
    assert (batch["label"] + 1 == batch["image"][:, 0]).all()


def test_what_cannot_be_exchanged_is_nothing():
    assert exchanged(X[:3], 3) is None
    assert exchanged(torch.ones(N, 4), N) is None  # all alike
    assert exchanged(torch.arange(N), N) is None  # no examples, only numbers
    assert exchanged([X[:2], torch.ones(N)], N) is None
    crops = [torch.rand(N, 3, size, size) for size in (8, 8, *[4] * (N - 2))]  # as many as there are examples
    assert exchanged(crops, N) is None


def test_rows_that_differ_in_one_of_two_tensors_have_changed():
    batch, moved = exchanged([torch.ones(N, 4), X, torch.ones(2, 4)], N)
    assert moved.any()
    assert ((batch[1] != X).any(1) == moved).all()


@pytest.mark.parametrize("way", [blocks, turns])
def test_each_view_of_the_examples_is_read_in_their_order(way):
    rows = traced(way)
    for column, expected in enumerate([X, -X, 10 * X]):
        rows.column = column
        assert torch.equal(rows.of(way(X), N).args[0], expected)
        half = way(X[:2])
        assert torch.equal(rows.of(half, 2).args[0], expected[:2])


@pytest.mark.parametrize("way", [blocks, turns])
def test_the_view_that_differs_between_two_readings_is_chosen(way):
    for changed in range(3):
        factors = torch.ones(3)
        factors[changed] = 2.0

        def other(x, factors=factors):
            views = [factor * view for factor, view in zip(factors, (x, -x, 10 * x), strict=True)]
            return given(torch.cat(views) if way is blocks else torch.stack(views, 1).flatten(0, 1))

        rows = traced(way)
        assert rows.choose(way(X), other(X), N)
        assert rows.column == changed
    assert not rows.choose(way(X), way(X), N)
    assert rows.column == 0


def test_of_several_crops_the_largest_that_differs_is_chosen():
    small, large = torch.rand(N, 3, 4, 4), torch.rand(N, 3, 8, 8)
    crops = given([small, large])
    rows = ExampleRows()
    assert rows.choose(crops, given([small, large + 1]), N)
    assert torch.equal(rows.of(crops, N).args[0][0], large)
    assert rows.choose(crops, given([small + 1, large]), N)
    assert torch.equal(rows.of(crops, N).args[0][0], small)
    assert len(rows.of(crops, N).args[0]) == 1
    assert rows.choose(crops, given([small + 1, large + 1]), N)
    assert torch.equal(rows.of(crops, N).args[0][0], large)
    assert not rows.choose(crops, crops, N)


def test_several_rows_for_each_example_in_an_unknown_order_are_named():
    rows = ExampleRows()
    assert rows.unknown(blocks(X), N)
    assert not rows.unknown(given(X), N)
    assert not rows.unknown(given(X[:4]), N)
    assert not rows.unknown(given(torch.rand(N + 1, 4)), N)
    assert not rows.unknown(given([torch.rand(12, 3, 4, 4)] * 2), N)
    assert not rows.unknown(given(torch.arange(N)), N)
    assert not traced(blocks).unknown(blocks(X), N)


def test_the_first_view_is_read_until_another_is_chosen():
    assert torch.equal(traced(blocks).of(blocks(X), N).args[0], X)


def test_without_a_layout_the_input_is_taken_as_it_is():
    assert ExampleRows().of(blocks(X), N).args[0].shape == (3 * N, 4)
    rows = traced(blocks)
    assert torch.equal(rows.of(given(X), N).args[0], X)
    odd = torch.rand(N + 1, 4)
    assert torch.equal(rows.of(given(odd), N).args[0], odd)
    rows = ExampleRows()
    other = exchanged(X, N)
    rows.trace(blocks(X), given(other.batch), other.examples)  # of another size
    assert rows.layout is None
    rows.trace(given([X.view(N, 1, 2, 2)] * 2), given([other.batch.view(N, 1, 2, 2)] * 2), other.examples)
    assert rows.layout is None


@pytest.mark.parametrize(
    ("one", "other", "differs"),
    [
        (torch.ones(N, 4), torch.ones(N, 4), False),
        (torch.ones(N, 4), torch.full((N, 4), 1.0005), False),  # rounding
        (torch.ones(N, 4), torch.full((N, 4), 1.0011), True),
        (torch.full((N, 4), 100.0), torch.full((N, 4), 100.05), False),
        (torch.zeros(N, 4), torch.zeros(N, 4), False),
        (torch.ones(N, 4), torch.ones(N, 5), True),
        (torch.ones(N, 4, dtype=torch.long), torch.full((N, 4), 2), True),
        (torch.full((N, 4), 10**6), torch.full((N, 4), 10**6 + 1), True),  # no rounding of integers
        (torch.full((N, 4), 1j), torch.full((N, 4), 1.0005j), False),
        (torch.full((N, 4), 1j), torch.full((N, 4), 2j), True),
    ],
)
def test_two_readings_differ_beyond_rounding(one, other, differs):
    assert ExampleRows().choose(given(one), given(other), N) == differs


def test_what_has_no_input_differs_in_any_of_its_tensors():
    one, other = torch.arange(N), torch.arange(N) + 1
    rows = ExampleRows()
    assert rows.choose(given(one), given(other), N)
    assert not rows.choose(given(one), given(one), N)
    assert rows.choose(given([one, one]), given([one]), N)
    assert rows.of(given(one), N).args[0] is one
