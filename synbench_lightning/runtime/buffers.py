"""Snapshot of the buffers of a module, which a forward changes: running statistics, power iterations, queues."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from synbench_lightning.runtime.restoring import NotedTensor, noted_tensor, restore_tensor


class Buffers:
    """A copy of all buffers in a module.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> before = Buffers(norm)
        >>> y = norm(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        >>> with before.in_place():
        ...     norm.running_mean.tolist()
        [0.0, 0.0]
        >>> [round(value, 1) for value in norm.running_mean.tolist()]
        [0.2, 0.3]
    """

    def __init__(self, module: nn.Module) -> None:
        self._buffers = [buffer for buffer in module.buffers() if not is_lazy(buffer)]
        self._kept = [noted_tensor(buffer) for buffer in self._buffers]

    def restore(self) -> None:
        """Put the copied values in place."""
        _restore(self._kept)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the copied values in place inside the context; restore the present ones afterwards.

        Autograd does not notice: a pending backward may need a buffer.
        """
        now = [noted_tensor(buffer) for buffer in self._buffers]
        try:
            _restore(self._kept)
            yield
        finally:
            _restore(now)


def _restore(noted: list[NotedTensor]) -> None:
    with torch.no_grad():
        for one in noted:
            restore_tensor(*one)
