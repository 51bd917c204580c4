"""Run an encoder and leave everything that training depends on exactly as it was."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from synbench_lightning.runtime.devices import seed_accelerator
from synbench_lightning.runtime.sharding import has_shards

PROBE_SEED = 0
"""Global generators stand at this seed in every probe, so that encoders that draw (random masks) draw alike."""


@contextmanager
def isolated(module: nn.Module | None) -> Iterator[None]:
    """Evaluation without traces: what training depends on is afterwards as it was before, also when the body raises.

    Inside, every submodule is in evaluation mode and gradients are off. Afterwards each submodule has its own
    train/eval flag, its buffers and its plain attributes back (tensors, numbers, lists, dictionaries, generators), the
    global generators of Python, numpy and torch (CPU and accelerator) continue where they were, and ``torch.compile``
    has compiled nothing. State outside the module, and inside objects that its attributes only refer to, is not seen.

    Args:
        module: the root of all modules that the body runs; ``None`` if there are none.

    Raises:
        ValueError: if a layer is not initialised yet (the body's inputs would initialise it).
        RuntimeError: if the body has written a parameter, as layers do whose first forward initialises them.
    """
    with ExitStack() as stack:
        stack.enter_context(_random_states())
        if module is not None:
            stack.enter_context(_parameters(module))
            stack.enter_context(_evaluation_mode(module))
            stack.enter_context(_attributes(module))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def _random_states() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=()):
        restore = seed_accelerator(PROBE_SEED)
        try:
            random.seed(PROBE_SEED)
            np.random.seed(PROBE_SEED)
            torch.default_generator.manual_seed(PROBE_SEED)
            yield
        finally:
            restore()
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def _parameters(module: nn.Module) -> Iterator[None]:
    lazy = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if is_lazy(tensor)]
    if lazy:
        raise ValueError(
            f"{lazy[0]!r} is not initialised yet, and a probe would initialise it: run one batch through the module "
            "before the fit."
        )
    # Too large to be kept twice: what is noticed is that one was written.
    named = {} if has_shards(module) else dict(module.named_parameters())
    before = _norms(named)
    yield
    changed = [name for name, same in zip(named, (before == _norms(named)).tolist(), strict=True) if not same]
    if changed:
        raise RuntimeError(
            f"The encoder has written its parameter {changed[0]!r} in a forward, from the examples of the probe (an "
            "initialisation by the first batch?). Run one batch of data through the module before the fit."
        )


def _norms(parameters: dict[str, nn.Parameter]) -> Tensor:
    with torch.no_grad():
        norms = [torch.linalg.vector_norm(parameter) for parameter in parameters.values()]
        return (
            torch.nan_to_num(torch.stack([norm.cpu().double() for norm in norms]), nan=-1.0)
            if norms
            else torch.zeros(0)
        )


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    # The flags are set directly: `eval()` and `train()` may be overridden with effects of their own (frozen layers that
    # are switched back on, adapters that are merged into the weights).
    flags = [(submodule, submodule.training) for submodule in module.modules()]
    try:
        for submodule, _ in flags:
            submodule.training = False
        yield
    finally:
        for submodule, flag in flags:
            submodule.training = flag


@contextmanager
def _attributes(module: nn.Module) -> Iterator[None]:
    """Attributes of every submodule, by name and by content, and its registries of buffers and parameters."""
    restores: list[Callable[[], None]] = []
    sharded = has_shards(module)
    for submodule in module.modules():
        if sharded:  # what else changes is the sharding's own: weights that are gathered and let go of
            restores += [_content(buffer) for buffer in submodule._buffers.values()]
            continue
        registries = [submodule._buffers, submodule._parameters, submodule._non_persistent_buffers_set]
        contents = [*submodule.__dict__.values(), *submodule._buffers.values()]
        restores += [_content(value) for value in contents if not isinstance(value, nn.Module)]
        restores += [_content(registry) for registry in registries]
        restores.append(_names(submodule))
    try:
        yield
    finally:
        with torch.no_grad():
            for restore in reversed(restores):
                restore()


def _names(submodule: nn.Module) -> Callable[[], None]:
    saved = {name: value for name, value in submodule.__dict__.items() if name != "training"}

    def restore() -> None:
        for name in submodule.__dict__.keys() - saved.keys() - {"training"}:
            del submodule.__dict__[name]
        submodule.__dict__.update(saved)

    return restore


def _content(value: Any) -> Callable[[], None]:
    """A function that gives a value the content back that it has now."""
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        return partial(_restore_tensor, value, value.detach().clone())
    if isinstance(value, torch.Generator):
        return partial(_call, value.set_state, value.get_state())
    if isinstance(value, np.random.Generator):
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if isinstance(value, random.Random):
        return partial(_call, value.setstate, value.getstate())
    if isinstance(value, (dict, set)):
        return partial(_restore_mapping, value, value.copy())
    if isinstance(value, list):
        return partial(value.__setitem__, slice(None), list(value))
    return lambda: None


def _call(function: Callable[[Any], Any], argument: Any) -> None:
    function(argument)


def _restore_tensor(value: Tensor, kept: Tensor) -> None:
    if value.shape != kept.shape or not torch.equal(value, kept):
        value.detach().copy_(kept)


def _restore_mapping(value: dict[Any, Any] | set[Any], kept: Any) -> None:
    value.clear()
    value.update(kept)
