"""Which of the tensors that a module is called with is its input."""

from collections import UserDict

import pytest
import torch

from synbench_lightning.runtime.input_leaf import InputLeaf, input_leaf, num_examples
from synbench_lightning.runtime.structures import Arguments

IDS, MASK = torch.ones(8, 6).long(), torch.ones(8, 6)
IMAGES = torch.rand(8, 3, 4, 4)


@pytest.mark.parametrize(
    ("arguments", "path", "shape"),
    [
        (Arguments((IMAGES,)), ("args", 0), (3, 4, 4)),
        (Arguments((True, None), {"scale": torch.ones(8), "images": IMAGES}), ("kwargs", "images"), (3, 4, 4)),
        (Arguments((), {"attention_mask": MASK, "input_ids": IDS}), ("kwargs", "input_ids"), (6,)),
        (Arguments((MASK, IDS)), ("args", 1), (6,)),  # zeros and ones beside ids are a mask
        (Arguments((MASK.tril(), IDS)), ("args", 1), (6,)),
        (Arguments((2 * MASK, IDS)), ("args", 0), (6,)),  # other values are not
        (Arguments((IDS, IMAGES)), ("args", 1), (3, 4, 4)),  # real vectors before ids
        (Arguments((UserDict(ids=IDS),)), ("args", 0, "ids"), (6,)),
        (Arguments(({"image": IMAGES, "label": torch.arange(8)},)), ("args", 0, "image"), (3, 4, 4)),
        (Arguments((IMAGES.bool(), IMAGES.byte())), ("args", 1), (3, 4, 4)),
        (Arguments((torch.fft.rfft(IMAGES),)), ("args", 0), (3, 4, 3)),
    ],
)
def test_the_first_real_tensor_counts_and_else_the_first_of_integers(arguments, path, shape):
    leaf = input_leaf(arguments)
    assert (leaf.path, leaf.shape, leaf.rows, leaf.listed) == (path, shape, 8, False)
    assert leaf.numel == torch.Size(shape).numel()


@pytest.mark.parametrize("arguments", [(), (torch.rand(8),), (torch.rand(0, 4),), ("text", 3), (MASK.bool(),)])
def test_no_tensor_of_examples_is_no_input(arguments):
    assert input_leaf(Arguments(arguments)) is None


def test_a_list_of_crops_is_one_input_and_a_list_of_examples_is_none():
    crops = [torch.rand(8, 3, 2, 2), IMAGES]
    assert input_leaf(Arguments((crops,))) == InputLeaf(("args", 0), (3, 4, 4), 8, listed=True)
    for image in ((4,), (4, 5)):
        assert input_leaf(Arguments((list(torch.rand(3, 3, *image)),))) is None
    many = list(torch.rand(3, 3, 3, 4, 4))  # no detector takes examples of four axes
    assert input_leaf(Arguments((many,))) == InputLeaf(("args", 0), (3, 4, 4), 3, listed=True)


@pytest.mark.parametrize("other", [torch.rand(8, 5), torch.rand(4, 3, 2, 2), "text", None])
def test_a_list_of_anything_else_is_not_one_of_crops(other):
    assert input_leaf(Arguments(([IMAGES, other],))) is None


def test_the_smallest_input_is_one_number_of_one_example():
    assert input_leaf(Arguments((torch.rand(1, 1),))) == InputLeaf(("args", 0), (1,), 1)


def test_what_cannot_be_taken_apart_has_no_input():
    assert input_leaf(Arguments((IMAGES,), whole=True)) is None
    assert num_examples(Arguments((IMAGES,), whole=True)) is None


def test_what_is_in_a_graph_cannot_be_replaced_and_is_no_input():
    class Graph:
        def to_dict(self):
            return {"x": IMAGES}

        def to(self, device):
            return self

    assert input_leaf(Arguments((Graph(),))) is None


def test_examples_are_counted_where_that_can_be_seen():
    class Graphs:
        num_graphs = 5

    ragged = [torch.rand(3, 4, size) for size in (2, 3, 4)]
    assert [num_examples(one) for one in (IMAGES, {"ids": IDS}, Graphs(), ragged, "text")] == [8, 8, 5, 3, None]


def test_integers_are_token_ids_or_pictures_in_integers():
    assert [input_leaf(Arguments((x,))).is_integer for x in (IMAGES, IDS, IMAGES.byte())] == [False, True, True]


def test_the_batch_axis_is_the_first_unless_a_module_takes_time_first():
    steps = torch.rand(7, 4, 3)
    leaf = input_leaf(Arguments((steps,)))
    assert (leaf.axis, leaf.shape, leaf.rows) == (0, (4, 3), 7)
    assert leaf.time_first(steps) == InputLeaf(("args", 0), (7, 3), 4, axis=1)
