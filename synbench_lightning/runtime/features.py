"""One feature vector for each example, whatever an encoder returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_ADVICE = (
    "Supported are (N, D) vectors, (N, T, D) tokens, (N, C, H, W) maps, and objects or dicts with `pooler_output` or "
    "`last_hidden_state`. For anything else pass a callable that returns (N, D): `lambda pl_module, x: ...` in the "
    "callback, `lambda x: ...` in `evaluate`, as in `pl_module.encoder(x)[0]` where it is one of several outputs."
)


def feature_matrix(output: Any, batch_size: int) -> Tensor:
    """Reduce an encoder's output for a batch to one vector for each example.

    Args:
        output: ``(N, D)`` features, ``(N, T, D)`` tokens (their mean is taken), ``(N, C, H, W)`` maps (the mean over
            space), or a mapping or object with ``pooler_output`` or else ``last_hidden_state`` of these shapes.
        batch_size: the number N of examples that were fed.

    Returns:
        ``(N, D)`` features in float32 or, where the encoder computes in it, float64.

    Raises:
        TypeError: for an output that is neither, naming its type.
        ValueError: for a tensor of another shape, or one that is not floating-point.

    Example:
        >>> feature_matrix(torch.ones(4, 16, 7, 7), batch_size=4).shape
        torch.Size([4, 16])
    """
    tensor = _tensor_in(output)
    if tensor.is_nested or tensor.layout is not torch.strided:
        kind = "nested tensor: pad it" if tensor.is_nested else f"tensor of layout {tensor.layout}: make it dense"
        raise ValueError(f"The encoder returned a {kind} (`to_padded_tensor`, `to_dense`). {_ADVICE}")
    if not tensor.is_floating_point():
        raise ValueError(f"The encoder returned a tensor of {tensor.dtype}; features must be floating-point. {_ADVICE}")
    if tensor.ndim not in (2, 3, 4) or 0 in tensor.shape:
        raise ValueError(f"The encoder returned a tensor of shape {tuple(tensor.shape)}. {_ADVICE}")
    if len(tensor) != batch_size:
        raise ValueError(
            f"The encoder returned a tensor of shape {tuple(tensor.shape)} for {batch_size} examples; its first "
            f"dimension must be the batch. {_ADVICE}"
        )
    tensor = tensor if tensor.dtype == torch.float64 else tensor.float()
    if tensor.ndim == 2:
        return tensor
    return tensor.mean(1) if tensor.ndim == 3 else tensor.mean((2, 3))


def _tensor_in(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    for name in ("pooler_output", "last_hidden_state"):
        value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(value, Tensor):
            return value
    raise TypeError(f"The encoder returned {_described(output)}. {_ADVICE}")


def _described(output: Any) -> str:
    def inner(value: Any) -> str:
        return f"Tensor{tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__

    if isinstance(output, Mapping):
        return f"a {type(output).__name__} of " + ", ".join(f"{key!r}: {inner(value)}" for key, value in output.items())
    if isinstance(output, (tuple, list)):
        return f"a {type(output).__name__} of " + ", ".join(inner(value) for value in output)
    return f"a {type(output).__name__}"
