"""Run an encoder and leave everything that training depends on exactly as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

PROBE_SEED = 0
"""Global generators stand at this seed in every probe, so that encoders that draw (random masks) draw alike."""


@contextmanager
def isolated(module: nn.Module | None) -> Iterator[None]:
    """Evaluation without traces: modes, buffers, random states, gradients and compiled code stay as they were.

    Inside, every submodule is in evaluation mode and gradients are off. Afterwards, also when the body raises, each
    submodule has its own train/eval flag back, buffers hold what they held, the generators of Python, numpy and torch
    (CPU and CUDA) continue where they were, and ``torch.compile`` has compiled nothing.

    Args:
        module: the root of all modules that the body runs; ``None`` if there are none.
    """
    with ExitStack() as stack:
        stack.enter_context(_random_states())
        if module is not None:
            stack.enter_context(_evaluation_mode(module))
            stack.enter_context(_buffers(module))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def _random_states() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        try:
            random.seed(PROBE_SEED)
            np.random.seed(PROBE_SEED)
            torch.default_generator.manual_seed(PROBE_SEED)
            if torch.cuda.is_initialized():  # seeding it before that would be carried out later, in the training
                torch.cuda.manual_seed_all(PROBE_SEED)
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


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
def _buffers(module: nn.Module) -> Iterator[None]:
    saved: list[tuple[nn.Module, str, Tensor, Tensor]] = [
        (submodule, name, buffer, buffer.detach().clone())
        for submodule in module.modules()
        for name, buffer in submodule.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for submodule, name, buffer, content in saved:
                if getattr(submodule, name, None) is not buffer:
                    setattr(submodule, name, buffer)
                if not torch.equal(buffer, content):
                    buffer.copy_(content)
