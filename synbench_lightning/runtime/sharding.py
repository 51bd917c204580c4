"""Call an encoder with sharded weights through the module that gathers them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

from synbench_lightning.runtime.encoder import Encoder
from synbench_lightning.runtime.lightning_packages import LightningModule, Strategy, lightning_classes


def is_sharded(strategy: Strategy, pl_module: LightningModule) -> bool:
    """Whether a forward is a collective, so that every process must run the same number of them."""
    return _wraps_the_root(strategy) or has_shards(pl_module)


def _wraps_the_root(strategy: Strategy) -> bool:
    deepspeed = lightning_classes("strategies.DeepSpeedStrategy")
    return isinstance(strategy.model, FullyShardedDataParallel) or isinstance(strategy, deepspeed)


def has_shards(module: nn.Module) -> bool:
    """Whether weights of the module or of a submodule are sharded by FSDP."""
    return any(isinstance(part, (FSDPModule, FullyShardedDataParallel)) for part in module.modules())


def has_flat_shards(module: nn.Module) -> bool:
    """Whether weights are sharded by the first version of FSDP, which keeps views of them in attributes of modules."""
    return any(isinstance(part, FullyShardedDataParallel) for part in module.modules())


def reachable_forward(encoder: Encoder, strategy: Strategy, pl_module: LightningModule) -> Callable[[Tensor], Any]:
    """The encoder's forward, entered through the sharded modules that it is part of, from the outermost one on.

    Each gathers its own weights. An encoder that is called directly would become the FSDP root, and the next training
    step would fail.
    """
    model: Any = strategy.model
    entries: list[tuple[nn.Module, nn.Module]] = []
    if _wraps_the_root(strategy):
        entries.append((model, pl_module))
    for owner in encoder.owners:
        if isinstance(owner, FullyShardedDataParallel):
            entries.append((owner, owner.module))
        elif isinstance(owner, FSDPModule):
            entries.append((owner, owner))
    forward = encoder.forward
    for entry, inner in reversed(entries):
        forward = _redirected(forward, entry, inner)
    return forward


def _redirected(forward: Callable[[Tensor], Any], entry: nn.Module, inner: nn.Module) -> Callable[[Tensor], Any]:
    """Call ``entry``, and have ``forward`` run where the forward of ``inner`` would."""

    def call(x: Tensor) -> Any:
        own = inner.__dict__.get("forward")

        def restore() -> None:
            if own is None:
                inner.__dict__.pop("forward", None)
            else:
                inner.__dict__["forward"] = own

        def once(*args: Any, **kwargs: Any) -> Any:
            restore()  # before the call, which may itself want the real one
            return forward(*args, **kwargs)

        inner.__dict__["forward"] = once
        try:
            return entry(x)
        finally:
            restore()

    return call
