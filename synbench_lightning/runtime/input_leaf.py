"""Find the input among the tensors in a module's arguments."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from synbench_lightning.runtime.structures import Arguments, Path, at, is_ragged, leaves

MASK_NAMES = ("mask", "masks", "attention_mask", "padding", "valid")
"""Arguments whose names end in one of these are not inputs."""


@dataclass(frozen=True)
class InputLeaf:
    """The input among the arguments of a call.

    Args:
        path: its path in the arguments; that of the list if a module takes a list of crops.
        shape: shape of one example, or of the largest crop.
        rows: number of examples.
        dtype: data type.
        listed: whether the module takes a list of tensors ``(N, ...)``.
        axis: batch axis: 1 if the module takes ``(T, N, ...)``.
    """

    path: Path
    shape: tuple[int, ...]
    rows: int
    dtype: torch.dtype = torch.float32
    listed: bool = False
    axis: int = 0

    @property
    def is_integer(self) -> bool:
        """Whether its values are integers: token ids or images."""
        return not (self.dtype.is_floating_point or self.dtype.is_complex)

    def time_first(self, value: Tensor) -> InputLeaf:
        """The same for a module that takes ``(T, N, ...)``."""
        return replace(self, shape=(len(value), *value.shape[2:]), rows=value.shape[1], axis=1)

    @property
    def numel(self) -> int:
        """Number of elements of one example."""
        return torch.Size(self.shape).numel()


def input_leaf(arguments: Any) -> InputLeaf | None:
    """Find the first real or complex tensor ``(N, ...)`` among arguments, else the first of integers, else ``None``.

    Masks are skipped, as are tensors in objects that cannot be rebuilt with another tensor (graphs) and in lists with
    one tensor per example.

    Example:
        >>> from synbench_lightning.runtime.structures import Arguments
        >>> ids, mask = torch.ones(8, 16, dtype=torch.long), torch.ones(8, 16)
        >>> leaf = input_leaf(Arguments((), {"attention_mask": mask, "input_ids": ids}))
        >>> leaf.path, leaf.shape
        (('kwargs', 'input_ids'), (16,))
    """
    if isinstance(arguments, Arguments) and arguments.whole:
        return None
    found = [(path, leaf) for path, leaf in leaves(arguments, within_objects=False) if _may_be_input(path, leaf)]
    integers = [leaf for _, leaf in found if not _is_real(leaf)]
    real = [(path, leaf) for path, leaf in found if _is_real(leaf) and not _is_mask_of(leaf, integers)]
    for path, leaf in real or [(path, leaf) for path, leaf in found if not _is_real(leaf)]:
        container = at(arguments, path[:-1])
        if not isinstance(container, (list, tuple)) or path[:-1] == ("args",):
            return InputLeaf(path, tuple(leaf.shape[1:]), len(leaf), leaf.dtype)
        if all(isinstance(one, Tensor) and one.ndim == leaf.ndim and len(one) == len(leaf) for one in container):
            largest = max(container, key=torch.numel)
            if len(container) < len(leaf) or leaf.ndim > 3:
                return InputLeaf(path[:-1], tuple(largest.shape[1:]), len(leaf), leaf.dtype, listed=True)
    return None


def num_examples(value: Any) -> int | None:
    """Number of examples in a structure; ``None`` if unknown.

    Example:
        >>> num_examples({"input_ids": torch.ones(8, 16, dtype=torch.long)})
        8
    """
    if isinstance(value, Tensor):
        return len(value) if value.ndim else None
    if is_ragged(value):
        return len(value)
    if (leaf := input_leaf(value)) is not None:
        return leaf.rows
    found = getattr(value, "num_graphs", None)
    return found if isinstance(found, int) else None


def _may_be_input(path: Path, leaf: Tensor) -> bool:
    names = [str(key).lower() for key in path if isinstance(key, str)]
    named_mask = bool(names) and names[-1].endswith(MASK_NAMES)
    return leaf.ndim >= 2 and leaf.numel() > 0 and leaf.dtype != torch.bool and not named_mask


def _is_real(leaf: Tensor) -> bool:
    return leaf.is_floating_point() or leaf.is_complex()


def _is_mask_of(leaf: Tensor, integers: list[Tensor]) -> bool:
    """Whether a real tensor is a mask: zeros and ones in the shape of token ids."""
    beside = any(leaf.shape == ids.shape for ids in integers)
    return beside and bool(((leaf == 0) | (leaf == 1)).all())
