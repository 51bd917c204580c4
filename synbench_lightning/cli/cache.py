"""A cache of evaluation results, keyed by everything that they depend on."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

import synbench_lightning
from synbench_lightning.probe.result import ProbeResult


def default_folder() -> Path:
    """The cache folder of this user."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "synbench"


def cache_key(module: nn.Module, settings: str) -> str:
    """A hash of everything that determines the result.

    It covers the weights and buffers, the structure, the source of the modules' classes and of this package, and the
    settings: what is probed, the plan, the seed. It does not cover functions that a class calls outside its source.
    """
    digest = hashlib.sha256(f"{settings}\n{module!r}".encode())
    for path in sorted(Path(synbench_lightning.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    for kind in dict.fromkeys(type(part) for part in module.modules()):
        with suppress(OSError, TypeError):  # classes made at run time have no source
            digest.update(inspect.getsource(kind).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()


def cached_result(folder: Path, key: str) -> ProbeResult | None:
    """The result stored under a key; ``None`` if it does not exist or cannot be read."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        return ProbeResult.from_dict(json.loads((folder / f"{key}.json").read_text()))
    return None


def keep_result(folder: Path, key: str, result: ProbeResult) -> None:
    """Store a result; errors of the file system (a full or read-only disk) are ignored."""
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{key}.{os.getpid()}"
        unfinished.write_text(json.dumps(result.to_dict()))
        unfinished.replace(folder / f"{key}.json")
