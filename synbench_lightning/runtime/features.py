"""Reduce the output of any encoder to one feature vector per example."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from torch import Tensor, float64, nn, strided, view_as_real

from synbench_lightning.runtime.channel_layout import Widths, channel_axis
from synbench_lightning.runtime.lightning_packages import rank_zero_info, rank_zero_warn
from synbench_lightning.runtime.token_masks import Masked

NAMES = (
    "pooler_output",
    "image_embeds",
    "text_embeds",
    "audio_embeds",
    "x_norm_clstoken",
    "last_hidden_state",
    "x_norm_patchtokens",
    "feature_maps",
    "out",
    "mean",
    "mu",
    "loc",
)
"""Names of the representation in the outputs of well-known libraries, by precedence."""

_ADVICE = (
    "Supported are (N, D) vectors, (N, T, D) tokens, (N, C, ...) maps with the channels first or last, and objects, "
    "dicts or lists of these. For anything else pass a callable that returns (N, D), such as `lambda pl_module, x: "
    "pl_module.encoder(x)[0]` in the callback or `lambda x: encoder(x)[0]` in `evaluate`."
)

MANY_CHANNELS = 16
"""An encoder with a layer at least this wide is unlikely to have one- or two-dimensional features."""


def module_behind(forward: Callable[..., Any]) -> nn.Module | None:
    """The module that a callable runs, as far as can be inferred: itself, the owner of a method, an argument."""
    bound = forward.args if isinstance(forward, partial) else (getattr(forward, "__self__", None),)
    return next((found for found in (forward, *bound) if isinstance(found, nn.Module)), None)


class FeatureReader:
    """Reduces an encoder's outputs to one feature vector per example, in the same way in every call.

    The first output determines which of several outputs is the representation, and its channel axis. If that is
    ambiguous, the choice is logged, and how to change it.

    Args:
        module: the encoder, whose attributes and layers determine the channel axis; ``None`` for a function.
        announce: whether to log ambiguous choices.

    Example:
        >>> import torch
        >>> read = FeatureReader(torch.nn.Conv2d(3, 16, 3))
        >>> read(torch.ones(4, 16, 7, 7), batch_size=4, input_shape=(3, 9, 9)).shape
        torch.Size([4, 16])
    """

    def __init__(self, module: nn.Module | None, announce: bool = True) -> None:
        self._widths = Widths.of(module)
        self._announce = announce
        self._path: tuple[Any, ...] | None = None
        self._axes: dict[int, int] = {}

    def __call__(self, output: Any, batch_size: int | None, input_shape: Sequence[int] = ()) -> Tensor:
        """Pool an output to features ``(N, D)``, in float32 or, if the encoder computes in it, float64.

        Args:
            output: features ``(N, D)``, tokens ``(N, T, D)``, maps or videos ``(N, C, ...)``, or these with another
                channel axis, averaged over all other axes (with a token mask, over the valid tokens); or an object,
                mapping or sequence that contains such tensors: the one with a known name (:data:`NAMES`), else the
                deepest of several maps, else the first.
            batch_size: the number N of examples; ``None`` if unknown.
            input_shape: shape of one example, if known.

        Raises:
            TypeError: for an output without such a tensor, naming its type.
            ValueError: for a tensor of another shape, or one that is not floating-point.
        """
        mask = None
        if isinstance(output, Masked):
            output, mask = output
        if self._path is None:
            self._path = self._chosen(output, batch_size)
        tensor = _at(output, self._path)
        if not isinstance(tensor, Tensor):
            raise TypeError(f"The encoder returned {_described(output)}, unlike in earlier calls. {_ADVICE}")
        if tensor.is_nested or tensor.layout is not strided:
            kind = "nested tensor: pad it" if tensor.is_nested else f"tensor of layout {tensor.layout}: make it dense"
            raise ValueError(f"The encoder returned a {kind} (`to_padded_tensor`, `to_dense`). {_ADVICE}")
        if not (tensor.is_floating_point() or tensor.is_complex()):
            raise ValueError(
                f"The encoder returned a tensor of {tensor.dtype}; features must be floating-point. {_ADVICE}"
            )
        if tensor.ndim not in (2, 3, 4, 5) or 0 in tensor.shape:
            raise ValueError(f"The encoder returned a tensor of shape {tuple(tensor.shape)}. {_ADVICE}")
        if batch_size is not None and len(tensor) != batch_size:
            raise ValueError(
                f"The encoder returned a tensor of shape {tuple(tensor.shape)} for {batch_size} examples; its first "
                f"dimension must be the batch. {_ADVICE}"
            )
        if tensor.ndim not in self._axes:
            self._axes[tensor.ndim] = self._axis(tensor, input_shape)
        axis = self._axes[tensor.ndim]
        if tensor.is_complex():
            return view_as_real(_pooled(tensor, axis)).flatten(1).float()
        tensor = tensor if tensor.dtype == float64 else tensor.float()
        if mask is not None and tensor.ndim == 3 and axis == 2 and tensor.shape[:2] == mask.shape:
            weights = mask.to(tensor)[..., None]
            return (tensor * weights).sum(1) / weights.sum(1).clamp_min(1)
        return _pooled(tensor, axis)

    def _chosen(self, output: Any, batch_size: int | None) -> tuple[Any, ...]:
        """Path of keys and indices to the representation in an output."""
        if isinstance(output, Tensor):
            return ()
        parts = _parts(output)
        for name in NAMES:
            if isinstance(parts.get(name), (Tensor, tuple, list)):
                return (name, *self._chosen(parts[name], batch_size))
        usable = {key: value for key, value in parts.items() if _usable(value, batch_size)}
        if not usable:
            inside = {
                key: value
                for key, value in parts.items()
                if not isinstance(value, Tensor) and any(_usable(part, batch_size) for part in _parts(value).values())
            }
            if len(inside) == 1:
                ((key, value),) = inside.items()
                return (key, *self._chosen(value, batch_size))
            raise TypeError(f"The encoder returned {_described(output)}. {_ADVICE}")
        keys = list(usable)
        key = keys[0]
        if all(value.ndim > 2 for value in usable.values()):  # stages or layers: fewest positions, the last in a tie
            key = min(reversed(keys), key=lambda key: usable[key][0].numel() / self._channels(usable[key]))
        if len(keys) > 1 and self._announce:
            rank_zero_info(
                f"The encoder returned {_described(output)}: {key!r} is used as the representation. To use another, "
                "pass a callable such as `lambda pl_module, x: "
                f"pl_module.encoder(x)[{next(k for k in keys if k != key)!r}]` in the callback, `lambda x: ...` in "
                "`evaluate`."
            )
        return (key,)

    def _channels(self, maps: Tensor) -> int:
        return maps.shape[channel_axis(tuple(maps.shape), (), self._widths).axis]

    def _axis(self, tensor: Tensor, input_shape: Sequence[int]) -> int:
        shape = tuple(tensor.shape)
        found = channel_axis(shape, tuple(input_shape), self._widths)
        if found.other is not None and self._announce:
            places = _others(tensor.ndim, found.other)
            rank_zero_info(
                f"The encoder's output of shape {('N', *shape[1:])} is read as {shape[found.axis]} channels along axis "
                f"{found.axis}, and the mean over the other axes is taken. If it is {shape[found.other]} channels "
                f"along axis {found.other}, pass `lambda pl_module, x: pl_module.encoder(x).mean({places})` in the "
                f"callback, `lambda x: encoder(x).mean({places})` in `evaluate`.".replace("'N'", "N")
            )
        if self._announce and shape[found.axis] <= 2 and self._widths.largest >= MANY_CHANNELS:
            rank_zero_warn(
                f"The encoder has layers of up to {self._widths.largest} channels, but its output of shape {shape} is "
                f"read as {shape[found.axis]} feature{'s' * (shape[found.axis] > 1)}: does it end in a head? Name the "
                "module before it, or pass a callable that returns its features: `lambda pl_module, x: ...` in the "
                "callback, `lambda x: ...` in `evaluate`."
            )
        return found.axis


def reader_of_layer(layer: nn.Module, network: nn.Module) -> FeatureReader:
    """Reader of a layer's output. The channel axis of an activation follows from the widths of its network."""
    return FeatureReader(layer if list(layer.parameters()) else network, announce=False)


def _others(ndim: int, axis: int) -> tuple[int, ...]:
    return tuple(other for other in range(1, ndim) if other != axis)


def _pooled(tensor: Tensor, axis: int) -> Tensor:
    """The mean over all axes but the batch and the channels."""
    others = _others(tensor.ndim, axis)
    return tensor.mean(others) if others else tensor


def _parts(output: Any) -> dict[Any, Any]:
    """The items of an output, by key, name or index."""
    if isinstance(output, Mapping):
        return dict(output)
    if isinstance(output, tuple) and hasattr(output, "_asdict"):
        return dict(output._asdict())
    if isinstance(output, (tuple, list)):
        return dict(enumerate(output))
    if is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    named = {name: value for name in NAMES if (value := getattr(output, name, None)) is not None}
    return named or dict(getattr(output, "__dict__", {}))


def _at(output: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        output = _parts(output).get(key)
    return output


def _usable(value: Any, batch_size: int | None) -> bool:
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
        return False
    return value.ndim > 1 and batch_size in (None, len(value))


def _described(output: Any) -> str:
    def inner(value: Any) -> str:
        return f"Tensor{tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

    if isinstance(output, Mapping):
        return f"a {type(output).__name__} of " + ", ".join(f"{key!r}: {inner(value)}" for key, value in output.items())
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of " + ", ".join(inner(value) for value in output)
    return f"a {type(output).__name__}"
