"""Arguments of the wrong kind are refused by name, before anything is done with them."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from contextlib import suppress
from typing import Any


def check_integer(name: str, value: Any, lowest: int) -> int:
    """An integer of at least ``lowest``; truth values are none, numpy's integers are."""
    if not isinstance(value, bool):
        with suppress(TypeError):
            if (integer := operator.index(value)) >= lowest:
                return integer
    raise ValueError(f"`{name}` must be an integer of at least {lowest}, got {value!r}.")


def check_number(
    name: str, value: Any, allowed: str, low: float, high: float = math.inf, *, low_in: bool = True
) -> float:
    """A finite number in [low, high], or in (low, high] with ``low_in=False``; ``allowed`` says so in the error."""
    number = math.nan
    if not isinstance(value, (bool, str)) and hasattr(value, "__float__"):
        number = float(value)
    if not (math.isfinite(number) and low <= number <= high) or (number == low and not low_in):
        raise ValueError(f"`{name}` must be {allowed}, got {value!r}.")
    return number


def check_flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False, got {value!r}.")
    return value


def check_name(name: str, value: Any) -> str:
    """A text that can be a part of a logged key."""
    if not isinstance(value, str) or not value or "/" in value:
        raise ValueError(f"`{name}` must be a non-empty text without '/', got {value!r}.")
    return value


def numbers(name: str, values: Any) -> tuple[float, ...]:
    """A sequence of numbers as floats."""
    listed = list(values) if hasattr(values, "__iter__") and not isinstance(values, str) else None
    if listed is None or any(isinstance(v, (str, bool)) or not hasattr(v, "__float__") for v in listed):
        raise ValueError(f"`{name}` must be a sequence of numbers, got {values!r}.")
    return tuple(float(value) for value in listed)


def check_input_shape(input_shape: Any) -> tuple[int, ...]:
    """The shape of one example: positive integers, at least one."""
    try:
        if not isinstance(input_shape, Sequence) or isinstance(input_shape, str) or not input_shape:
            raise ValueError
        return tuple(check_integer("input_shape", size, 1) for size in input_shape)
    except ValueError:
        raise ValueError(
            "`input_shape` must be the shape of one example without the batch dimension, positive integers as in "
            f"(3, 224, 224), got {input_shape!r}."
        ) from None
