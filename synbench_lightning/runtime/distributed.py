"""What the processes of a run have to say to each other during a probe."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from lightning.pytorch.strategies import Strategy
from torch import Tensor

T = TypeVar("T")


class Processes(Protocol):
    """The processes that share a probe. Every method is a collective: all of them call it, in the same order."""

    rank: int
    size: int

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of the tensor over all processes, on each of them."""
        ...

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one process."""
        ...

    def same(self, value: T) -> T:
        """The value of the first process, on each of them."""
        ...


class SingleProcess:
    """One process: nothing has to be said."""

    rank = 0
    size = 1

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def any(self, flag: bool) -> bool:
        return flag

    def same(self, value: T) -> T:
        return value


class StrategyProcesses:
    """The processes of a Lightning strategy, through its own collectives."""

    def __init__(self, strategy: Strategy, rank: int, size: int) -> None:
        self.strategy, self.rank, self.size = strategy, rank, size

    def sum(self, tensor: Tensor) -> Tensor:
        reduced: Any = self.strategy.reduce(tensor, reduce_op="sum")
        return reduced  # type: ignore[no-any-return]

    def any(self, flag: bool) -> bool:
        return self.strategy.reduce_boolean_decision(flag, all=False)

    def same(self, value: T) -> T:
        return self.strategy.broadcast(value)
