"""Copies of iterators at their present position, for use in a probe in the place of the original."""

from __future__ import annotations

import types
import warnings
from collections.abc import Iterator
from typing import Any


class _NotCopiedError(Exception):
    """An iterator has no copy."""


class IteratorCopies:
    """Copies iterators of Python itself and of `itertools`, each once.

    Generators and iterators over files have no copy; in Python 3.14, neither have those of `itertools`.

    Example:
        >>> iterator = enumerate("abc")
        >>> next(iterator)
        (0, 'a')
        >>> next(IteratorCopies().of(iterator)), next(iterator)
        ((1, 'b'), (1, 'b'))
    """

    def __init__(self) -> None:
        self._copies: dict[int, Iterator[Any]] = {}

    def __contains__(self, value: Any) -> bool:
        """Whether a value was copied."""
        return id(value) in self._copies

    def of(self, value: Any) -> Iterator[Any] | None:
        """A copy of an iterator; ``None`` for anything else, and where there is none."""
        if not is_of_python(value):
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of itertools, from Python 3.12 on
                found: Iterator[Any] = self._copied(value)
        except Exception:
            return None
        return found

    def _copied(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(self._copied, value))
        if not hasattr(type(value), "__next__"):
            return value
        if not is_of_python(value):
            raise _NotCopiedError
        if value not in self:
            make, arguments, *states = value.__reduce__()
            made = make(*map(self._copied, arguments))
            for state in (one for one in states if one is not None):
                made.__setstate__(_own_lists(self._copied(state)))
            self._copies[id(value)] = made
        return self._copies[id(value)]


def _own_lists(state: Any) -> Any:
    """Copy the lists in a state: `cycle` appends what it sees to one."""
    return tuple(list(one) if isinstance(one, list) else one for one in state) if isinstance(state, tuple) else state


def is_of_python(value: Any) -> bool:
    """Whether a value is an iterator of Python itself or of `itertools`, and not a generator."""
    kind = type(value)  # to ask an object for its class may have effects
    return (
        kind is not types.GeneratorType and hasattr(kind, "__next__") and kind.__module__ in ("builtins", "itertools")
    )
