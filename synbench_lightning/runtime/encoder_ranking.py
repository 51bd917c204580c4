"""Rank the calls of a training step by how plausible they are as the encoder."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, auto
from typing import Any

from torch import nn

from synbench_lightning.runtime.call_recorder import Call, Key
from synbench_lightning.runtime.call_tree import SMALL, CallTree
from synbench_lightning.runtime.encoder import CANDIDATES
from synbench_lightning.runtime.module_names import AVERAGES, STEMS, is_head, last_words, named_like_encoder, words

MAKERS = {"generator", "generate", "decoder", "decode", "reconstruct"}
"""Words in the names of modules that generate or reconstruct inputs."""


class Kind(IntEnum):
    """What a call is, by name and position; the most plausible encoder comes first."""

    ENCODER = auto()
    """Has the name of an encoder, or is a method that encodes."""
    NETWORK = auto()
    """Returns a representation."""
    BEFORE_HEAD = auto()
    """The representation is the input of its head."""
    WITH_ENCODER = auto()
    """The representation is returned by another module: a part of it, or one before a head of the step."""
    STAGE = auto()
    """One of several stages before the representation."""
    INNER_ENCODER = auto()
    """Has the name of an encoder, and is part of a module that returns a representation."""
    OTHER = auto()
    """Part of a module that returns a representation, or a module whose representation cannot be located."""
    STEM = auto()
    """Has the name of what comes before an encoder."""


def rank_encoders(calls: Mapping[Key, Call], root: nn.Module) -> list[Call]:
    """Return the calls that produce a representation, the most plausible encoder first.

    Heads are excluded unless there is nothing else. Trained modules precede their frozen or averaged copies, names of
    encoders precede other names, the outermost module that returns a representation precedes its submodules, and
    earlier calls precede later ones. A module that does not return its representation (:meth:`.CallTree.represents`)
    follows those of its submodules that take its own input and return the representation, and precedes those that are
    one stage of it.

    Args:
        calls: calls of a training step, by key (see :class:`.CallRecorder`).
        root: the module that the paths start from.
    """
    tree = CallTree(calls, root)
    found = [call for call in calls.values() if _may_be_encoder(call, tree)]
    if not found:
        found = [call for call in calls.values() if call.features and call.arguments is not None and call.path]
        found = [call for call in found if "." not in call.path and not words(call.path) & MAKERS]
    sizes = {call.path: sum(p.numel() for p in root.get_submodule(call.path).parameters()) for call in found}

    def key(call: Call) -> tuple[Any, ...]:
        beside = [size for path, size in sizes.items() if _depth(path) == _depth(call.path)]
        documented = CANDIDATES.index(call.path) if call.path in CANDIDATES else len(CANDIDATES)
        return (
            not call.trained,
            bool(words(call.path) & AVERAGES),
            _kind(call, tree),
            call.input is None or call.input.is_integer,
            _depth(call.path),
            documented,
            sizes[call.path] < SMALL * max(beside),
            call.order,
        )

    return sorted(found, key=key)


def _may_be_encoder(call: Call, tree: CallTree) -> bool:
    """Whether a call returns features that may be the representation; heads, single layers and losses do not."""
    if call.arguments is None or is_head(call.path) or is_head(call.method):
        return False
    if not call.features and (call.path == "" or tree.readout(call) is None):
        return False
    if "." not in call.path or named_like_encoder(call.path):
        return True
    layer = not list(tree.root.get_submodule(call.path).children())
    return tree.shares_input(call) and not layer and all(not tree.represents(owner) for owner in tree.owners(call))


def _depth(path: str) -> int:
    return len(path.split(".")) if path else 0


def _kind(call: Call, tree: CallTree) -> Kind:
    if last_words(call.path) & STEMS:
        return Kind.STEM
    if not tree.represents(call):
        readout = tree.readout(call)
        if readout is None:
            return Kind.OTHER
        return Kind.BEFORE_HEAD if readout.head else Kind.WITH_ENCODER
    if call.path == "":
        heads = any(is_head(path) for path, _ in tree.calls if _depth(path) == 1)
        return Kind.WITH_ENCODER if heads or tree.has_encoder(call) else Kind.NETWORK
    if tree.is_encoding_method(call):
        return Kind.ENCODER
    named = named_like_encoder(call.path)
    if any(tree.represents(owner) for owner in tree.owners(call)):
        return Kind.INNER_ENCODER if named else Kind.OTHER
    if tree.is_stage(call):
        return Kind.STAGE
    return Kind.ENCODER if named else Kind.NETWORK
