"""Seed a function's random generators during a call, and restore them afterwards."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from synbench_lightning.runtime.isolation import isolated, seed_generators, state_kept
from synbench_lightning.runtime.lightning_packages import lightning_classes
from synbench_lightning.runtime.restoring import generator_state

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


@contextmanager
def seeded(seed: int, *functions: Callable[..., Any]) -> Iterator[None]:
    """Seed everything random in some functions inside the context; restore them and all random states afterwards.

    That holds for the global generators of Python, numpy and torch, and for generators of the functions: those of
    an object, of the transforms in its lists, of what a closure or a partial refers to, and of the module-level names
    that the code mentions. All other state that is reachable in this way is restored, too
    (:class:`.ModuleSnapshot`).

    Example:
        >>> generator = np.random.default_rng(0)
        >>> def draw() -> float:
        ...     return generator.random()
        >>> with seeded(3, draw):
        ...     first = draw()
        >>> with seeded(3, draw):
        ...     draw() == first
        True
        >>> draw() == np.random.default_rng(0).random()
        True
    """
    with state_kept(None, functions), seeding(*functions) as seed_all:
        seed_all(seed)
        yield


def seeder(*values: Any) -> Callable[[int], None]:
    """Return a function that seeds the global generators and those reachable from some values, without restoring them.

    For processes that end afterwards.
    """
    return partial(_seed_all, [value for value in reached(*values) if isinstance(value, GENERATORS)])


@contextmanager
def seeding(*values: Any) -> Iterator[Callable[[int], None]]:
    """Yield a :func:`seeder`, and restore the generators reachable from some values afterwards.

    Example:
        >>> generator = torch.Generator().manual_seed(3)
        >>> with seeding([generator]) as seed:
        ...     seed(4)
        >>> torch.equal(generator.get_state(), torch.Generator().manual_seed(3).get_state())
        True
    """
    generators = [value for value in reached(*values) if isinstance(value, GENERATORS)]
    restores = [restore for generator in generators if (restore := generator_state(generator)) is not None]
    with isolated(None):
        try:
            yield partial(_seed_all, generators)
        finally:
            for restore in restores:
                restore()


def _seed_all(generators: list[Any], seed: int) -> None:
    seed_generators(seed)
    for generator in generators:
        _seed(generator, seed)


def reached(*values: Any) -> Iterator[Any]:
    """Yield what is reachable from some values, once each: objects, items of short containers, generators, tensors."""
    seen, rest = set[int](), list(values)
    closed = (*PASSED_OVER, *lightning_classes("Trainer"))
    while rest:
        value = rest.pop()
        if id(value) not in seen and not isinstance(value, (type, ModuleType, str, bytes, int, float)):
            seen.add(id(value))
            yield value
            rest += [] if isinstance(value, closed) else _inner(value)


def modules_reached(function: Any) -> list[nn.Module]:
    """Modules that a function may run: those that its closure or its module-level names refer to, or its object."""
    return [value for value in reached(function) if isinstance(value, nn.Module)]


MOST_ITEMS = 1000  # mutants: memory and time alone
"""Longer containers are skipped: they hold data, not transforms."""


PASSED_OVER = (type, ModuleType, Tensor, np.ndarray, str, bytes, int, float)


def _has_attributes(value: Any) -> bool:
    return not isinstance(value, FunctionType) and isinstance(getattr(value, "__dict__", None), dict)


def _inner(value: Any) -> list[Any]:
    if isinstance(value, GENERATORS):
        return []
    if isinstance(value, FunctionType):
        named = [value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__]
        # Other functions of a module lead too far.
        objects = [one for one in named if not isinstance(one, FunctionType)]
        return [*_contents(value), *(value.__defaults__ or ()), *objects]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, (dict, list, tuple, set)):
        return list(value.values() if isinstance(value, dict) else value) if len(value) <= MOST_ITEMS else []
    code = [getattr(type(value), name, None) for name in ("__call__", "forward", "__getitem__")]
    attributes = list(value.__dict__.values()) if _has_attributes(value) else []
    return [*(one for one in code if isinstance(one, FunctionType)), *attributes]


def _contents(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # of a name that is not assigned yet
            yield cell.cell_contents


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _seed(generator: Any, seed: int) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    elif isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    else:
        generator.seed(seed % 2**32)
