"""Device capabilities: float64, accelerator seeds, memory; queried from the device, not inferred from its name."""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from synbench_lightning.runtime.lightning_packages import is_oom_error


def statistics_device(device: torch.device) -> torch.device:
    """The device for statistics of features: the same device if it supports float64, else the CPU.

    Example:
        >>> statistics_device(torch.device("cpu"))
        device(type='cpu')
    """
    return device if _has_float64(device.type) else torch.device("cpu")


@cache
def _has_float64(kind: str) -> bool:
    try:
        torch.ones((), dtype=torch.float64, device=kind).sum()
    except (TypeError, RuntimeError):  # which one is raised depends on the device
        return False
    return True


def default_device() -> torch.device:
    """The accelerator of this machine if it has one, else the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return torch.device("cpu") if found is None else found


def seed_accelerator(seed: int) -> Callable[[], None]:
    """Seed the generators of the accelerator, if this process uses one; returns a function that restores them."""
    try:  # no `is_available()`, which may initialize it
        device = torch.accelerator.current_accelerator()
    except RuntimeError:  # torch 2.6, where there is none
        device = None
    module: Any = None if device is None else torch.get_device_module(device)
    # An accelerator that is not in use must not be seeded: the seeding would be deferred into training.
    if module is None or not getattr(module, "is_initialized", torch.accelerator.is_available)():
        return lambda: None
    of_all = "_all" if hasattr(module, "get_rng_state_all") else ""
    states = getattr(module, f"get_rng_state{of_all}")()
    getattr(module, "manual_seed_all", module.manual_seed)(seed)
    return lambda: getattr(module, f"set_rng_state{of_all}")(states)


def is_memory_error(error: BaseException) -> bool:
    """Whether an error means that a device ran out of memory."""
    return is_oom_error(error) or "out of memory" in str(error).lower()


def free_memory(device: torch.device) -> None:
    """Release cached memory of a device."""
    gc.collect()
    getattr(torch.get_device_module(device), "empty_cache", lambda: None)()


def free_bytes(device: torch.device) -> int:
    """Free memory of a device in bytes; 0 if unknown."""
    ask: Any = getattr(torch.get_device_module(device), "mem_get_info", None)
    return 0 if ask is None else int(ask(device)[0])


def pinned(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a CPU tensor to pinned memory, if supported."""
    try:
        return tensor.pin_memory()
    except RuntimeError:  # not supported, or a tensor of another device
        return tensor
