"""Rank the calls of a training step by how plausible they are as the encoder."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from synbench_lightning.runtime.call_recorder import Call, Key
from synbench_lightning.runtime.call_tree import SMALL, CallTree
from synbench_lightning.runtime.encoder import CANDIDATES
from synbench_lightning.runtime.module_names import AVERAGES, STEMS, is_head, last_words, named_like_encoder, words

MAKERS = {"generator", "generate", "decoder", "decode", "reconstruct"}
"""Words in the names of modules that generate or reconstruct inputs."""


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

    def key(call: Call) -> tuple[float, ...]:
        depth = call.path.count(".") + 1 if call.path else 0
        beside = [sizes[other.path] for other in found if other.path and other.path.count(".") + 1 == depth]
        documented = CANDIDATES.index(call.path) if call.path in CANDIDATES else len(CANDIDATES)
        return (
            not call.trained,
            bool(words(call.path) & AVERAGES),
            _kind(call, tree),
            call.input is None or call.input.is_integer,
            depth,
            documented,
            sizes[call.path] < SMALL * max(beside, default=0),
            call.order[0],
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
    layer = not any(True for _ in tree.root.get_submodule(call.path).children())
    return tree.shares_input(call) and not layer and all(not tree.represents(owner) for owner in tree.owners(call))


def _kind(call: Call, tree: CallTree) -> float:
    """Rank of a call by name and position as the encoder: 0 is best."""
    if last_words(call.path) & STEMS:
        return 7
    represents, readout = tree.represents(call), tree.readout(call)
    if not represents:
        return 6 if readout is None else 2 if readout.head else 3
    if call.path == "":
        heads = any(is_head(path) for path, _ in tree.calls if path and "." not in path)
        return 3 if heads or tree.has_encoder(call) else 1
    if tree.is_encoding_method(call):
        return 0
    named = named_like_encoder(call.path)
    if any(tree.represents(owner) for owner in tree.owners(call)):
        return 5 if named else 6
    if tree.is_stage(call):
        return 4
    if named:
        return 0
    return 1 if "." not in call.path or tree.shares_input(call) else 6
