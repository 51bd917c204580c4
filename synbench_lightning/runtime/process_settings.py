"""Settings of the whole process that a forward may change: restored after it."""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import numpy as np
import torch


class Setting(NamedTuple):
    """How a setting is read and written."""

    read: Callable[[], Any]
    write: Callable[[Any], object]


@contextmanager
def settings_kept(settings: Sequence[Setting] | None = None) -> Iterator[None]:
    """Restore, where the body has changed them, settings of torch, NumPy and Python that hold for the whole process.

    Among them are the default dtype and device of torch, whether gradients are recorded, autocast, deterministic
    algorithms, the number of threads, NumPy's handling of errors, environment variables, the working directory, and
    the filters of warnings. Random states are not.

    Args:
        settings: those that are restored; ``None`` for all.

    Example:
        >>> with settings_kept():
        ...     torch.set_default_dtype(torch.float64)
        >>> torch.get_default_dtype()
        torch.float32
    """
    kept = [(setting, value) for setting in settings or SETTINGS if (value := _read(setting)) is not None]
    try:
        yield
    finally:
        for setting, value in kept:
            with suppress(Exception):  # whatever one of them raises, the others are restored
                if setting.read() != value:
                    setting.write(value)


def _read(setting: Setting) -> Any:
    try:
        return setting.read()
    except Exception:  # not in this version of torch, or a working directory that was deleted
        return None


def _set_device(device: torch.device) -> None:
    torch.set_default_device(None if device == torch.device("cpu") else device)


def _autocast() -> list[tuple[str, bool, torch.dtype]]:
    accelerator = torch.accelerator.current_accelerator()
    kinds = ["cpu"] if accelerator is None else ["cpu", accelerator.type]
    return [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds]


def _set_autocast(states: list[tuple[str, bool, torch.dtype]]) -> None:
    for kind, enabled, dtype in states:
        torch.set_autocast_enabled(kind, enabled)
        torch.set_autocast_dtype(kind, dtype)


def _cudnn() -> tuple[bool, bool, bool]:
    cudnn = torch.backends.cudnn
    return cudnn.enabled, cudnn.benchmark, cudnn.deterministic


def _set_cudnn(flags: tuple[bool, bool, bool]) -> None:
    cudnn = torch.backends.cudnn
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic = flags


def _attention() -> tuple[bool, bool, bool]:
    cuda = torch.backends.cuda
    return cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled()


def _set_attention(flags: tuple[bool, bool, bool]) -> None:
    cuda = torch.backends.cuda
    cuda.enable_flash_sdp(flags[0])
    cuda.enable_mem_efficient_sdp(flags[1])
    cuda.enable_math_sdp(flags[2])


def _set_filters(filters: list[Any]) -> None:
    # `catch_warnings` would have every warning of the run that is shown once be shown once more after each probe.
    warnings.filters[:] = filters  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]


def _set_environment(variables: dict[str, str]) -> None:
    for name in os.environ.keys() - variables.keys():
        del os.environ[name]
    os.environ.update(variables)


def _set_streams(streams: tuple[Any, Any]) -> None:
    sys.stdout, sys.stderr = streams


COMPUTATION = (
    Setting(torch.get_default_dtype, torch.set_default_dtype),
    Setting(torch.get_default_device, _set_device),
    Setting(torch.is_grad_enabled, torch.set_grad_enabled),
    Setting(torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    Setting(torch.get_num_threads, torch.set_num_threads),
    Setting(torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    Setting(_autocast, _set_autocast),
    Setting(_cudnn, _set_cudnn),
    Setting(_attention, _set_attention),
)
"""What the computations of a process depend on."""
SETTINGS = (
    *COMPUTATION,
    Setting(np.geterr, lambda kinds: np.seterr(**kinds)),
    Setting(np.get_printoptions, lambda options: np.set_printoptions(**options)),
    Setting(lambda: list(warnings.filters), _set_filters),
    Setting(lambda: dict(os.environ), _set_environment),
    Setting(os.getcwd, os.chdir),
    Setting(lambda: (sys.stdout, sys.stderr), _set_streams),
    Setting(lambda: logging.root.manager.disable, logging.disable),
    Setting(lambda: logging.root.level, logging.root.setLevel),
    Setting(sys.getrecursionlimit, sys.setrecursionlimit),
    Setting(gc.isenabled, lambda enabled: gc.enable() if enabled else gc.disable()),
)
