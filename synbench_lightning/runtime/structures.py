"""Nested structures of tensors: tuples, lists, mappings, dataclasses and other objects."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

Path = tuple[Any, ...]
"""Keys, names and indices of a tensor in a structure."""

MOST_PARTS = 6
"""Limit for the parts of a list that a message describes."""


@dataclass
class Arguments:
    """The arguments of a call.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
        whole: whether their examples cannot be separated, as for nodes of a graph.

    Example:
        >>> Arguments((3, 1, 2), {"key": lambda x: -x}).of(max)
        1
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    whole: bool = False

    def of(self, function: Callable[..., Any]) -> Any:
        """Call a function with these arguments."""
        return function(*self.args, **self.kwargs)


def leaves(value: Any, path: Path = (), within_objects: bool = True) -> Iterator[tuple[Path, Tensor]]:
    """The tensors of a structure with their paths, in their order.

    Args:
        value: the structure.
        path: what leads to it.
        within_objects: whether to include tensors in objects that cannot be rebuilt with other tensors (graphs).

    Example:
        >>> [(path, tuple(leaf.shape)) for path, leaf in leaves({"a": torch.ones(2), "b": [torch.ones(3)]})]
        [(('a',), (2,)), (('b', 0), (3,))]
    """
    if isinstance(value, Tensor):
        yield path, value
        return
    for key, inner in _children(value) if within_objects or _is_rebuildable(value) else ():
        yield from leaves(inner, (*path, key), within_objects)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of a structure, in their order."""
    for _, tensor in leaves(value):
        yield tensor


def at(value: Any, path: Path) -> Any:
    """The value at a path."""
    for key in path:
        value = dict(_children(value))[key]
    return value


def replaced(value: Any, path: Path, leaf: Any) -> Any:
    """Replace the value at a path; returns a new structure that shares everything off the path.

    Example:
        >>> replaced(({"a": 1, "b": 2}, 3), (0, "a"), 9)
        ({'a': 9, 'b': 2}, 3)
    """
    if not path:
        return leaf
    key, rest = path[0], path[1:]
    return _rebuilt(value, {key: replaced(dict(_children(value))[key], rest, leaf)})


def mapped(value: Any, function: Callable[[Tensor], Any]) -> Any:
    """Apply ``function`` to the tensors of a structure; returns a new structure that shares all other objects.

    Example:
        >>> mapped([torch.ones(2), "text"], lambda x: x.sum().item())
        [2.0, 'text']
    """
    if isinstance(value, Tensor):
        return function(value)
    if not _is_rebuildable(value):
        return value
    return _rebuilt(value, {key: mapped(inner, function) for key, inner in _children(value)})


def taken(value: Any, rows: Tensor, size: int) -> Any:
    """Select examples of a structure: index each tensor that has ``size`` rows, and keep everything else.

    A list with ``size`` tensors, one for each example (of different shapes, say), is indexed in the same way.

    Example:
        >>> taken({"ids": torch.arange(6).view(3, 2), "scale": torch.ones(1)}, torch.tensor([2, 0]), 3)
        {'ids': tensor([[4, 5],
                [0, 1]]), 'scale': tensor([1.])}
    """
    if isinstance(value, Tensor):
        return value[rows.to(value.device)] if value.ndim and len(value) == size else value
    if is_ragged(value) and len(value) == size:
        return type(value)([value[row] for row in rows.tolist()])
    if not _is_rebuildable(value):
        return value
    return _rebuilt(value, {key: taken(inner, rows, size) for key, inner in _children(value)})


def joined(structures: Sequence[Any]) -> Any:
    """Concatenate structures along the batch dimension; ``None`` if they do not match.

    Tensors that differ only in the number of rows are concatenated; everything else must be equal.

    Example:
        >>> joined([{"x": torch.zeros(2, 3), "scale": 1.0}, {"x": torch.ones(1, 3), "scale": 1.0}])["x"].shape
        torch.Size([3, 3])
    """
    first = structures[0]
    if len(structures) == 1:
        return first
    if isinstance(first, Arguments) and first.whole:
        return None
    found = [list(leaves(structure, within_objects=False)) for structure in structures]
    kinds = [repr(mapped(structure, lambda _: "")) for structure in structures]  # everything but tensors
    if len({(kind, *(path for path, _ in own)) for kind, own in zip(kinds, found, strict=True)}) > 1:
        return None
    whole = first
    for parts in zip(*found, strict=True):
        paths, tensors = zip(*parts, strict=True)
        if len({(leaf.shape[1:], leaf.dtype) for leaf in tensors}) > 1 or not all(leaf.ndim for leaf in tensors):
            first_leaf = tensors[0]  # mutants: all must be equal, so any of them
            if not all(leaf.shape == first_leaf.shape and torch.equal(leaf, first_leaf) for leaf in tensors):
                return None
            continue
        (path,) = set(paths)
        whole = replaced(whole, path, torch.cat(tensors))
    return whole


def is_ragged(value: Any) -> bool:
    """Whether a list or tuple holds one tensor per example, without a batch dimension, as detectors take them."""
    if type(value) not in (list, tuple) or not all(isinstance(one, Tensor) for one in value):
        return False
    return len({one.shape for one in value}) > 1 and len({one.shape[:1] for one in value}) == 1


def moved(value: Any, device: torch.device | str) -> Any:
    """Move a structure to a device; other objects by their own ``to``."""
    if isinstance(value, Tensor):
        return value.to(device)
    if not _is_rebuildable(value):
        return value.to(device) if callable(getattr(value, "to", None)) else value
    return _rebuilt(value, {key: moved(inner, device) for key, inner in _children(value)})


def detached(value: Any) -> Any:
    """Copy a structure to the CPU, without shared memory."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if not _is_rebuildable(value):
        kept = copy.copy(value)
        return kept.to("cpu") if callable(getattr(kept, "to", None)) else kept
    return _rebuilt(value, {key: detached(inner) for key, inner in _children(value)})


def is_plain(value: Any) -> bool:
    """Whether a structure holds only tensors, numbers, strings, lists, tuples and dicts: safe in checkpoints."""
    if isinstance(value, Tensor) or value is None or type(value) in (bool, int, float, str):
        return True
    if type(value) in (list, tuple):
        return all(map(is_plain, value))
    return type(value) is dict and all(isinstance(key, str) for key in value) and all(map(is_plain, value.values()))


def checksum(value: Any) -> str:
    """CRC-32 checksum of the tensors of a structure, as hexadecimal text."""
    found = 0
    for tensor in tensors_in(value):
        whole = tensor.detach().cpu().resolve_conj()
        whole = torch.view_as_real(whole) if whole.is_complex() else whole
        found = zlib.crc32(whole.float().contiguous().numpy().tobytes(), found)
    return f"{found:08x}"


def described(value: Any) -> str:
    """Format a structure for a message: types and shapes."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{tuple(value.shape)}"
    if isinstance(value, Arguments):
        parts = [*map(described, value.args), *(f"{name}={described(inner)}" for name, inner in value.kwargs.items())]
        return f"({', '.join(parts)})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {described(inner)}" for key, inner in value.items()) + "}"
    if type(value) in (list, tuple):
        parts = list(map(described, value[:MOST_PARTS]))
        more = [f"... {len(value) - MOST_PARTS:,} more"] if len(value) > MOST_PARTS else []
        return f"[{', '.join(parts + more)}]"
    return repr(value) if value is None or isinstance(value, (bool, int, float, str)) else type(value).__name__


def _children(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        yield from value._asdict().items()
    elif isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        yield from enumerate(value)
    elif is_dataclass(value) and not isinstance(value, type):
        yield from ((item.name, getattr(value, item.name)) for item in fields(value))
    elif callable(getattr(value, "to_dict", None)) and callable(getattr(value, "to", None)):  # graphs
        yield from value.to_dict().items()


def _is_rebuildable(value: Any) -> bool:
    if isinstance(value, (Mapping, Sequence)):
        return not isinstance(value, (str, bytes, range))
    return is_dataclass(value) and not isinstance(value, type)


def _rebuilt(value: Any, changed: Mapping[Any, Any]) -> Any:
    """A structure of the same kind with some of its parts replaced."""
    parts = {**dict(_children(value)), **changed}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return value._replace(**parts)  # type: ignore[attr-defined]
    if isinstance(value, tuple):
        return tuple(parts.values())
    if type(value) is dict:
        return parts
    if type(value) is list:
        return list(parts.values())
    if isinstance(value, Sequence):
        return type(value)(parts.values())  # type: ignore[call-arg]
    found = copy.copy(value)  # of a dataclass or a mapping of the user's kind
    if is_dataclass(value) and not isinstance(value, Mapping):
        for name, inner in changed.items():
            object.__setattr__(found, name, inner)
        return found
    if hasattr(found, "data") and isinstance(found.data, dict):  # UserDict shares its dict with a shallow copy
        found.data = dict(found.data)
    for key, inner in changed.items():
        found[key] = inner
    return found
