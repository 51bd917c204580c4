"""What the processes of a run have to say to each other during a probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from synbench_lightning.runtime.lightning_packages import Strategy, lightning_classes

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""Told the number of examples done and their total on this process."""


class Processes(Protocol):
    """The processes that share a probe. Every method is a collective: all of them call it, in the same order.

    ``rank`` of ``size`` is the share of this one. ``lockstep`` tells that a forward is a collective too.
    """

    rank: int
    size: int
    lockstep: bool

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the tensor over the shares, on each process."""
        ...

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one process."""
        ...

    def broadcast(self, value: T) -> T:
        """The value of the first process, on each of them."""
        ...


class SingleProcess:
    """One process: nothing has to be said."""

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

    Shares are those of the data: processes that hold parts of one tensor (tensor parallelism) have the same share.
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
    """``(rows, ...)`` of which each process makes a part, whole on each of them.

    Args:
        processes: those that share the work; each of them makes this call.
        rows: of all processes.
        device: where the result is.
        make: called once on each process; returns places among the rows and what belongs there. The first process has
            a part at least.

    Raises:
        RuntimeError: on the processes whose part was made, if it failed on another one; there, its own error.
    """
    parts = agreed(processes, make)
    shape, dtype = processes.broadcast((parts[0][1].shape[1:], parts[0][1].dtype) if parts else ((), torch.float32))
    whole = torch.zeros(rows, *shape, dtype=dtype, device=device)
    for place, values in parts:
        whole[place] = values
    return processes.sum(whole)


def agreed(processes: Processes, make: Callable[[], T]) -> T:
    """What ``make`` returns on this process, if it fails on none of them.

    Raises:
        RuntimeError: on the processes on which it did not fail, if it failed on another one; there, its own error.
    """
    found: list[T] = []
    failure: Exception | None = None
    try:
        found.append(make())
    except Exception as error:  # the other processes must hear of it before anybody leaves
        failure = error
    if processes.any(failure is not None):
        raise failure or RuntimeError("Another process failed; its log has the reason.")
    return found[0]
