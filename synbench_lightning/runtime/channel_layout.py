"""Along which axis of an encoder's output its channels are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import nn
from torch.nn.parameter import is_lazy

EXTRA_TOKENS = 5
"""A class token and registers, at most, beside the tokens of the patches."""


class Layout(NamedTuple):
    """The axis of the channels, and another one that is as likely to a reader; ``None`` where there is no doubt."""

    axis: int
    other: int | None


class Widths(NamedTuple):
    """What a module tells of its channels: how wide its layers are, in their order, and the format it declares."""

    layers: tuple[int, ...]
    declared: str | None

    @property
    def largest(self) -> int:
        """Channels of the widest layer; 0 if there is none."""
        return max(self.layers, default=0)

    @classmethod
    def of(cls, module: nn.Module | None) -> Widths:
        """The widths of a module.

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
    """Where the channels are in an output ``(N, ...)`` of at least three axes.

    What counts, in this order: the format that the module declares; that there is one axis only of more than one place;
    that the size is the width of a layer; that the other axes look like space or time, from their sizes alone or beside
    those of the input; the layer that comes last. What is left is read as tokens ``(N, T, D)``, maps ``(N, C, ...)``.

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
    fitting = [axis for axis in known or ends if _is_space(_without(shape, axis), input_shape)]
    likely = known if len(known) == 1 else fitting if len(fitting) == 1 else known or ends
    if len(likely) > 1 and known and not fitting:  # the layer that comes last
        latest = [len(layers) - layers[::-1].index(shape[axis]) for axis in likely]
        likely = [axis for axis, place in zip(likely, latest, strict=True) if place == max(latest)]
    if len(likely) > 1 and ndim > 3 and len({shape[axis] for axis in likely}) > 1:
        likely = [max(likely, key=lambda axis: shape[axis])]
    axis = likely[0] if len(likely) == 1 or usual not in likely else usual
    if axis == usual and (axis in known if len(known) == 1 else len(fitting) == 1):
        return Layout(axis, None)
    return Layout(axis, last if axis == first else first)


def _ends(shape: Sequence[int], input_shape: Sequence[int], layers: Sequence[int]) -> list[int]:
    """Where the channels may be: first or last, unless the first axis is one of the input that is carried through."""
    last = len(shape) - 1
    if not input_shape or shape[1] != input_shape[0] or shape[1] in layers:
        return [1, last]
    if last > len(input_shape):  # tokens of each channel
        return [last]
    return [2, last] if last == 4 else [1, last]  # each frame by itself


def _without(shape: Sequence[int], axis: int) -> tuple[int, ...]:
    return tuple(size for place, size in enumerate(shape) if place not in (0, axis))


def _is_space(sizes: tuple[int, ...], input_shape: Sequence[int]) -> bool:
    """Whether axes of these sizes look like the places of a map, or like the tokens of the input."""
    space = _space_of_input(input_shape)
    if len(sizes) == 1:
        grids = {math.prod(size // patch for size in space) for patch in range(1, min(space, default=0) + 1)}
        return any(sizes[0] - extra in grids for extra in range(EXTRA_TOKENS + 1))
    if sizes[-2] == sizes[-1]:
        return True
    if len(space) < 2:
        return False
    strides = [given / found for given, found in zip(space[-2:], sizes[-2:], strict=True)]
    return max(strides) <= 1.1 * min(strides)


def _space_of_input(input_shape: Sequence[int]) -> tuple[int, ...]:
    """Sizes of an input without its channels, which are the smaller of its first and its last axis."""
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
    """The format of outputs, as ``"NHWC"``, that a module or the only one inside it declares."""
    while True:
        given: Any = getattr(module, "output_fmt", None)
        text = str(getattr(given, "value", given)).upper()
        if text.startswith("N") and text.count("C") == 1:
            return text
        children = list(module.children())
        if len(children) != 1:
            return None
        module = children[0]
