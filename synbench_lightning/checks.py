"""Arguments of the wrong kind are refused by name, before anything is done with them."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch

LONGEST = 300
"""Characters of a value that an error shows."""


def shown(value: Any) -> str:
    """A value in an error: arrays by their shape, and nothing at length."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and len(shape):
        kind = getattr(value, "dtype", None)
        return f"a {type(value).__name__}{'' if kind is None else f' ({kind})'} of shape {tuple(shape)}"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def check_integer(name: str, value: Any, lowest: int) -> int:
    """An integer of at least ``lowest``; truth values are none, numpy's integers are."""
    if not isinstance(value, bool):
        with suppress(TypeError):
            if (integer := operator.index(value)) >= lowest:
                return integer
    raise ValueError(f"`{name}` must be an integer of at least {lowest}, got {shown(value)}.")


def check_integers(name: str, values: Any) -> None:
    """A tensor of integers."""
    dtype = getattr(values, "dtype", None)
    if not isinstance(dtype, torch.dtype) or dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
        raise ValueError(f"`{name}` must be a tensor of integers, got {shown(values)}.")


def check_number(
    name: str, value: Any, allowed: str, low: float, high: float = math.inf, *, low_in: bool = True
) -> float:
    """A finite number in [low, high], or in (low, high] with ``low_in=False``; ``allowed`` says so in the error."""
    number = math.nan
    if not isinstance(value, (bool, str)) and hasattr(value, "__float__"):
        number = float(value)
    if not (math.isfinite(number) and low <= number <= high) or (number == low and not low_in):
        raise ValueError(f"`{name}` must be {allowed}, got {shown(value)}.")
    return number


def check_flag(name: str, value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False, got {shown(value)}.")
    return value


def check_name(name: str, value: Any) -> str:
    """A text that can be a part of a logged key."""
    if not isinstance(value, str) or not value or "/" in value:
        raise ValueError(f"`{name}` must be a non-empty text without '/', got {shown(value)}.")
    return value


def numbers(name: str, values: Any) -> tuple[float, ...]:
    """A sequence of numbers as floats."""
    listed = list(values) if hasattr(values, "__iter__") and not isinstance(values, str) else None
    if listed is None or any(isinstance(v, (str, bool)) or not hasattr(v, "__float__") for v in listed):
        raise ValueError(f"`{name}` must be a sequence of numbers, got {shown(values)}.")
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
            f"(3, 224, 224), got {shown(input_shape)}."
        ) from None


def check_fields(kind: type, values: Any) -> None:
    """The fields of a dataclass as plain types: all that have no default, no others, each of its type."""
    if not isinstance(values, Mapping):
        raise ValueError(f"a {kind.__name__} must be a mapping of its fields, got a {type(values).__name__}")
    known, hints = {field.name: field for field in fields(kind)}, get_type_hints(kind)
    missing = [
        name
        for name, field in known.items()
        if name not in values and field.default is MISSING and field.default_factory is MISSING
    ]
    wrong = [name for name, value in values.items() if name in known and not _fits(value, hints[name])]
    for what, names in (("misses", missing), ("has unknown", values.keys() - known.keys()), ("has unusable", wrong)):
        if names:
            raise ValueError(f"a {kind.__name__} {what} fields: {', '.join(sorted(map(str, names)))}")


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return value in inner
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            return False
        hints = inner[:1] * len(value) if inner[-1] is ... else inner
        return len(hints) == len(value) and all(map(_fits, value, hints))
    if is_dataclass(hint):
        return isinstance(value, Mapping)
    return isinstance(value, (float, int) if hint is float else hint) and (hint is bool or not isinstance(value, bool))
