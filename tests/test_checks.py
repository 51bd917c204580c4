"""What each check lets through, and what an error says of the rest."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pytest
import torch

from synbench_lightning import checks


def refused(call: Callable, message: str):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize("value", [3, np.int64(3), torch.tensor(3), 2**63 - 1])
def test_integers_of_any_kind_come_back_as_int(value):
    found = checks.check_integer("n", value, 3)
    assert type(found) is int
    assert found == int(value)


@pytest.mark.parametrize("value", [2, True, 3.0, "3", None, 2**63])
def test_other_values_are_no_integers(value):
    refused(lambda: checks.check_integer("n", value, 3), f"`n` must be an integer of at least 3, got {value!r}.")


def test_values_are_shown_by_their_shape_or_cut_after_300_letters():
    assert checks.shown(torch.ones(2, 3)) == "a Tensor (torch.float32) of shape (2, 3)"
    assert checks.shown(np.ones(4)) == "a ndarray (float64) of shape (4,)"
    assert checks.shown(torch.tensor(1.0)) == "tensor(1.)"
    assert checks.shown("a" * 298) == repr("a" * 298)
    assert checks.shown("a" * 299) == "'" + "a" * 299 + "..."

    class Shaped:
        shape = (3,)

    assert checks.shown(Shaped()) == "a Shaped of shape (3,)"


def test_choices_are_strings_of_a_list():
    assert checks.check_choice("c", "b", ("a", "b")) == "b"
    refused(lambda: checks.check_choice("c", "x", ("a", "b", "d")), "`c` must be 'a', 'b' or 'd', got 'x'.")
    refused(lambda: checks.check_choice("c", ["a"], ("a", "b")), "`c` must be 'a' or 'b', got ['a'].")


def test_tensors_of_integers_have_a_length_and_a_range():
    checks.check_integers("t", torch.tensor([[0, -5]]))
    checks.check_integers("t", torch.tensor([0, 2]), length=2, below=3)
    checks.check_integers("t", torch.empty(0, dtype=torch.long), length=0, below=3)
    checks.check_integers("t", torch.tensor([5, 7], dtype=torch.int16), length=2)
    refused(
        lambda: checks.check_integers("t", torch.tensor([5, 7], dtype=torch.uint8), length=2),
        "`t` must not be torch.uint8, which selects as a mask: convert it with `.long()`.",
    )
    for values in (torch.tensor([1.0]), torch.tensor([1j]), torch.tensor([True]), [1], np.array([1])):
        refused(
            lambda values=values: checks.check_integers("t", values, what="one each"),
            f"`t` must be a tensor of integers, one each, got {checks.shown(values)}.",
        )
    refused(
        lambda: checks.check_integers("t", torch.tensor([1]), length=2),
        "`t` must be a tensor of integers of shape (2,), got a Tensor (torch.int64) of shape (1,).",
    )
    refused(
        lambda: checks.check_integers("t", torch.tensor([-1, 4]), length=2),
        "`t` must be integers of at least 0, got values from -1 to 4.",
    )
    refused(
        lambda: checks.check_integers("t", torch.tensor([0, 3]), length=2, below=3),
        "`t` must be integers from 0 to 2, got values from 0 to 3.",
    )


@pytest.mark.parametrize(
    ("shape", "sizes", "fits"),
    [
        ((3, 4), (None, None), True),
        ((3, 4), (3, None), True),
        ((3, 4), (3, 4), True),
        ((3, 4), (4, None), False),
        ((3, 4), (None,), False),
        ((3, 1), (None, None), True),
        ((3, 0), (None, None), False),
        ((3, 0), (None, 0), True),
        ((), (), True),
        ((2, 3, 4), (..., None), True),
        ((2, 3, 4), (..., 4), True),
        ((2, 3, 4), (..., 3), False),
        ((4,), (..., 4), True),
        ((), (..., None), False),
        ((2, 3, 4), (..., 3, 4), True),
        ((4,), (..., 3, 4), False),
        ((0, 4), (..., 4), True),
    ],
)
def test_tensors_of_real_numbers_have_the_shape_that_is_asked_for(shape, sizes, fits):
    values = torch.ones(shape)
    if fits:
        found = checks.check_floats("x", values, "(a shape)", sizes)
        assert found.dtype == torch.float64
        assert found.shape == shape
    else:
        refused(
            lambda: checks.check_floats("x", values, "(a shape)", sizes),
            f"`x` must be a floating-point tensor (a shape), got {checks.shown(values)}.",
        )


def test_tensors_of_real_numbers_are_dense_floating_and_finite():
    for values in (torch.ones(2, dtype=torch.long), [1.0, 2.0], torch.ones(2) * 1j):
        with pytest.raises(ValueError, match="`x` must be a floating-point tensor"):
            checks.check_floats("x", values, "(n,)", (None,))
    values = torch.tensor([1.0, math.nan, math.inf])
    refused(
        lambda: checks.check_floats("x", values, "(n,)", (None,)),
        "`x` must be finite, got NaN or infinity in 2 of 3 values.",
    )
    assert checks.check_floats("x", values, "(n,)", (None,), finite=False)[0] == 1


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (torch.ones(2).to_sparse(), "a tensor of the layout torch.sparse_coo: convert it with `.to_dense()`"),
        (torch.ones(2, device="meta"), 'a tensor of the device "meta", which has no values: load them'),
    ],
)
def test_a_tensor_without_values_in_memory_is_refused_by_each_check(values, found):
    for check in (
        lambda: checks.check_floats("x", values, "(n,)", (None,)),
        lambda: checks.check_integers("x", values),
        lambda: checks.check_numbers("x", values, "numbers"),
        lambda: checks.check_dense("x", values),
    ):
        refused(check, f"`x` must be dense, got {found}.")
    for other in (torch.ones(2), np.ones(2), None, "text"):
        checks.check_dense("x", other)


def test_a_value_whose_class_cannot_show_it_is_shown_by_its_class():
    class Silent:
        def __repr__(self):
            raise RuntimeError

    assert checks.shown(Silent()) == "a Silent"


def test_a_device_that_is_not_there_is_refused():
    assert checks.check_device("cpu") == torch.device("cpu")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="`device` 'cuda' is not available: "):
            checks.check_device("cuda")


def test_numbers_and_lists_of_them_become_tensors():
    for values in (1, [1, 2], np.ones(2), torch.ones(2, dtype=torch.int8), True):
        assert checks.check_numbers("x", values, "numbers").dtype == torch.float64
    for values in ("1", b"1", torch.ones(2) * 1j, [[1], [1, 2]], None, [10**400], ["a"]):
        refused(
            lambda values=values: checks.check_numbers("x", values, "numbers"),
            f"`x` must be numbers, got {checks.shown(values)}.",
        )


@pytest.mark.parametrize("value", [0, 1, 0.5, np.float32(0.5), torch.tensor(0.5), torch.tensor([0.5])])
def test_a_number_in_its_range_comes_back_as_float(value):
    assert type(checks.check_number("x", value, "a fraction", 0, 1)) is float


@pytest.mark.parametrize("value", [-0.1, 1.1, True, "0.5", None, math.nan, torch.ones(2), 1j, 10**400])
def test_a_number_out_of_its_range_is_refused(value):
    message = f"`x` must be a fraction, got {checks.shown(value)}."
    refused(lambda: checks.check_number("x", value, "a fraction", 0, 1), message)


def test_ends_of_a_range():
    assert checks.check_number("x", 1e300, "positive", 0, low_in=False) == 1e300
    refused(lambda: checks.check_number("x", 0, "positive", 0, low_in=False), "`x` must be positive, got 0.")
    refused(lambda: checks.check_number("x", math.inf, "positive", 0), "`x` must be positive, got inf.")


def test_flags_devices_and_names():
    assert checks.check_flag("f", False) is False
    refused(lambda: checks.check_flag("f", 1), "`f` must be True or False, got 1.")
    assert checks.check_device("cpu") == checks.check_device(torch.device("cpu")) == torch.device("cpu")
    for value in ("nowhere", 3, None):
        with pytest.raises(ValueError, match=r"`device` must be a torch\.device or its name, such as 'cpu'"):
            checks.check_device(value)
    assert checks.check_name("n", "a b") == "a b"
    for value in ("", "a/b", 3):
        refused(
            lambda value=value: checks.check_name("n", value),
            f"`n` must be a non-empty string without '/', got {value!r}.",
        )


def test_sequences_of_numbers():
    assert checks.numbers("x", [1, 2.5]) == checks.numbers("x", torch.tensor([1, 2.5])) == (1.0, 2.5)
    assert checks.numbers("x", ()) == ()
    for value in ("12", b"12", [True], ["1"], 3, [None], [[1, 2]], [10**400], [1, "2"]):
        refused(
            lambda value=value: checks.numbers("x", value),
            f"`x` must be a sequence of numbers, got {checks.shown(value)}.",
        )


def test_shapes_of_one_example():
    assert checks.check_input_shape([3, np.int64(4)]) == (3, 4)
    assert checks.check_input_shape(torch.Size([3])) == (3,)
    for value in ((), "34", b"34", 3, (3, 0), (3.0,), None):
        with pytest.raises(ValueError, match="`input_shape` must be the shape of one example without the batch"):
            checks.check_input_shape(value)


@dataclass
class Inner:
    x: int


@dataclass
class Outer:
    a: int
    b: float
    c: str | None
    d: tuple[int, ...]
    e: tuple[float, str]
    f: Literal["x", "y"]
    g: bool
    h: Inner
    i: tuple[tuple[int, ...], ...] = ()
    j: int = field(default_factory=int)
    k: tuple[str] = ("",)


RIGHT = {"a": 1, "b": 1, "c": None, "d": [1, 2], "e": (1.5, "s"), "f": "x", "g": True, "h": {"x": 1}, "i": [[1], []]}


def test_fields_of_their_type_are_right():
    checks.check_fields(Outer, RIGHT)
    checks.check_fields(Outer, {**RIGHT, "c": "s", "b": 1.5, "d": (), "i": (), "j": 3, "k": ["s"]})


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"a": 1.5}, "a"), ({"a": True}, "a"), ({"b": "1"}, "b"), ({"b": False}, "b"), ({"c": 3}, "c"),
        ({"d": [1, "s"]}, "d"), ({"d": 3}, "d"), ({"d": "12"}, "d"), ({"e": (1.5,)}, "e"), ({"e": ("s", 1.5)}, "e"),
        ({"e": (1.5, "s", 2)}, "e"), ({"f": "z"}, "f"), ({"g": 1}, "g"), ({"h": 3}, "h"), ({"i": [[1], ["s"]]}, "i"),
        ({"j": None}, "j"), ({"k": [1]}, "k"), ({"a": None, "g": "s"}, "a, g"),
    ],
)  # fmt: skip
def test_fields_of_another_type_are_named(change, names):
    refused(lambda: checks.check_fields(Outer, RIGHT | change), f"a Outer has invalid fields: {names}")


def test_missing_and_unknown_fields_are_named():
    few = {name: value for name, value in RIGHT.items() if name not in "ag"}
    refused(lambda: checks.check_fields(Outer, few), "a Outer lacks fields: a, g")
    refused(lambda: checks.check_fields(Outer, {**RIGHT, "z": 1, "y": 2}), "a Outer has unknown fields: y, z")
    refused(lambda: checks.check_fields(Outer, [1]), "a Outer must be a mapping of its fields, got a list")
