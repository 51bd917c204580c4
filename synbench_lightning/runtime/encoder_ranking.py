"""Which of the modules that training calls is the encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import nn

from synbench_lightning.runtime.call_recorder import Call, has_forward
from synbench_lightning.runtime.encoder import CANDIDATES

TRUNKS = {"encoder", "backbone", "trunk", "body", "features", "extractor", "visual", "vision"}
"""Words in the name of what computes a representation."""
HEADS = {
    "head", "heads", "projector", "projection", "proj", "predictor", "prediction", "decoder", "classifier", "fc",
    "loss", "criterion", "discriminator", "prototypes", "logits", "readout",
}  # fmt: skip
"""Words in the name of what training puts behind it."""
STEMS = {"embed", "embedding", "embeddings", "embedder", "stem", "tokenizer", "patchify", "augment", "augmentation",
         "normalize", "norm", "transform", "pos", "masking"}  # fmt: skip
"""Words in the name of what stands before it."""
AVERAGES = {"teacher", "momentum", "ema", "target", "average", "averaged", "key", "slow", "k"}
"""Words in the name of a copy that follows the one that is trained."""
SMALL = 0.03
"""A module with a smaller share of the parameters of the largest one beside it is not the encoder."""


def rank_encoders(calls: Mapping[str, Call], root: nn.Module) -> list[Call]:
    """The calls of modules that give features, the most plausible encoder first.

    Heads are none, and what needs more than an input comes last. What is trained goes before its frozen or averaged
    copy, a name that says encoder before one that says nothing, the outer before the inner, and what is called earlier
    before what is called later.

    Args:
        calls: of a training step, by path, in their order (see :class:`.CallRecorder`).
        root: the module that the paths start from.
    """
    found = {path: call for path, call in calls.items() if call.features and not is_head(path) and _may_be(path, root)}
    sizes = {path: sum(p.numel() for p in root.get_submodule(path).parameters()) for path in found}
    order = {path: place for place, path in enumerate(found)}

    def key(call: Call) -> tuple[float, ...]:
        path = call.path
        words = _words(path)
        depth = path.count(".") + 1 if path else 0
        beside = [sizes[other] for other in found if other and other.count(".") + 1 == depth]
        documented = CANDIDATES.index(path) if path in CANDIDATES else len(CANDIDATES)
        return (
            bool(call.missing),
            not call.trained,
            bool(words & AVERAGES),
            _kind(call, found, calls),
            depth,
            documented,
            sizes[path] < SMALL * max(beside, default=0),
            order[path],
        )

    return sorted(found.values(), key=key)


def _kind(call: Call, found: Mapping[str, Call], calls: Mapping[str, Call]) -> float:
    """How well the name and the place of a module become an encoder: 0 is best."""
    path = call.path
    if path == "":
        return 2 if any(is_head(other) for other in calls if "." not in other) else 1
    inner = "." in path
    if _words(path.rsplit(".", 1)[-1]) & TRUNKS:
        return 3 if inner and _is_part(call, found, calls) else 0
    if _words(path.rsplit(".", 1)[-1]) & STEMS:
        return 5
    return 4 if inner else 1


def _is_part(call: Call, found: Mapping[str, Call], calls: Mapping[str, Call]) -> bool:
    """Whether an inner "encoder" is a part of one, as the blocks of a vision transformer are: its input is not its
    owner's, and no decoder follows in there.
    """
    for depth in range(call.path.count("."), 0, -1):
        owner = found.get(".".join(call.path.split(".")[:depth]))
        if owner is not None and owner.direct and not owner.missing:
            decodes = any("decoder" in _words(path) for path in calls if path.startswith(f"{owner.path}."))
            return not decodes and torch.Size(owner.shape).numel() != torch.Size(call.shape).numel()
    return False


def _may_be(path: str, root: nn.Module) -> bool:
    """Whether a module is one of its own, or has the name of an encoder: a block of a network is not its encoder."""
    names = path.split(".")
    owners = (root.get_submodule(".".join(names[:depth])) for depth in range(1, len(names)))
    return bool(_words(names[-1]) & TRUNKS) or not any(map(has_forward, owners))


def is_head(path: str) -> bool:
    """Whether a module has the name of a head, and not that of an encoder inside one."""
    return bool(_words(path) & HEADS) and not _words(path.rsplit(".", 1)[-1]) & TRUNKS


def _words(path: str) -> set[str]:
    """The words of a dotted attribute.

    Example:
        >>> sorted(_words("student.patchEncoder_q"))
        ['encoder', 'patch', 'q', 'student']
    """
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", path)}
