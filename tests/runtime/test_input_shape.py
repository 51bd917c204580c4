from dataclasses import dataclass
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from synbench_lightning.runtime.input_shape import agreed_shape, example_shape, views_of_shape

IMAGES, LABELS = torch.rand(4, 3, 8, 8), torch.arange(4)


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass
class Record:
    x: Tensor
    y: Tensor


@pytest.mark.parametrize(
    "batch",
    [
        IMAGES,
        (IMAGES, LABELS),
        [IMAGES, LABELS],
        ([IMAGES, IMAGES, torch.rand(4, 3, 4, 4)], LABELS),
        ([torch.rand(4, 3, 4, 4), IMAGES], LABELS, ["a.png", "b.png", "c.png", "d.png"]),
        ((LABELS, (IMAGES, LABELS)), {"id": 3}),
        {"anything": LABELS, "target": torch.rand(4, 1), "picture": IMAGES},
        {"mask": torch.ones(4, 8), "views": [IMAGES, IMAGES]},
        Pair(IMAGES, LABELS),
        Record(IMAGES, torch.rand(4)),
        (IMAGES.bfloat16(), LABELS),
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_the_shape_of_the_input_is_found_in_a_batch_of_any_layout(batch):
    assert example_shape(batch, "the batch") == (3, 8, 8)


@pytest.mark.parametrize("shape", [(5,), (2, 100), (16, 32), (3, 4, 8, 8)])
def test_inputs_are_not_only_images(shape):
    assert example_shape((torch.rand(4, *shape), torch.rand(4)), "the batch") == shape


@pytest.mark.parametrize(
    ("batch", "found"),
    [
        ({"input_ids": torch.ones(4, 16).long(), "labels": LABELS}, r"int64\(4, 16\), int64\(4,\)"),
        (LABELS, r"int64\(4,\)"),
        (torch.rand(4), r"float32\(4,\)"),
        ("text", "str"),
        ([], "list"),
    ],
)
def test_a_batch_without_floating_point_inputs_says_how_to_probe_in_embedding_space(batch, found):
    with pytest.raises(ValueError, match=rf"could not be inferred from the batch.*found {found}.*inputs_embeds"):
        example_shape(batch, "the batch")


def test_all_processes_have_the_shape_or_the_error_of_the_first():
    example, batch = torch.rand(2, 5), (IMAGES, LABELS)
    alone = SimpleNamespace(broadcast=lambda value: value)
    assert agreed_shape(alone, None, batch) == (3, 8, 8)
    assert agreed_shape(alone, example, batch) == (5,)
    for given, source in ((None, "the first training batch"), (LABELS, "`example_input_array`")):
        with pytest.raises(ValueError, match=f"could not be inferred from {source}"):
            agreed_shape(alone, given, LABELS)
    assert agreed_shape(SimpleNamespace(broadcast=lambda _: (7,)), example, batch) == (7,)
    with pytest.raises(ValueError, match=r"^of the first$"):
        agreed_shape(SimpleNamespace(broadcast=lambda _: "of the first"), example, batch)


TWO = [torch.rand(4, 3, 8, 8), torch.rand(4, 3, 8, 8)]


@pytest.mark.parametrize(
    "batch",
    [
        torch.stack(TWO, 1),
        (torch.stack(TWO, 1), LABELS),
        (TWO, LABELS),
        {"crops": [*TWO, torch.rand(4, 3, 4, 4)], "label": LABELS},
        (*TWO, TWO[0], torch.rand(2, 3, 8, 8)),  # the same again, and one of other examples
    ],
)
def test_views_of_the_same_examples_belong_together_by_their_place(batch):
    assert torch.equal(views_of_shape(batch, (3, 8, 8)), torch.stack(TWO, 1))


@pytest.mark.parametrize("batch", [IMAGES, (IMAGES, LABELS), [IMAGES, IMAGES.clone()], IMAGES[:, None], LABELS, []])
def test_one_view_of_each_is_none(batch):
    assert views_of_shape(batch, (3, 8, 8)) is None


def test_a_batch_of_one_example_has_a_shape_too():
    assert example_shape([torch.rand(1, 2), torch.rand(1, 3, 4)], "the batch") == (3, 4)
    assert example_shape([torch.rand(1, 3, 4), torch.rand(1, 12)], "the batch") == (3, 4)  # the first of equal ones
