"""Collective operations of a probe over the processes of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from synbench_lightning.runtime.lightning_packages import Strategy, lightning_classes

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Called with the number of finished examples and their total on this process."""


class Processes(Protocol):
    """The processes that share a probe. Every method is a collective: all processes call it, in the same order.

    ``rank`` of ``size`` identifies the part of this process. ``lockstep``: a forward of the encoder is a collective,
    too.
    """

    rank: int
    size: int
    lockstep: bool

    def sum(self, tensor: Tensor) -> Tensor:
        """All-reduce: the sum of the tensor over the parts, on each process."""
        ...

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one process."""
        ...

    def broadcast(self, value: T) -> T:
        """The value of the first process, on each process."""
        ...


class SingleProcess:
    """A single process: all collectives are the identity."""

    rank = 0
    size = 1
    lockstep = False

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def any(self, flag: bool) -> bool:
        return flag

    def broadcast(self, value: T) -> T:
        return value


class StrategyProcesses:
    """The processes of a Lightning strategy, through its own collectives.

    Parts are data-parallel ranks: processes that shard one tensor (tensor parallelism) have the same part.
    """

    def __init__(self, strategy: Strategy, world_size: int, lockstep: bool) -> None:
        parallel = isinstance(strategy, lightning_classes("strategies.ParallelStrategy"))
        share: dict[str, Any] = strategy.distributed_sampler_kwargs if parallel else {}  # type: ignore[attr-defined]
        self.strategy, self.lockstep = strategy, lockstep
        self.rank: int = share.get("rank", 0)
        self.size: int = share.get("num_replicas", 1)
        self._holders = world_size // self.size

    def sum(self, tensor: Tensor) -> Tensor:
        reduced: Any = self.strategy.reduce(tensor, reduce_op="sum")
        return reduced / self._holders  # type: ignore[no-any-return]

    def any(self, flag: bool) -> bool:
        return self.strategy.reduce_boolean_decision(flag, all=False)

    def broadcast(self, value: T) -> T:
        return self.strategy.broadcast(value)


def gather_rows(
    processes: Processes, rows: int, device: torch.device, make: Callable[[], Sequence[tuple[slice | Tensor, Tensor]]]
) -> Tensor:
    """All-gather a tensor ``(rows, ...)`` of which each process computes some rows.

    Args:
        processes: processes that share the work; each of them must make this call.
        rows: number of rows over all processes.
        device: device of the result.
        make: called once on each process; returns row indices and their values. That of the first process must not
            be empty.

    Raises:
        RuntimeError: if another process failed; a process that failed itself raises its own error.
    """
    parts = agreed(processes, make)
    shape, dtype = processes.broadcast((parts[0][1].shape[1:], parts[0][1].dtype) if parts else ((), torch.float32))
    whole = torch.zeros(rows, *shape, dtype=dtype, device=device)
    for place, values in parts:
        whole[place] = values
    return processes.sum(whole)


def agreed(processes: Processes, make: Callable[[], T]) -> T:
    """Return the result of ``make`` on this process if it succeeded on all processes.

    Raises:
        RuntimeError: if another process failed; a process that failed itself raises its own error.
    """
    found: list[T] = []
    failure: Exception | None = None
    try:
        found.append(make())
    except Exception as error:  # all processes must learn of it before any of them raises
        failure = error
    if processes.any(failure is not None):
        raise failure or RuntimeError("Another process failed; its log has the reason.")
    return found[0]
