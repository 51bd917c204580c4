"""Heads that training applies to the encoder's output, and how to run them in a probe."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from synbench_lightning.runtime.call_recorder import Call, Key
from synbench_lightning.runtime.encoder_call import Head
from synbench_lightning.runtime.encoder_ranking import MAKERS
from synbench_lightning.runtime.module_names import is_head, words
from synbench_lightning.runtime.structures import tensors_in
from synbench_lightning.runtime.token_masks import Masked

WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "same": lambda x: x,
    "flat": lambda x: x.flatten(1),
    "mean over space": lambda x: x.flatten(2).mean(2),
    "mean over tokens": lambda x: x.mean(1),
    "first token": lambda x: x[:, 0],
}
"""How a head's input vectors may be pooled from an output ``(N, D)``, ``(N, C, ...)`` or ``(N, T, D)``."""
CLOSE = 1e-3
"""Relative difference below which two vectors are equal."""


class _Source(NamedTuple):
    """A possible input of a head: the module that returned it, its index among the outputs, and its first rows."""

    behind: str
    position: int
    rows: Tensor


def heads_behind(encoder: Call, calls: Mapping[Key, Call]) -> tuple[Head, ...]:
    """Find the modules that a training step applied to the encoder's output, directly or after each other.

    Outputs are matched to inputs by their first rows in the first call. Of nested modules, the outermost is returned.

    Args:
        encoder: call of the encoder.
        calls: all calls of the step, by key.
    """
    sources = [_Source("", position, rows) for position, rows in enumerate(encoder.sample)]
    found: list[Head] = []
    for call in sorted(calls.values(), key=lambda call: call.order):
        outside = not (is_within(call.path, encoder.path) or is_within(encoder.path, call.path))
        if not call.path or call.method or call.vectors is None or not (call.trained and outside):
            continue
        if any(is_within(call.path, head.path) for head in found):
            continue
        given, returned = call.vectors
        way = next(((source, way) for source in sources for way in WAYS if _fits(source.rows, way, given)), None)
        if way is not None:
            found.append(Head(call.path, way[0].behind, way[0].position, way[1]))
            sources.append(_Source(call.path, 0, returned))
    return tuple(found)


def run_heads(root: nn.Module, heads: Iterable[Head], output: Any) -> None:
    """Run heads on the encoder's output, for the hooks on them.

    Args:
        root: the module that their paths start from.
        heads: heads of :attr:`.EncoderCall.heads`, in their order.
        output: output of the encoder.
    """
    returned: dict[str, Any] = {"": output.output if isinstance(output, Masked) else output}
    for head in heads:
        if head.behind in returned:
            real = (x for x in tensors_in(returned[head.behind]) if x.is_floating_point() or x.is_complex())
            tensors = [x for x in real if x.ndim >= 2]
            returned[head.path] = root.get_submodule(head.path)(WAYS[head.way](tensors[head.position]))


def heads_to_show(heads: Iterable[Head]) -> tuple[str, ...]:
    """The head to read by default: the first with the name of a head that is not a decoder."""
    named = [head.path for head in heads if is_head(head.path) and not words(head.path) & MAKERS]
    return tuple(named[:1])


def needed_heads(heads: Iterable[Head], names: Iterable[str]) -> tuple[Head, ...]:
    """The heads that must be run to read some layers in them."""
    heads, names = tuple(heads), tuple(names)
    needed = {head.path for head in heads if any(is_within(name, head.path) for name in names)}
    for head in reversed(heads):
        if head.path in needed:
            needed.add(head.behind)
    return tuple(head for head in heads if head.path in needed)


def is_within(path: str, outer: str) -> bool:
    """Whether a path is that of a module or of one of its submodules."""
    return path == outer or path.startswith(f"{outer}.")


def _fits(rows: Tensor, way: str, given: Tensor) -> bool:
    if rows.is_complex() != given.is_complex():
        return False
    if rows.ndim < (2 if way in ("same", "flat") else 3):
        return False
    made, size = WAYS[way](rows), float(given.abs().mean())
    return made.shape == given.shape and torch.allclose(made.to(given), given, rtol=CLOSE, atol=CLOSE * size)
