"""Infer the channel axis of an encoder's output."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.nn.parameter import is_lazy

EXTRA_TOKENS = 5
"""Maximum number of class and register tokens in addition to the patch tokens."""


class Layout(NamedTuple):
    """The channel axis, and an alternative that is about as plausible; ``None`` if it is unambiguous."""

    axis: int
    other: int | None


class Widths(NamedTuple):
    """The widths of a module's layers, in order, and the output format that it declares."""

    layers: tuple[int, ...]
    declared: str | None

    @property
    def largest(self) -> int:
        """Channels of the widest layer; 0 if there is none."""
        return max(self.layers, default=0)

    @classmethod
    def of(cls, module: nn.Module | None) -> Widths:
        """Collect the widths of a module.

        Example:
            >>> Widths.of(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3))).layers
            (8, 16)
        """
        if module is None:
            return cls((), None)
        layers: list[int] = []
        for submodule in module.modules():
            for width in _widths(submodule):
                if layers[-1:] != [width]:
                    layers.append(width)
        return cls(tuple(layers), _declared(module))


def channel_axis(shape: Sequence[int], input_shape: Sequence[int], widths: Widths) -> Layout:
    """Infer the channel axis of an output ``(N, ...)`` with at least two axes.

    Criteria in order: the format that the module declares; a single axis of size greater than 1; a size equal to the
    width of a layer; other axes that look like space or time, by their sizes alone or compared with the input; the
    last layer of that width. The default is tokens ``(N, T, D)`` or maps ``(N, C, ...)``.

    Example:
        >>> channel_axis((64, 7, 7, 96), (3, 224, 224), Widths((), None))
        Layout(axis=3, other=1)
    """
    ndim = len(shape)
    first, last = 1, ndim - 1
    usual = last if ndim == 3 else first
    if widths.declared is not None and len(widths.declared) == ndim:
        return Layout(widths.declared.index("C"), None)
    wide = [axis for axis in range(1, ndim) if shape[axis] > 1]
    if len(wide) < 2:
        return Layout(wide[0] if wide else usual, None)
    layers = widths.layers
    ends = _ends(shape, input_shape, layers)
    known = [axis for axis in ends if shape[axis] in layers]
    if not known:
        known = [axis for axis in range(2, last) if shape[axis] in layers]
    possible = known or ends
    fitting = [axis for axis in possible if _is_space(_without(shape, axis), input_shape)]
    likely = fitting if len(fitting) == 1 else possible
    if known and not fitting:  # the last layer of that width
        latest = {axis: max(place for place, width in enumerate(layers) if width == shape[axis]) for axis in likely}
        likely = [axis for axis in likely if latest[axis] == max(latest.values())]
    axis = likely[-1] if ndim == 3 else max(likely, key=lambda axis: shape[axis])
    if axis == usual and 1 in (len(known), len(fitting)):
        return Layout(axis, None)
    return Layout(axis, last if axis == first else first)


def _ends(shape: Sequence[int], input_shape: Sequence[int], layers: Sequence[int]) -> list[int]:
    """Candidate channel axes: first or last, unless the first axis is one of the input that is passed through."""
    last = len(shape) - 1
    if not input_shape or shape[1] != input_shape[0] or shape[1] in layers:
        return [1, last]
    if last > len(input_shape):  # tokens of each channel
        return [last]
    return [2, last] if last == 4 else [1, last]  # each frame by itself


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return tuple(size for place, size in enumerate(shape) if place not in (0, axis))


def _is_space(sizes: tuple[int, ...], input_shape: Sequence[int]) -> bool:
    """Whether axes of these sizes look like the positions of a feature map or the tokens of the input."""
    space = _space_of_input(input_shape)
    if len(sizes) == 1:
        patches = (1 + index for index in range(min(space, default=0)))
        grids = {math.prod(size // patch for size in space) for patch in patches}
        return any(sizes[0] - extra in grids for extra in range(EXTRA_TOKENS + 1))
    if sizes[-2] == sizes[-1]:
        return True
    if len(space) < 2:
        return False
    strides = [given / found for given, found in zip(space[-2:], sizes[-2:], strict=True)]
    return max(strides) <= 1.1 * min(strides)


def _space_of_input(input_shape: Sequence[int]) -> tuple[int, ...]:
    """Spatial sizes of an input; the channel axis is the smaller of its first and last axis."""
    if len(input_shape) < 2:
        return tuple(input_shape)
    return tuple(input_shape[1:] if input_shape[0] <= input_shape[-1] else input_shape[:-1])


def _widths(module: nn.Module) -> list[int]:
    if isinstance(module, nn.RNNBase):
        return [(module.proj_size or module.hidden_size) * (1 + module.bidirectional)]
    names = ("out_features", "out_channels", "embedding_dim", "embed_dim")
    named = [width for name in names if type(width := getattr(module, name, None)) is int]
    own = module.parameters(recurse=False)
    vectors = [len(parameter) for parameter in own if not is_lazy(parameter) and parameter.ndim == 1]
    return [width for width in (*named, *vectors) if width > 0]


def _declared(module: nn.Module) -> str | None:
    """The output format, such as ``"NHWC"``, that a module or its only child declares."""
    while True:
        given: Any = getattr(module, "output_fmt", None)
        text = str(getattr(given, "value", given)).upper()
        if text.startswith("N") and text.count("C") == 1:
            return text
        children = list(module.children())
        if len(children) != 1:
            return None
        module = children[0]
