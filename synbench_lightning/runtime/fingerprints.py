"""Values that change with objects that cannot be restored."""

from __future__ import annotations

import io
import pickle
import sqlite3
import types
from queue import Queue, SimpleQueue
from typing import Any

from torch import Tensor
from torch.utils.data.dataloader import _BaseDataLoaderIter

from synbench_lightning.runtime.iterator_copies import is_of_python

ATOMS = (int, float, complex, bool, str, bytes, type(None))


def fingerprint(value: Any) -> Any:
    """A value that changes with an object that cannot be restored, as far as that is visible."""
    try:
        if isinstance(value, Tensor):
            return value._version
        if isinstance(value, (Queue, SimpleQueue)):
            return value.qsize()
        if isinstance(value, types.GeneratorType):
            return _of_generator(value)
        if isinstance(value, io.IOBase):
            return value.tell()
        if isinstance(value, sqlite3.Connection):
            return value.total_changes
        if isinstance(value, _BaseDataLoaderIter):
            return value._num_yielded
        if hasattr(value, "__length_hint__"):  # of iterators over what may be large
            return value.__length_hint__()
        if is_of_python(value):
            _, arguments, *states = value.__reduce__()
            return [fingerprint(one) for one in arguments if hasattr(one, "__next__")], repr(states), repr(value)
        shown = repr(value)
        return shown if "object at 0x" not in shown else pickle.dumps(value)
    except Exception:
        return None


def _of_generator(value: types.GeneratorType[Any, Any, Any]) -> Any:
    if value.gi_frame is None:
        return None
    simple = {name: local for name, local in value.gi_frame.f_locals.items() if isinstance(local, ATOMS)}
    return value.gi_frame.f_lasti, simple, fingerprint(value.gi_yieldfrom)
