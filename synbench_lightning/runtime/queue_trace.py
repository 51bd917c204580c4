"""Undo what a probe does to a queue between threads."""

from __future__ import annotations

import threading
from collections import deque
from heapq import heappush
from queue import LifoQueue, PriorityQueue, Queue
from typing import Any


class QueueTrace:
    """Records the items that this thread puts into a queue and gets from it, until they are put back.

    What other threads do in the meantime stays.

    Args:
        queue: a queue of any of the three kinds.

    Example:
        >>> queue = Queue()
        >>> queue.put("a"), queue.put("b")
        (None, None)
        >>> trace = QueueTrace(queue)
        >>> queue.get(), queue.put("c")
        ('a', None)
        >>> trace.restore()
        >>> queue.get(), queue.get(), queue.qsize()
        ('a', 'b', 0)
    """

    def __init__(self, queue: Queue[Any]) -> None:
        self._queue, self._thread = queue, threading.get_ident()
        self._taken: list[Any] = []
        self._added: list[Any] = []
        own = vars(queue)
        self._before: dict[str, Any] = {name: own[name] for name in ("_put", "_get") if name in own}  # an outer trace's
        with queue.mutex:  # the three kinds define these methods, which are called one at a time
            own.update(_put=self._putting, _get=self._getting)

    def _putting(self, item: Any) -> None:
        if threading.get_ident() == self._thread:
            self._added.append(item)
        type(self._queue)._put(self._queue, item)

    def _getting(self) -> Any:
        item = type(self._queue)._get(self._queue)
        if threading.get_ident() == self._thread:
            position = _position(self._added, item)
            if position is None:
                self._taken.append(item)
            else:
                del self._added[position]
                self._queue.unfinished_tasks -= 1
        return item

    def restore(self) -> None:
        """Remove what was put, and put back what was taken, at its end of the queue."""
        queue = self._queue
        with queue.mutex:
            del vars(queue)["_put"], vars(queue)["_get"]
            vars(queue).update(self._before)
            items: Any = queue.queue
            for item in self._added:
                position = _position(items, item)
                if position is not None:
                    del items[position]
                    queue.unfinished_tasks -= 1
            if isinstance(queue, PriorityQueue):
                items.sort()  # a heap again
                for item in self._taken:
                    heappush(items, item)
            elif isinstance(queue, LifoQueue):
                items.extend(reversed(self._taken))
            elif isinstance(items, deque):
                items.extendleft(reversed(self._taken))
            queue.not_full.notify_all()
            queue.not_empty.notify_all()


def _position(items: Any, item: Any) -> int | None:
    return next((position for position, one in enumerate(items) if one is item), None)
