"""An encoder that ends at one of its layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from synbench_lightning.checks import shown
from synbench_lightning.runtime.encoder_call import Masked, token_mask
from synbench_lightning.runtime.features import FeatureReader
from synbench_lightning.runtime.input_shape import tensors_in
from synbench_lightning.runtime.isolation import isolated
from synbench_lightning.runtime.structures import Arguments


class LayerEncoder(nn.Module):
    """The features of one layer of an encoder, pooled over space or tokens (those of a mask) as a probe pools them.

    For whatever is done with the layer that a run has found to be the best: a linear probe, fine-tuning, ``evaluate``.
    The encoder runs as a whole, with what comes behind the layer.

    Args:
        encoder: a module; it is called with what this one is called with.
        layer: dotted name of the layer, relative to the encoder.

    Raises:
        ValueError: for a name that is no module's; in a call that does not go through the layer.

    Example:
        >>> import torch
        >>> backbone = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3))
        >>> LayerEncoder(backbone, "1")(torch.ones(4, 3, 9, 9)).shape
        torch.Size([4, 8])
    """

    def __init__(self, encoder: nn.Module, layer: str) -> None:
        super().__init__()
        if not isinstance(encoder, nn.Module):
            raise ValueError(f"`encoder` must be a module, got {shown(encoder)}.")
        if not isinstance(layer, str) or not layer:
            raise ValueError(f"`layer` must be the dotted name of a module, got {shown(layer)}.")
        try:
            module = encoder.get_submodule(layer)
        except AttributeError as error:
            raise ValueError(
                f"`layer` must be the dotted name of a module of {type(encoder).__name__}, got {layer!r}: {error}."
            ) from error
        self.encoder, self.layer = encoder, layer
        self._read = FeatureReader(module if any(True for _ in module.parameters()) else encoder, announce=False)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Features ``(N, D)`` of the layer; of several calls of it in one of the encoder, the last one counts."""
        outputs: list[Any] = []
        handle = self.encoder.get_submodule(self.layer).register_forward_hook(
            lambda _module, _args, output: outputs.append(output)
        )
        try:
            self.encoder(*args, **kwargs)
        finally:
            handle.remove()
        if not outputs:
            raise ValueError(f"`layer`: {self.layer!r} is not called by the encoder's forward.")
        output, given = outputs[-1], next(iter(tensors_in((args, kwargs))), None)
        size = len(next(x for x in tensors_in(output) if x.is_floating_point()))
        mask = token_mask(Arguments(args, kwargs))
        masked = output if mask is None else Masked(output, mask)
        return self._read(masked, size, () if given is None else tuple(given.shape[1:]))


def layer_or_encoder(module: nn.Module, path: str, x: Tensor) -> Callable[..., Any]:
    """What a dotted name stands for: an encoder, or an inner layer, that is read in the innermost module that takes x.

    Args:
        module: that the name starts from; in evaluation mode.
        path: of a module or a method.
        x: inputs.
    """
    function: Any = module
    for name in path.split("."):
        function = getattr(function, name)
    if not isinstance(function, nn.Module) or _takes(function, x):
        return function  # type: ignore[no-any-return]
    names = path.split(".")
    for depth in range(len(names) - 1, -1, -1):
        owner = module.get_submodule(".".join(names[:depth]))
        reader = LayerEncoder(owner, ".".join(names[depth:]))
        if _takes(reader, x):
            return reader
    return function


def _takes(function: nn.Module, x: Tensor) -> bool:
    try:
        with isolated(function):
            function(x)
    except Exception:
        return False
    return True
