"""Run an encoder and restore all state that training depends on."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from synbench_lightning.runtime.buffers import Buffers
from synbench_lightning.runtime.devices import seed_accelerator
from synbench_lightning.runtime.lightning_packages import rank_zero_warn
from synbench_lightning.runtime.module_snapshot import ModuleSnapshot
from synbench_lightning.runtime.muted_logging import muted_logging
from synbench_lightning.runtime.process_settings import settings_kept
from synbench_lightning.runtime.sharding import has_flat_shards

RAISES = 2
"""torch's debug mode of deterministic algorithms, as `Trainer(deterministic=True)` sets it."""
PROBE_SEED = 0
"""Seed of the global generators in every probe, so that random encoders (random masks) sample the same values."""


@contextmanager
def isolated(
    module: nn.Module | None, also: Sequence[Callable[..., Any]] = (), refuse_iterators: bool = False
) -> Iterator[None]:
    """Context for evaluation without side effects: all state of training is restored, also if the body raises.

    Inside, every submodule is in evaluation mode and gradients are off. Afterwards, everything reachable from the
    module is restored by reference and by value: parameters, buffers, train/eval flags, attributes, nested containers,
    objects of the user's classes, generators, and state written by hooks, including callbacks of the trainer
    (:class:`.ModuleSnapshot`). The global generators of Python, NumPy and torch (CPU and accelerator) are restored, and
    so are settings of the process (:func:`.settings_kept`). ``torch.compile`` compiles nothing, and nothing is logged
    (:func:`.muted_logging`). State that has changed and cannot be restored is named in a warning. Not covered: the
    datamodule, module-level variables that neither a hook nor a ``forward`` names, and what is printed.

    The cost is a copy of all parameters, buffers and tensors of callbacks, on their device, while the body runs. Of
    weights that are sharded there is no copy; under the first version of FSDP only buffers and flags are restored.

    Args:
        module: the root of all modules that the body runs; ``None`` if there are none.
        also: functions that the body calls, besides the forwards of the module, and other modules.
        refuse_iterators: whether to raise before anything is run if these hold an iterator, which cannot be restored.

    Raises:
        ValueError: if a layer is not initialized yet (the body's inputs would initialize it); for an iterator.
    """
    with ExitStack() as stack:
        stack.enter_context(settings_kept())
        stack.enter_context(_random_states())
        stack.enter_context(_deterministic_where_possible())
        modules: Sequence[nn.Module] = ()
        trackers: Sequence[Any] = ()
        if module is not None:
            _refuse_lazy(module)
        if module is not None and has_flat_shards(module):
            modules = stack.enter_context(_buffers_kept(module))
        elif module is not None or also:
            state = stack.enter_context(state_kept(module, also, refuse_iterators))
            modules, trackers = state.modules, state.trackers
        stack.enter_context(muted_logging(modules, trackers))
        stack.enter_context(_evaluation_mode(modules))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


def seed_generators(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch; inside :func:`isolated`, which restores them."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    seed_accelerator(seed)


@contextmanager
def _random_states() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=()):
        restore = seed_accelerator(PROBE_SEED)  # whether it is in use is decided here
        try:
            seed_generators(PROBE_SEED)
            yield
        finally:
            restore()
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def _deterministic_where_possible() -> Iterator[None]:
    """Allow operations without a deterministic implementation in a probe, even if training raises for them.

    The statistics need some on a GPU (cumulative sums), and training does not depend on them.
    """
    mode = torch.get_deterministic_debug_mode()
    if mode < RAISES:
        yield
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
        torch.set_deterministic_debug_mode("warn")
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(mode)


def _refuse_lazy(module: nn.Module) -> None:
    lazy = [name for name, tensor in (*module.named_parameters(), *module.named_buffers()) if is_lazy(tensor)]
    if lazy:
        raise ValueError(
            f"{lazy[0]!r} is not initialized yet, and a probe would initialize it: run one batch through the module "
            "before the fit."
        )


@contextmanager
def state_kept(
    module: nn.Module | None, also: Sequence[Callable[..., Any]] = (), refuse_iterators: bool = False
) -> Iterator[ModuleSnapshot]:
    """Restore everything that is reachable from a module or from the code of functions; part of :func:`isolated`."""
    state = ModuleSnapshot(module, also)
    try:
        if refuse_iterators and state.iterators:
            raise ValueError(f"{state.iterators[0]} is an iterator, which cannot be restored once it is advanced")
        yield state
    finally:
        failed = state.restore()
        if failed:
            rank_zero_warn(
                f"A probe changed state that cannot be restored: {', '.join(failed[:5])}"
                f"{' and others' if len(failed) > 5 else ''}. Training continues with the changed state: keep such "
                "state in buffers, or do not change it in evaluation mode."
            )


@contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[list[nn.Module]]:
    """Restore only buffers: the first version of FSDP gathers and frees the weights through attributes of modules."""
    before = Buffers(module)
    try:
        yield list(module.modules())
    finally:
        before.restore()


@contextmanager
def _evaluation_mode(modules: Sequence[nn.Module]) -> Iterator[None]:
    # The flags are set directly: overridden `eval()` and `train()` may have side effects (frozen layers that are
    # switched back on, adapters that are merged into the weights).
    flags = [(submodule, submodule.training) for submodule in modules]
    try:
        for submodule, _ in flags:
            submodule.training = False
        yield
    finally:
        for submodule, flag in flags:
            submodule.training = flag
