"""Nested arguments: tensors in tuples, lists, mappings, dataclasses and other objects."""

import zlib
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch

from synbench_lightning.runtime.structures import (
    Arguments,
    at,
    checksum,
    described,
    detached,
    is_plain,
    is_ragged,
    joined,
    leaves,
    mapped,
    moved,
    replaced,
    taken,
    tensors_in,
)

Point = namedtuple("Point", "x y")


@dataclass(frozen=True)
class Sample:
    image: torch.Tensor
    label: int = 1


class Graph:
    """As those of torch_geometric: it cannot be rebuilt with another tensor."""

    def __init__(self, x):
        self.x = x

    def to_dict(self):
        return {"x": self.x}

    def to(self, device):
        return Graph(self.x.to(device))


@dataclass
class Output(OrderedDict):
    """As those of transformers: a dataclass, and a mapping of what is set in it."""

    x: torch.Tensor | None = None
    loss: torch.Tensor | None = None

    def __post_init__(self):
        self.update(x=self.x)


def t(*shape):
    return torch.arange(float(torch.Size(shape).numel())).view(shape)


KINDS = {
    "tensor": (t(4, 2), ()),
    "tuple": ((t(4, 2), None), (0,)),
    "list": (["a", t(4, 2)], (1,)),
    "dict": ({"a": {"b": t(4, 2)}}, ("a", "b")),
    "namedtuple": (Point(1, t(4, 2)), ("y",)),
    "dataclass": (Sample(t(4, 2)), ("image",)),
    "mapping": (UserDict(ids=t(4, 2), n=3), ("ids",)),
    "output": (Output(t(4, 2)), ("x",)),
    "arguments": (Arguments((None,), {"x": [t(4, 2)]}), ("kwargs", "x", 0)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_is_found_at_its_path_replaced_and_mapped_in_the_same_kind_of_structure(kind):
    value, path = KINDS[kind]
    assert [where for where, _ in leaves(value)] == [path]
    assert torch.equal(at(value, path), t(4, 2))
    changed = replaced(value, path, torch.ones(3))
    assert type(changed) is type(value)
    assert torch.equal(at(changed, path), torch.ones(3))
    assert torch.equal(at(value, path), t(4, 2))  # the given one is as it was
    doubled = mapped(value, lambda x: 2 * x)
    assert type(doubled) is type(value)
    assert torch.equal(next(tensors_in(doubled)), 2 * t(4, 2))


@pytest.mark.parametrize("kind", KINDS)
def test_some_examples_of_a_structure_and_joined_again(kind):
    value, path = KINDS[kind]
    parts = [taken(value, torch.tensor(rows), 4) for rows in ([0, 2], [3, 1])]
    assert torch.equal(at(parts[1], path), t(4, 2)[[3, 1]])
    assert torch.equal(at(joined(parts), path), t(4, 2)[[0, 2, 3, 1]])


def test_what_has_another_number_of_rows_is_left_as_it_is():
    value = {"x": t(4, 2), "scale": t(1), "text": "a", "ragged": [t(1, 2), t(1, 3), t(1, 4), t(1, 5)]}
    found = taken(value, torch.tensor([3, 0]), 4)
    assert torch.equal(found["scale"], value["scale"])
    assert found["text"] == "a"
    assert [tuple(one.shape) for one in found["ragged"]] == [(1, 5), (1, 2)]


def test_structures_that_do_not_fit_together_are_not_joined():
    assert joined([{"x": t(2, 3)}, {"x": t(2, 4)}]) is None
    assert joined([{"x": t(2, 3), "mask": t(3, 3)}, {"x": t(2, 3), "mask": t(3, 3) + 1}])["mask"].shape == (6, 3)
    assert joined([{"x": t(2, 3), "n": t()}, {"x": t(2, 3), "n": t() + 1}]) is None
    assert joined([Arguments((t(2, 3),), whole=True)] * 2) is None


def test_objects_that_cannot_be_rebuilt_are_shared_and_moved_by_their_own_method():
    graph = Graph(t(3, 2))
    assert [path for path, _ in leaves([graph])] == [(0, "x")]
    assert list(leaves([graph], within_objects=False)) == []
    assert mapped([graph], lambda x: 2 * x)[0] is graph
    assert moved([graph], "cpu")[0] is not graph
    assert detached(graph).x is graph.x


def test_a_graph_that_is_the_same_in_all_structures_is_kept_when_they_are_joined():
    graph = Graph(t(3, 2))
    whole = joined([{"x": t(2, 3), "graph": graph}, {"x": t(1, 3), "graph": graph}])
    assert whole["graph"] is graph
    assert len(whole["x"]) == 3


def test_one_structure_is_joined_as_it_is_and_two_of_different_keys_or_values_are_not():
    one = {"x": t(2, 3)}
    assert joined([one]) is one
    assert joined([one, {"y": t(2, 3)}]) is None
    assert joined([one, {"x": ""}]) is None
    assert joined([[t(2, 3), "a"], [t(2, 3), "b"]]) is None


def test_an_object_is_moved_if_it_can_be_and_searched_if_it_is_a_graph():
    class Movable:
        def to(self, device):
            self.device = device
            return self

    class Described:
        x = t(2)

        def to_dict(self):
            return {"x": self.x}

    movable, described = Movable(), Described()
    assert moved(movable, "meta").device == "meta"
    assert detached(movable).device == "cpu"
    assert movable.device == "meta"
    assert moved(described, "cpu") is described
    assert torch.equal(detached(described).x, described.x)
    assert list(leaves([movable, described])) == []


@pytest.mark.parametrize(
    ("shapes", "ragged"),
    [
        ([(3, 4), (3, 5)], True), ([(3, 4), (3, 5), (3, 6)], True), ([(3, 4), (3, 4)], False), ([(3, 4)], False),
        ([(3, 4), (2, 4)], False), ([(3, 4), (2, 5), (2, 6)], False), ([], False),
    ],
)  # fmt: skip
def test_a_list_is_ragged_where_its_tensors_differ_but_for_their_channels(shapes, ragged):
    assert is_ragged([t(*shape) for shape in shapes]) == ragged


def test_a_detached_structure_shares_no_memory():
    value = {"x": t(2, 2).requires_grad_()}
    found = detached(value)
    value["x"].data.zero_()
    assert torch.equal(found["x"], t(2, 2))
    assert not found["x"].requires_grad


def test_plain_structures_are_safe_in_checkpoints_and_others_are_not():
    assert is_plain({"a": [1, 2.0, "b", None, True, (t(2),)]})
    assert not any(map(is_plain, (Sample(t(2)), UserDict(), {1: 2}, object(), Point(1, 2))))


def test_a_checksum_changes_with_any_value():
    value = {"x": t(2, 2), "z": torch.ones(2, dtype=torch.complex64), "ids": torch.ones(2).long()}
    sums = {checksum(mapped(value, lambda x: x)), checksum(replaced(value, ("ids",), torch.tensor([1, 2])))}
    sums.add(checksum(replaced(value, ("z",), 1j * value["z"])))
    assert len(sums) == 3
    assert checksum(value) in sums
    assert checksum([t(3), "text"]) == f"{zlib.crc32(bytes.fromhex('000000000000803f00000040')):08x}"  # 0, 1, 2


def test_a_structure_in_a_message():
    value = Arguments((t(2, 3), None), {"mask": [torch.ones(2).bool()], "mode": "a", "graph": Graph(t(1))})
    assert described(value) == "(float32(2, 3), None, mask=[bool(2,)], mode='a', graph=Graph)"


def test_a_message_describes_mappings_and_the_first_parts_of_long_lists():
    assert described({"x": t(2), "mode": "a"}) == "{x: float32(2,), mode: 'a'}"
    assert described([1] * 6) == "[1, 1, 1, 1, 1, 1]"
    assert described([1] * 1007) == "[1, 1, 1, 1, 1, 1, ... 1,001 more]"


def test_parts_that_have_no_rows_are_joined_if_they_are_equal():
    one, other = torch.rand(3, 2), torch.rand(4, 2)
    whole = joined([[one, torch.tensor(2.0), torch.ones(2, 5)], [other, torch.tensor(2.0), torch.ones(3, 5)]])
    assert torch.equal(whole[0], torch.cat([one, other]))
    assert whole[1] == 2.0
    assert whole[2].shape == (5, 5)
    assert joined([[one, torch.tensor(2.0)], [other, torch.tensor(3.0)]]) is None
    assert joined([[one, torch.ones(2, 3)], [other, torch.ones(2, 4)]]) is None
    assert joined([[one], [other, one]]) is None
