"""Find the encoder of a LightningModule."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor, nn

from synbench_lightning.checks import shown
from synbench_lightning.runtime.lightning_packages import LightningModule, lacks_forward

EncoderSpec = str | Callable[[LightningModule, Tensor], Any] | None
"""``None``: search for it · ``"backbone.trunk"``: a dotted attribute · a callable ``(pl_module, x) -> features``."""

CANDIDATES = ("encoder", "backbone", "model.encoder", "model.backbone", "model")
"""Attributes that are tried in this order if no encoder is named."""


class Encoder(NamedTuple):
    """The encoder's forward, its name in messages, and the modules that contain it, outermost first."""

    name: str
    forward: Callable[[Tensor], Any]
    owners: tuple[nn.Module, ...]


def find_encoder(pl_module: LightningModule, encoder: EncoderSpec = None) -> Encoder:
    """Find the encoder of a LightningModule.

    Args:
        pl_module: the module that is trained.
        encoder: a dotted attribute of it, a callable, or ``None`` for the first of :data:`CANDIDATES` that is a
            module, or else the LightningModule's own ``forward``.

    Raises:
        ValueError: if the attribute does not exist (the message lists those that do) or is not callable, or if none
            was named and none was found.
    """
    if encoder is None:
        for path in CANDIDATES:
            *owners, found = walk(pl_module, path)
            exists = len(owners) == path.count(".") + 1
            if exists and callable(found) and not isinstance(found, (nn.ModuleList, nn.ModuleDict)):
                return Encoder(f"`{path}`, a {type(found).__name__}", found, tuple(owners))
        if lacks_forward(pl_module):
            raise ValueError(
                f"No encoder was found in {type(pl_module).__name__}: it has none of the attributes "
                f"{', '.join(CANDIDATES)} and no `forward` of its own. Pass `encoder=` one of {_children(pl_module)} "
                "or a callable `encoder=lambda pl_module, x: ...`."
            )
        return Encoder(f"the `forward` of {type(pl_module).__name__}", pl_module, ())
    if isinstance(encoder, str):
        *owners, found = walk(pl_module, encoder)
        if len(owners) < len(encoder.split(".")):
            parent, missing = ".".join(encoder.split(".")[: len(owners)]), encoder.split(".")[len(owners)]
            raise ValueError(
                f"`encoder={encoder!r}` does not exist: {parent or type(pl_module).__name__!r} has no attribute "
                f"{missing!r}. Its children are {_children(found)}."
            )
        if not callable(found):
            raise ValueError(f"`encoder={encoder!r}` must be a module or a method, got a {type(found).__name__}.")
        return Encoder(f"`{encoder}`, a {type(found).__name__}", found, tuple(owners))
    return Encoder("the given callable", partial(encoder, pl_module), (pl_module,))


def check_encoder(encoder: Any) -> None:
    """Require ``encoder`` to be ``None``, a dotted attribute, or a callable that is not a module or class itself."""
    if not (encoder is None or isinstance(encoder, str) or callable(encoder)):
        raise ValueError(
            "`encoder` must be None, a dotted attribute of the LightningModule, or a callable "
            f"(pl_module, x) -> features, got {shown(encoder)}."
        )
    if isinstance(encoder, (nn.Module, type)):
        raise ValueError(
            f"`encoder` must not be a module or class itself, got {encoder!r}: name the attribute of the "
            "LightningModule that holds it, or pass `lambda pl_module, x: ...`."
        )


def walk(pl_module: LightningModule, path: str) -> list[Any]:
    """The module and the attributes along a dotted path, as far as they exist."""
    found: list[Any] = [pl_module]
    for name in path.split("."):
        if not hasattr(found[-1], name):
            break
        found.append(getattr(found[-1], name))
    return found


def _children(module: Any) -> str:
    names = [name for name, _ in module.named_children()] if isinstance(module, nn.Module) else []
    return ", ".join(repr(name) for name in names) or "none"
