"""Which of the calls of a training step is the encoder's."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from synbench_lightning.runtime.call_recorder import Call, Key
from synbench_lightning.runtime.encoder import CANDIDATES
from synbench_lightning.runtime.module_names import AVERAGES, STEMS, is_head, last_words, named_like_encoder, words

SMALL = 0.03
"""A module with a smaller fraction of the parameters of the largest one beside it is not the encoder."""


def rank_encoders(calls: Mapping[Key, Call], root: nn.Module) -> list[Call]:
    """The calls that give a representation, the most plausible encoder first.

    Heads are none. What is trained goes before its frozen or averaged copy, a name that says encoder before one that
    says nothing, the outermost module that returns a representation before its parts, and what is called earlier
    before what is called later. A module that ends in a head or a decoder, or returns a loss or something of the shape
    of the picture that it is given, does not return a representation: its parts that are given its own input do.

    Args:
        calls: of a training step, by key (see :class:`.CallRecorder`).
        root: the module that the paths start from.
    """
    tree = CallTree(calls, root)
    found = [call for call in calls.values() if tree.may_be_encoder(call)]
    sizes = {call.path: _parameters(root, call.path) for call in found}

    def key(call: Call) -> tuple[float, ...]:
        depth = call.path.count(".") + 1 if call.path else 0
        beside = [sizes[other.path] for other in found if other.path and other.path.count(".") + 1 == depth]
        documented = CANDIDATES.index(call.path) if call.path in CANDIDATES else len(CANDIDATES)
        return (
            not call.trained,
            bool(words(call.path) & AVERAGES),
            tree.kind(call),
            call.input is None or call.input.is_integer,
            depth,
            documented,
            sizes[call.path] < SMALL * max(beside, default=0),
            call.order[0],
        )

    return sorted(found, key=key)


class CallTree:
    """Which call was made in which other, and what that says of them.

    Args:
        calls: of a training step, by key.
        root: the module that the paths start from.
    """

    def __init__(self, calls: Mapping[Key, Call], root: nn.Module) -> None:
        self.calls, self.root = calls, root
        self._returns: dict[Key, bool] = {}

    def may_be_encoder(self, call: Call) -> bool:
        """Whether a call gives features that may be the representation: heads, layers and losses are none."""
        if not call.features or call.arguments is None or is_head(call.path) or is_head(call.method):
            return False
        inner = "." in call.path
        if not inner or named_like_encoder(call.path):
            return True
        layer = not any(True for _ in self.root.get_submodule(call.path).children())
        return call.shares_input and not layer and all(not self.represents(owner) for owner in self._owners(call))

    def kind(self, call: Call) -> float:
        """How well the name and the position of a call become an encoder: 0 is best."""
        if call.path == "":
            return 1 if self.represents(call) and not self._has_heads else 2
        inner = "." in call.path
        covered = any(self.represents(owner) for owner in self._owners(call))
        if last_words(call.path) & STEMS:
            return 5
        if covered:
            return 3 if named_like_encoder(call.path) else 4
        if not self.represents(call):
            return 2
        if named_like_encoder(call.path):
            return 0
        return 1 if not inner or call.shares_input else 4

    def represents(self, call: Call) -> bool:
        """Whether what a call returns is a representation, as far as can be seen."""
        if call.key not in self._returns:
            self._returns[call.key] = self._represents(call)
        return self._returns[call.key]

    def head(self, call: Call) -> Call | None:
        """The head that a call ends in: the last call of a part of the module, where that has parameters and the name
        of a head.
        """
        parts = [other for other in self.calls.values() if other.parent == call.key and other.path != call.path]
        parts = [other for other in parts if _parameters(self.root, other.path)]
        last = max(parts, key=lambda other: other.order[1], default=None)
        return last if last is not None and is_head(last.path.removeprefix(f"{call.path}.")) else None

    def _represents(self, call: Call) -> bool:
        if not call.features or call.returns_loss or self.head(call) is not None:
            return False
        inside = f"{call.path}." if call.path else ""
        within = [other for other in self.calls.values() if self._is_within(other, call)]
        if any("decoder" in words(other.path.removeprefix(inside)) for other in within if other.path != call.path):
            return False
        shape = () if call.input is None else call.input.shape
        picture = len(shape) >= 2 and any(output[1:] == shape for output in call.shapes)
        return not (picture and len(shape) >= 3 and any(self._narrower(other, shape) for other in within))

    def _narrower(self, other: Call, shape: tuple[int, ...]) -> bool:
        """Whether a part returns features of another shape than the picture that the whole returns."""
        return any(len(output) >= 2 and output[2:] != shape[1:] for output in other.shapes)

    def _is_within(self, call: Call, outer: Call) -> bool:
        while call.parent is not None and call.parent in self.calls:
            call = self.calls[call.parent]
            if call.key == outer.key:
                return True
        return False

    def _owners(self, call: Call) -> list[Call]:
        """The calls of modules, from the inside out, in which a call was made, but for those of the root."""
        found = []
        while call.parent is not None and call.parent in self.calls:
            call = self.calls[call.parent]
            if call.path:
                found.append(call)
        return found

    @property
    def _has_heads(self) -> bool:
        return any(is_head(path) for path, _ in self.calls if path and "." not in path)


def _parameters(root: nn.Module, path: str) -> int:
    return sum(parameter.numel() for parameter in root.get_submodule(path).parameters())
