"""Infer the shape of one input of the encoder from a batch of any structure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from synbench_lightning.runtime.lightning_packages import Strategy


def example_shape(batch: Any, source: str) -> tuple[int, ...]:
    """Infer the shape of one example: that of the floating-point tensor with the most elements per example.

    Searches tuples, lists (of views), mappings, dataclasses and named tuples; the first tensor wins a tie. So labels,
    masks and weights alongside the input are skipped, and of several views the largest is used.

    Args:
        batch: a batch of a DataLoader, or ``example_input_array``; the first dimension of tensors is the batch.
        source: name of the batch in errors.

    Returns:
        The shape without the batch dimension.

    Raises:
        ValueError: if there is no floating-point tensor with a batch dimension and at least one more.

    Example:
        >>> import torch
        >>> example_shape(([torch.rand(8, 3, 32, 32), torch.rand(8, 3, 32, 32)], torch.arange(8)), "the batch")
        (3, 32, 32)
    """
    candidates = _inputs(batch)
    if not candidates:
        found = (
            ", ".join(f"{str(t.dtype).removeprefix('torch.')}{tuple(t.shape)}" for t in tensors_in(batch))
            or type(batch).__name__
        )
        raise ValueError(
            f"`input_shape` could not be inferred from {source}: it contains no floating-point tensor of shape "
            f"(batch, ...), found {found}. If the encoder takes floating-point inputs that are computed later, pass "
            "`input_shape=(...)`, the shape of one of them. If it takes token ids, probe it in embedding space: "
            "`input_shape=(tokens, dim)` and a callable such as `encoder=lambda pl_module, x: "
            "pl_module.model(inputs_embeds=x)`."
        )
    return tuple(max(candidates, key=lambda tensor: tensor[0].numel()).shape[1:])


def agreed_shape(strategy: Strategy, example: Any, batch: Any) -> tuple[int, ...]:
    """The shape of one example on the first process, for all of them.

    Args:
        strategy: of the trainer.
        example: ``example_input_array`` of the module; ``None`` to infer the shape from the batch.
        batch: the first training batch.

    Raises:
        ValueError: on every process, as :func:`example_shape` does on the first.
    """
    found: tuple[int, ...] | str
    try:  # the other processes must hear of it before anybody leaves
        source = "the first training batch" if example is None else "`example_input_array`"
        found = example_shape(batch if example is None else example, source)
    except ValueError as error:
        found = str(error)
    found = strategy.broadcast(found)
    if isinstance(found, str):
        raise ValueError(found)
    return found


def inputs_of_shape(batch: Any, shape: Sequence[int]) -> Tensor | None:
    """Find the first floating-point tensor ``(N, *shape)`` in a batch of any structure; ``None`` without one.

    Example:
        >>> import torch
        >>> inputs_of_shape({"image": torch.rand(8, 3, 32, 32), "weight": torch.rand(8, 1)}, (3, 32, 32)).shape
        torch.Size([8, 3, 32, 32])
    """
    return next((tensor for tensor in _inputs(batch) if tensor.shape[1:] == tuple(shape)), None)


def views_of_shape(batch: Any, shape: Sequence[int]) -> Tensor | None:
    """Find views ``(N, V, *shape)`` in a batch of any structure; ``None`` without at least two per example.

    They are one tensor of that shape, or stacked floating-point tensors ``(N, *shape)`` whose rows correspond. Views of
    another size (local crops) are skipped. Equal tensors count as one view.

    Example:
        >>> import torch
        >>> crops = [torch.rand(8, 3, 32, 32), torch.rand(8, 3, 32, 32), torch.rand(8, 3, 16, 16)]
        >>> views_of_shape((crops, torch.arange(8)), (3, 32, 32)).shape
        torch.Size([8, 2, 3, 32, 32])
    """
    shape = tuple(shape)
    inputs = _inputs(batch)
    for tensor in inputs:
        if tensor.shape[2:] == shape and tensor.ndim == len(shape) + 2 and tensor.shape[1] > 1:
            return tensor
    views = [tensor for tensor in inputs if tensor.shape[1:] == shape]
    views = [view for view in views if len(view) == len(views[0])]
    different = [view for place, view in enumerate(views) if not any(torch.equal(view, one) for one in views[:place])]
    return torch.stack(different, 1) if len(different) > 1 else None


def _inputs(batch: Any) -> list[Tensor]:
    return [
        tensor for tensor in tensors_in(batch) if tensor.is_floating_point() and tensor.ndim >= 2 and tensor.numel()
    ]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in tuples, lists, mappings and dataclasses, in their order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from tensors_in(inner)
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        for inner in value:
            yield from tensors_in(inner)
    elif is_dataclass(value):
        for item in fields(value):
            yield from tensors_in(getattr(value, item.name))
