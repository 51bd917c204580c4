"""Real-valued examples as the input of an encoder, and in the place of an embedding's output."""

from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import nn

from synbench_lightning.runtime.input_leaf import InputLeaf
from synbench_lightning.runtime.placements import Placement, as_input, embedding_gives


def test_integers_are_rounded_and_end_at_the_limits_of_their_type():
    values = torch.tensor([[-2.6, 0.2, 1.4], [-300.0, 300.0, 4.0]])
    assert as_input(values, Placement("integers", (3,)), torch.int64).tolist() == [[-3, 0, 1], [-300, 300, 4]]
    pictures = as_input(values, Placement("integers", (3,), factor=10.0, offset=100.0), torch.uint8)
    assert pictures.tolist() == [[74, 102, 114], [0, 255, 140]]


def test_pairs_of_values_are_the_parts_of_complex_inputs():
    found = as_input(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), Placement("complex", (2, 2)), torch.complex64)
    assert found.tolist() == [[1 + 2j, 3 + 4j]]


def test_inputs_take_the_data_type_of_training_unless_the_precision_plugin_has_set_another():
    values, placement = torch.rand(2, 3), Placement("input", (3,))
    assert as_input(values, placement, torch.float64).dtype == torch.float64
    assert as_input(values.half(), placement, torch.float64).dtype == torch.float16


def test_the_first_output_of_the_embedding_that_has_the_shape_is_replaced():
    embedding, vectors = nn.Embedding(9, 4).double(), torch.rand(2, 5, 4)
    positions, ids = torch.arange(5), torch.arange(10).reshape(2, 5) % 9
    with embedding_gives(embedding, vectors):
        of_positions, first, second = embedding(positions), embedding(ids), embedding(ids)
    assert torch.equal(first, vectors.double())
    for found, given in ((of_positions, positions), (second, ids), (embedding(ids), ids)):
        assert torch.equal(found, embedding.weight[given])


def test_what_a_call_was_seen_with_is_not_changed():
    placement, leaf = Placement("input", (3,)), InputLeaf((), (3, 2), 5)
    assert as_input(torch.rand(leaf.rows, 3), placement, leaf.dtype).shape == (5, 3)
    assert leaf.numel == 6
    for value in (placement, leaf):
        with pytest.raises(FrozenInstanceError):
            value.shape = (4,)
