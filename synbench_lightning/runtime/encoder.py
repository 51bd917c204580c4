"""Find the encoder of a LightningModule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from lightning.pytorch import LightningModule
from torch import Tensor, nn

EncoderSpec = str | Callable[[LightningModule, Tensor], Any] | None
"""``None``: find it · ``"backbone.trunk"``: a dotted attribute · a callable ``(pl_module, x) -> features``."""

CANDIDATES = ("encoder", "backbone", "model.encoder", "model.backbone", "model")
"""Attributes that are tried, in this order, where no encoder is named."""


class Encoder(NamedTuple):
    """What to call for features, and what it is called in messages."""

    name: str
    forward: Callable[[Tensor], Any]


def find_encoder(pl_module: LightningModule, encoder: EncoderSpec = None) -> Encoder:
    """The encoder that a LightningModule is probed through.

    Args:
        pl_module: the module that is trained.
        encoder: a dotted attribute of it, a callable, or ``None`` for the first of :data:`CANDIDATES` that is a
            module, and else the LightningModule's own ``forward``.

    Raises:
        ValueError: if the attribute does not exist (the message lists what does) or cannot be called, or nothing was
            named and nothing found.
    """
    if encoder is None:
        for path in CANDIDATES:
            found = _follow(pl_module, path)
            if isinstance(found, nn.Module):
                return Encoder(f"`{path}`, a {type(found).__name__}", found)
        if type(pl_module).forward is LightningModule.forward:
            raise ValueError(
                f"No encoder was found in {type(pl_module).__name__}: it has none of the attributes "
                f"{', '.join(CANDIDATES)} and no `forward` of its own. Pass `encoder=` one of {_children(pl_module)} "
                "or a callable `encoder=lambda pl_module, x: ...`."
            )
        return Encoder(f"the `forward` of {type(pl_module).__name__}", pl_module)
    if isinstance(encoder, str):
        found = _named(pl_module, encoder)
        return Encoder(f"`{encoder}`, a {type(found).__name__}", found)
    return Encoder("the given callable", lambda x: encoder(pl_module, x))


def _follow(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


def _named(pl_module: LightningModule, path: str) -> Callable[[Tensor], Any]:
    found: Any = pl_module
    for depth, name in enumerate(path.split(".")):
        if not hasattr(found, name):
            parent = ".".join(path.split(".")[:depth]) or type(pl_module).__name__
            raise ValueError(
                f"`encoder={path!r}` does not exist: {parent!r} has no attribute {name!r}. Its children are "
                f"{_children(found)}."
            )
        found = getattr(found, name)
    if not callable(found):
        raise ValueError(f"`encoder={path!r}` must be a module or a method, got a {type(found).__name__}.")
    return found  # type: ignore[no-any-return]


def _children(module: Any) -> str:
    names = [name for name, _ in module.named_children()] if isinstance(module, nn.Module) else []
    return ", ".join(repr(name) for name in names) or "none"
