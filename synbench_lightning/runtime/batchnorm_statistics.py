"""Snapshot of the running statistics of normalization layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy


class RunningStatistics:
    """A copy of the running statistics in a module.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> before = RunningStatistics(norm)
        >>> y = norm(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> with before.in_place():
        ...     norm.running_mean.tolist()
        [0.0, 0.0]
        >>> [round(value, 1) for value in norm.running_mean.tolist()]
        [0.2, 0.3]
    """

    def __init__(self, module: nn.Module) -> None:
        layers = (layer for layer in module.modules() if isinstance(layer, _NormBase))
        buffers = [buffer for layer in layers for buffer in layer.buffers(recurse=False) if not is_lazy(buffer)]
        self._kept = [(buffer, buffer.detach().clone()) for buffer in buffers]

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the copied statistics in place inside the context; restore the layers' own afterwards."""
        now = [(buffer, buffer.detach().clone()) for buffer, _ in self._kept]
        try:
            _write(self._kept)
            yield
        finally:
            _write(now)


def _write(values: list[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for buffer, value in values:
            buffer.data.copy_(value)  # bypasses autograd's version counter: a pending backward may need this buffer
