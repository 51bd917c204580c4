"""Argument validation: errors that name the argument, its value and what is allowed."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

LONGEST = 300
"""Longer representations of a value are truncated in errors."""


def shown(value: Any) -> str:
    """Format a value for an error message: arrays by type and shape, everything else truncated."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and len(shape):
        kind = getattr(value, "dtype", None)
        return f"a {type(value).__name__}{'' if kind is None else f' ({kind})'} of shape {tuple(shape)}"
    try:
        text = repr(value)
    except Exception:  # whatever the class does there
        text = f"a {type(value).__name__}"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def is_integer(values: Tensor) -> bool:
    """Whether a tensor holds integers, which booleans are not."""
    return not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)


def check_integer(name: str, value: Any, lowest: int) -> int:
    """Return a 64-bit integer of at least ``lowest``; NumPy integers are accepted, booleans are not."""
    if not isinstance(value, bool):
        with suppress(TypeError):
            if lowest <= (integer := operator.index(value)) < 2**63:
                return integer
    raise ValueError(f"`{name}` must be an integer of at least {lowest}, got {shown(value)}.")


def check_dense(name: str, values: Any) -> None:
    """Refuse a tensor without a value for each element in memory; anything else is accepted."""
    if not isinstance(values, Tensor):
        return
    if values.is_nested:
        found = "a nested tensor, whose rows differ in shape: pad them to one"
    elif values.layout != torch.strided:
        found = f"a tensor of the layout {values.layout}: convert it with `.to_dense()`"
    elif values.is_quantized:
        found = "a quantized tensor: convert it with `.dequantize()`"
    elif values.is_meta:
        found = 'a tensor of the device "meta", which has no values: load them'
    else:
        return
    raise ValueError(f"`{name}` must be dense, got {found}.")


def check_choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """Return a string that is one of ``choices``."""
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(map(repr, choices[:-1])) + f" or {choices[-1]!r}"
        raise ValueError(f"`{name}` must be {listed}, got {shown(value)}.")
    return value


def check_integers(
    name: str, values: Any, *, what: str = "", length: int | None = None, below: int | None = None
) -> None:
    """Require a tensor of integers; with ``length``, of that many, each in ``[0, below)``. ``what`` describes them."""
    check_dense(name, values)
    dtype = getattr(values, "dtype", None)
    real = isinstance(dtype, torch.dtype) and not (dtype.is_floating_point or dtype.is_complex)
    if not real or dtype == torch.bool or (length is not None and values.shape != (length,)):
        shape = "" if length is None else f" of shape {(length,)}"
        raise ValueError(f"`{name}` must be a tensor of integers{shape}{what and f', {what}'}, got {shown(values)}.")
    if dtype == torch.uint8 and length is not None:
        raise ValueError(f"`{name}` must not be torch.uint8, which selects as a mask: convert it with `.long()`.")
    if length and (int(values.min()) < 0 or (below is not None and int(values.max()) >= below)):
        limit = "of at least 0" if below is None else f"from 0 to {below - 1}"
        raise ValueError(
            f"`{name}` must be integers {limit}, got values from {int(values.min())} to {int(values.max())}."
        )


def check_floats(name: str, values: Any, what: str, shape: Sequence[Any], *, finite: bool = True) -> Tensor:
    """Return a floating-point tensor as float64.

    Args:
        name: name of the argument.
        values: its value.
        what: the shape in words, such as ``"(samples, dimensions)"``.
        shape: sizes; ``None`` for any size of at least 1, a leading ``...`` for any further dimensions.
        finite: whether to refuse NaN and infinity.
    """
    check_dense(name, values)
    sizes = [size for size in shape if size is not ...]
    fits = isinstance(values, Tensor) and values.is_floating_point()
    if fits:
        own = values.shape[values.ndim - len(sizes) :] if len(sizes) < len(shape) else values.shape
        fits = values.ndim >= len(sizes) == len(own) and all(
            found > 0 if size is None else found == size for found, size in zip(own, sizes, strict=True)
        )
    if not fits:
        raise ValueError(f"`{name}` must be a floating-point tensor {what}, got {shown(values)}.")
    if finite and not bool(torch.isfinite(values).all()):
        bad = int((~torch.isfinite(values)).sum())
        raise ValueError(f"`{name}` must be finite, got NaN or infinity in {bad} of {values.numel()} values.")
    return cast(Tensor, values).double()


def check_numbers(name: str, values: Any, what: str) -> Tensor:
    """Return a number, a sequence of numbers or a tensor as a float64 tensor."""
    check_dense(name, values)
    try:
        if isinstance(values, (str, bytes)) or (isinstance(values, Tensor) and values.is_complex()):
            raise TypeError
        return torch.as_tensor(values, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"`{name}` must be {what}, got {shown(values)}.") from None


def check_number(
    name: str, value: Any, allowed: str, low: float, high: float = math.inf, *, low_in: bool = True
) -> float:
    """Return a finite number in [low, high], or (low, high] with ``low_in=False``; errors say ``allowed``."""
    number = math.nan
    if not isinstance(value, (bool, str)) and hasattr(value, "__float__"):
        with suppress(TypeError, ValueError, RuntimeError, OverflowError):  # an array of several, for one
            number = float(value)
    if not (math.isfinite(number) and low <= number <= high) or (number == low and not low_in):
        raise ValueError(f"`{name}` must be {allowed}, got {shown(value)}.")
    return number


def check_flag(name: str, value: Any) -> bool:
    """Return a boolean."""
    if not isinstance(value, bool):
        raise ValueError(f"`{name}` must be True or False, got {shown(value)}.")
    return value


def check_device(device: Any) -> torch.device:
    """Return the :class:`torch.device` for a device or its name."""
    found = None
    with suppress(RuntimeError):
        found = torch.device(device) if isinstance(device, (str, torch.device)) else None
    if found is None:
        raise ValueError(
            f"`device` must be a torch.device or its name, such as 'cpu' or 'cuda:0', got {shown(device)}."
        )
    try:
        torch.empty((), device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"`device` {str(found)!r} is not available: {error}") from error
    return found


def check_name(name: str, value: Any) -> str:
    """Return a string that can be part of a logged key."""
    if not isinstance(value, str) or not value or "/" in value:
        raise ValueError(f"`{name}` must be a non-empty string without '/', got {shown(value)}.")
    return value


def numbers(name: str, values: Any) -> tuple[float, ...]:
    """Return a sequence of numbers as floats."""
    with suppress(TypeError, ValueError, RuntimeError, OverflowError):
        listed = None if isinstance(values, (str, bytes)) else list(values)
        if listed is not None and not any(isinstance(value, (str, bool)) for value in listed):
            return tuple(float(value) for value in listed)
    raise ValueError(f"`{name}` must be a sequence of numbers, got {shown(values)}.")


def check_input_shape(input_shape: Any) -> tuple[int, ...]:
    """Return the shape of one example as a non-empty tuple of positive integers."""
    try:
        if not isinstance(input_shape, Sequence) or isinstance(input_shape, (str, bytes)) or not input_shape:
            raise ValueError
        return tuple(check_integer("input_shape", size, 1) for size in input_shape)
    except ValueError:
        raise ValueError(
            "`input_shape` must be the shape of one example without the batch dimension, positive integers such as "
            f"(3, 224, 224), got {shown(input_shape)}."
        ) from None


def check_fields(kind: type, values: Any) -> None:
    """Require a mapping to hold the fields of a dataclass: all without a default, no unknown ones, each of its type."""
    if not isinstance(values, Mapping):
        raise ValueError(f"a {kind.__name__} must be a mapping of its fields, got a {type(values).__name__}")
    known, hints = {field.name: field for field in fields(kind)}, get_type_hints(kind)
    missing = [
        name
        for name, field in known.items()
        if name not in values and field.default is MISSING and field.default_factory is MISSING
    ]
    wrong = [name for name, value in values.items() if name in known and not _fits(value, hints[name])]
    for what, names in (("lacks", missing), ("has unknown", values.keys() - known.keys()), ("has invalid", wrong)):
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
