"""Track which calls consume the outputs of others, through the autograd graph."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

MOST_NODES = 64  # mutants: memory and time alone
"""Maximum number of operations that are followed back from a call."""
KEY = "synbench_lightning.call"


class DataFlow:
    """Marks the outputs of calls, and finds the marks behind the inputs of later calls.

    The marks are metadata of autograd nodes and vanish with the graph; nothing is kept alive. In reentrant activation
    checkpointing a module is called without a graph, and its output becomes part of one afterwards: such tensors are
    marked themselves.

    Example:
        >>> import torch
        >>> flow, encoder, head = DataFlow(), torch.nn.Linear(3, 2), torch.nn.Linear(2, 1)
        >>> z = encoder(torch.ones(4, 3))
        >>> flow.mark("encoder", [z])
        >>> flow.sources([z.relu().mean(0)])
        {'encoder'}
    """

    def __init__(self) -> None:
        self._without_graph = WeakTensorKeyDictionary()

    def mark(self, key: Any, outputs: Iterable[Tensor]) -> None:
        """Mark tensors as outputs of a call; a tensor may be marked by several calls."""
        for tensor in outputs:
            if tensor.grad_fn is not None:
                _metadata(tensor.grad_fn).setdefault((KEY, id(self)), set()).add(key)
            else:
                self._without_graph.setdefault(tensor, set()).add(key)

    def sources(self, tensors: Iterable[Tensor]) -> set[Any]:
        """The calls whose outputs these tensors were computed from, without another call in between."""
        found: set[Any] = set()
        ahead = []
        for tensor in tensors:
            if tensor.grad_fn is None:
                continue
            if tensor in self._without_graph:
                found |= self._without_graph[tensor]
            else:
                ahead.append(tensor.grad_fn)
        for _ in range(MOST_NODES):
            if not ahead:
                break
            node = ahead.pop(0)
            if (keys := _metadata(node).get((KEY, id(self)))) is not None:
                found |= keys
            else:
                ahead += [before for before, _ in node.next_functions if before is not None]
        return found


def _metadata(node: Any) -> dict[Any, Any]:
    found: dict[Any, Any] = node.metadata
    return found
