"""Where Gaussian examples enter an encoder: as its input, or as the output of its first embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn


class Proxy(NamedTuple):
    """Gaussian examples ``(N, *shape)``, to be inserted where the encoder takes real-valued vectors."""

    values: Tensor


@dataclass(frozen=True)
class Placement:
    """Where real-valued examples enter an encoder.

    Args:
        kind: ``"input"``: they are the input. ``"complex"``: they are real and imaginary parts of the input.
            ``"integers"``: the input is ``offset + factor * x``, rounded. ``"embedding"``: times ``factor``, they
            replace the output of the first embedding of token ids.
        shape: shape of one real-valued example.
        factor: scale of the examples.
        offset: offset of integer inputs.
        module: path of the embedding in the encoder's module.
    """

    kind: Literal["input", "complex", "integers", "embedding"]
    shape: tuple[int, ...]
    factor: float = 1.0
    offset: float = 0.0
    module: str = ""


def as_input(values: Tensor, placement: Placement, dtype: torch.dtype) -> Tensor:
    """Convert real-valued examples to an input of an encoder that takes ``dtype``."""
    if placement.kind == "complex":
        return torch.view_as_complex(values.contiguous()).to(dtype)
    if placement.kind == "integers":
        limits = torch.iinfo(dtype)
        return (placement.offset + placement.factor * values).round().clamp(limits.min, limits.max).to(dtype)
    return values.to(dtype) if values.dtype == torch.float32 else values  # else set by the precision plugin


class embedding_gives:  # noqa: N801 (a context manager)
    """Context in which the first call of an embedding returns the given vectors."""

    def __init__(self, embedding: nn.Module, vectors: Tensor) -> None:
        self.embedding, self.vectors, self.done = embedding, vectors, False

    def __enter__(self) -> None:
        self.handle = self.embedding.register_forward_hook(self._replace)

    def __exit__(self, *_: Any) -> None:
        self.handle.remove()

    def _replace(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        if self.done or output.shape != self.vectors.shape:
            return None
        self.done = True
        return self.vectors.to(output.dtype)
