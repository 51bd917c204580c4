"""Use an inner layer of an encoder as the encoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from synbench_lightning.checks import shown
from synbench_lightning.runtime.features import reader_of_layer
from synbench_lightning.runtime.input_shape import tensors_in
from synbench_lightning.runtime.isolation import isolated
from synbench_lightning.runtime.structures import Arguments
from synbench_lightning.runtime.token_masks import Masked, token_mask


class LayerEncoder(nn.Module):
    """Features of one layer of an encoder, pooled over space or (valid) tokens as in a probe.

    For linear probes, fine-tuning or ``evaluate`` with the best layer of a run. The whole encoder runs, including the
    modules after the layer.

    Args:
        encoder: a module, which is called with the same arguments.
        layer: dotted name of the layer, relative to the encoder.

    Raises:
        ValueError: if there is no module of that name; in calls in which the layer does not run.

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
        self._read = reader_of_layer(module, encoder)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Features ``(N, D)`` of the layer, from its last call in the forward of the encoder."""
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
    """Resolve a dotted name to an encoder, or to a :class:`LayerEncoder` in the innermost module that accepts ``x``.

    Args:
        module: the module that the name starts from; in evaluation mode.
        path: dotted name of a module or a method.
        x: inputs.
    """
    function: Any = module
    for name in path.split("."):
        function = getattr(function, name)
    if not isinstance(function, nn.Module) or _takes(function, x):
        return function  # type: ignore[no-any-return]
    names = path.split(".")
    for depth in reversed(range(len(names))):
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
