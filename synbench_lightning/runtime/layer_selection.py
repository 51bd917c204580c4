"""Select the layers of a network: the stages or blocks that ran in one forward, in order."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

MOST_LAYERS = 12
FEWEST_ALIKE = 3
"""At least this many modules of one class, called in sequence, are the blocks of a network."""
BEFORE = {"embed", "embedding", "embeddings", "embedder", "stem", "tokenizer", "patchify", "preprocess", "augment",
          "augmentation", "wte", "wpe", "normalize", "pos"}  # fmt: skip
"""Words in the names of modules before the blocks."""
BEHIND = {"head", "heads", "projector", "projection", "predictor", "classifier", "fc", "pooler", "logits", "decoder"}
"""Words in the names of modules after the blocks, which are not layers; the network's output is read anyway."""


class CalledModule(NamedTuple):
    """A module that was called in a forward of the encoder.

    Args:
        path: dotted name of the module, relative to one root.
        kind: its class.
        weights: number of elements of its matrices and kernels, including submodules; no biases or norms.
        shape: shape of its output ``(N, ...)``; ``None`` if that is not a tensor with one row per example.
    """

    path: str
    kind: str
    weights: int
    shape: tuple[int, ...] | None = None


def select_layers(calls: Sequence[CalledModule], most: int = MOST_LAYERS) -> tuple[str, ...]:
    """Select at most ``most`` layers of a network, spread over its depth, in the order of their calls.

    Blocks are at least three sibling modules of one class that hold more than half of the weights of their parent. If a
    module has no blocks but a child with more than half of its weights, they are searched for in that child. If there
    is no such child, all children with weights are layers. A child that is a single layer with weights (a convolution)
    includes the normalization and the activation after it.

    Args:
        calls: the modules, each once, in the order in which their (last) calls ended.
        most: maximum number of layers.

    Example:
        >>> stage = [CalledModule(f"net.layer{n}", "Sequential", 4**n, (2, 8 * 2**n, 8, 8)) for n in range(1, 5)]
        >>> calls = [CalledModule("net.conv1", "Conv2d", 1, (2, 8, 16, 16)), *stage, CalledModule("net", "ResNet", 341)]
        >>> select_layers(calls)
        ('net.layer1', 'net.layer2', 'net.layer3', 'net.layer4')
    """
    children = _children(calls)
    node = children[None][0].path if len(children[None]) == 1 else None
    while True:
        blocks = _blocks(children.get(node, []), children)
        blocks = [block for block in blocks if not _words(block.start) & BEHIND] or blocks
        total = sum(block.weights for block in blocks)
        largest = max(blocks, key=lambda block: block.weights, default=None)
        alike = _alike(blocks, total)
        if alike or largest is None or 2 * largest.weights <= total or not children.get(largest.start):
            break
        node = largest.start
        while len(inner := _blocks(children.get(node, []), children)) == 1:  # a wrapper
            node = inner[0].start
        if not inner and len(blocks) > 1:
            break
    return _spread([block.path for block in alike or blocks if block.shape is not None], most)


class _Block(NamedTuple):
    """A layer: the module with the weights (``start``), and the one whose output is that of the layer (``path``)."""

    start: str
    path: str
    kind: str
    weights: int
    shape: tuple[int, ...] | None


def _children(calls: Sequence[CalledModule]) -> dict[str | None, list[CalledModule]]:
    """The called modules directly in each called one; under ``None`` the outermost. Containers that are not called
    themselves (lists of modules) are passed over.
    """
    paths = {call.path for call in calls}
    found: dict[str | None, list[CalledModule]] = {None: []}
    for call in calls:
        found.setdefault(_owner(call.path, paths), []).append(call)
    return found


def _owner(path: str, paths: set[str]) -> str | None:
    """The longest of some paths that leads to another one."""
    while path:
        path, _, _ = path.rpartition(".")
        if path in paths:
            return path
    return None


def _blocks(parts: Sequence[CalledModule], children: dict[str | None, list[CalledModule]]) -> list[_Block]:
    """The children that have weights, without those that prepare the input."""
    found: list[_Block] = []
    for part in parts:
        if part.weights:
            found.append(_Block(part.path, part.path, part.kind, part.weights, part.shape))
        elif found and part.shape == found[-1].shape and not children.get(found[-1].start):
            found[-1] = found[-1]._replace(path=part.path)
    return [block for block in found if not _words(block.start) & BEFORE] or found


def _alike(blocks: Sequence[_Block], total: int) -> list[_Block]:
    """Blocks of one class that hold more than half of the weights; none if there are too few."""
    for kind in dict.fromkeys(block.kind for block in blocks):
        alike = [block for block in blocks if block.kind == kind]
        if len(alike) >= FEWEST_ALIKE and 2 * sum(block.weights for block in alike) > total:
            return alike
    return []


def _spread(paths: Sequence[str], most: int) -> tuple[str, ...]:
    """At most ``most`` evenly spaced paths, including the first and the last."""
    indices = np.linspace(0, len(paths) - 1, min(most, len(paths))).round()
    return tuple(paths[int(index)] for index in indices)


def _words(path: str) -> set[str]:
    """The words of the last name of a path."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", path.rpartition(".")[2])}
