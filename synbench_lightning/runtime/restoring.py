"""Restore one object of a kind: tensors, containers, attributes, variables, generators of random numbers."""

from __future__ import annotations

import ctypes
import io
import random
import types
from collections import OrderedDict, deque
from collections.abc import Callable
from functools import partial
from multiprocessing.sharedctypes import SynchronizedBase
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synbench_lightning.runtime.named_in_code import MISSING

NotedTensor = tuple[Tensor, tuple[Tensor, Tensor] | None, bool, Tensor | None]


def noted_tensor(value: Tensor) -> NotedTensor:
    """The tensor, its memory and a copy of it, ``requires_grad``, and its gradient, which is detached from it.

    A forward that runs its own backward pass then accumulates into another gradient.
    """
    wanted, gradient = value.requires_grad, value.grad if value.is_leaf else None
    try:
        memory = value.data  # another name for the same memory; writing to it bumps no version counter
        values = _copy(memory)
    except Exception:  # a kind of tensor that has no such thing is put back by reference alone
        return value, None, wanted, gradient
    if gradient is not None:
        value.grad = None
    return value, (memory, values), wanted, gradient


def _copy(memory: Tensor) -> Tensor:
    try:
        return memory.clone()
    except torch.OutOfMemoryError:
        return memory.cpu()


def restore_tensor(value: Tensor, noted: tuple[Tensor, Tensor] | None, wanted: bool, gradient: Tensor | None) -> None:
    """Restore what :func:`noted_tensor` returned."""
    if noted is None:
        return
    memory, kept = noted
    if memory.layout != torch.strided or memory.is_nested:
        value.copy_(kept)  # such a tensor has no one place that another name would share
    else:
        if _place(value) != _place(memory):
            value.data = memory
        if not all(memory.stride()):  # an expanded dimension is one element
            places = tuple(slice(None) if stride else slice(1) for stride in memory.stride())
            memory, kept = memory[places], kept[places]
        if not memory.is_meta and not _unchanged(memory, kept):
            memory.copy_(kept)
    if value.is_leaf:
        if value.requires_grad != wanted:
            value.requires_grad_(wanted)
        if value.grad is not gradient:
            value.grad = gradient


def _unchanged(memory: Tensor, kept: Tensor) -> bool:
    """Whether nothing has to be written: CPU memory may be a read-only memory-mapped file."""
    return memory.device.type == "cpu" and torch.equal(memory, kept)


def _place(value: Tensor) -> Any:
    """Identifies the memory of a tensor and its layout."""
    return value.data_ptr(), value.shape, value.stride(), value.dtype, value.device


def restore_mapping(value: dict[Any, Any], kept: dict[Any, Any]) -> None:
    """Restore a dictionary, by the methods of the built-in kind."""
    base = OrderedDict if isinstance(value, OrderedDict) else dict
    base.clear(value)
    for key, inner in kept.items():
        base.__setitem__(value, key, inner)


def restore_elements(value: Any, kept: Any) -> None:
    """Restore a list, set, deque or array."""
    # By the methods of the built-in kind, whatever a subclass does when it is written.
    if isinstance(value, set):
        set.clear(value)
        set.update(value, kept)
    elif isinstance(value, deque):
        deque.clear(value)
        deque.extend(value, kept)
    elif isinstance(value, list):
        list.__setitem__(value, slice(None), kept)
    else:
        value[:] = kept


def restore_attributes(attributes: dict[str, Any], kept: dict[str, Any]) -> None:
    """Restore the ``__dict__`` of an object."""
    for name in attributes.keys() - kept.keys():
        del attributes[name]
    attributes.update(kept)


def restore_variables(variables: dict[str, Any], kept: dict[str, Any]) -> None:
    """Restore some module-level variables; ``MISSING`` for those that were not set."""
    for name, value in kept.items():
        if variables.get(name, MISSING) is not value:
            if value is MISSING:
                del variables[name]
            else:
                variables[name] = value


def restore_class(kind: type | types.ModuleType, kept: dict[str, Any]) -> None:
    """Restore some attributes of a class or a Python module."""
    for name, value in kept.items():
        if vars(kind).get(name, MISSING) is not value:
            setattr(kind, name, value)


def generator_state(value: Any) -> Callable[[], None] | None:
    """A function that restores a random number generator; ``None`` for anything else."""
    if isinstance(value, torch.Generator):
        return partial(_call, value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if isinstance(value, np.random.BitGenerator):
        return partial(setattr, value, "state", value.state)
    if isinstance(value, np.random.RandomState):
        return partial(_call, value.set_state, value.get_state())
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return partial(_call, value.setstate, value.getstate())
    return None


def _call(function: Callable[[Any], Any], argument: Any) -> None:
    function(argument)


def restored_memory(value: Any) -> Callable[[], object] | None:
    """A function that restores a file in memory, the position in a file, or a value of C; ``None`` for anything else.

    Values of C are those of ``ctypes``, and those that ``multiprocessing`` shares between processes.
    """
    if isinstance(value, (io.StringIO, io.BytesIO)):
        return partial(_write, value, value.getvalue(), value.tell())
    if isinstance(value, io.IOBase):
        try:
            return None if value.writable() or not value.seekable() else partial(value.seek, value.tell())
        except (OSError, ValueError):  # closed, detached, or a text file in a loop over its lines
            return None
    if isinstance(value, SynchronizedBase):
        value = value.get_obj()
    if isinstance(value, (ctypes._SimpleCData, ctypes.Array, ctypes.Structure)):
        kept = ctypes.string_at(ctypes.addressof(value), ctypes.sizeof(value))
        return partial(_write_memory, value, kept)
    return None


def _write(file: Any, content: Any, position: int) -> None:
    if file.getvalue() != content:
        file.seek(0)
        file.truncate()
        file.write(content)
    file.seek(position)


def _write_memory(value: Any, kept: bytes) -> None:
    address = ctypes.addressof(value)
    if ctypes.string_at(address, len(kept)) != kept:
        ctypes.memmove(address, kept, len(kept))
