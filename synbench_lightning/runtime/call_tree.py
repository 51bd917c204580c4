"""The tree of recorded calls, and which of them return a representation."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import NamedTuple

from torch import nn

from synbench_lightning.runtime.call_recorder import Call, Key
from synbench_lightning.runtime.channel_layout import Widths, channel_axis
from synbench_lightning.runtime.module_names import ENCODES, LOSSES, is_head, named_like_encoder, words
from synbench_lightning.runtime.structures import leaves

SMALL = 0.03
"""A module with less than this fraction of the parameters of its largest sibling is not the encoder."""


class Readout(NamedTuple):
    """Where the representation is in a module that returns something else.

    ``head``: path, in the module, of the head whose input it is. ``parts``: without such a head, paths of submodules
    that may return it, the most plausible first.
    """

    head: str = ""
    parts: tuple[str, ...] = ()


class CallTree:
    """The calls of a training step as a tree, and what can be inferred from it.

    Args:
        calls: calls of a training step, by key.
        root: the module that the paths start from.
    """

    def __init__(self, calls: Mapping[Key, Call], root: nn.Module) -> None:
        self.calls, self.root = calls, root
        self._returns: dict[Key, bool] = {}
        self._feeders: dict[Key, list[Key]] = {key: [] for key in calls}
        for call in calls.values():
            for consumer in call.consumers:
                self._feeders[consumer].append(call.key)

    def represents(self, call: Call) -> bool:
        """Whether the output of a call is a representation, as far as can be inferred.

        It is not if it is a loss, the output of a head or a decoder, a reconstruction of the input, predicted tokens,
        or a comparison of several inputs.
        """
        if call.key not in self._returns:
            self._returns[call.key] = self._represents(call)
        return self._returns[call.key]

    def readout(self, call: Call) -> Readout | None:
        """Where the representation is in a call that does not return it; ``None`` if that cannot be inferred."""
        if self.represents(call) or self._compares(call):
            return None
        head = self.head(call)
        if head is not None:
            encoders = [part for part in self._feeders_of(head, call) if named_like_encoder(part.path)]
            if encoders and "decoder" in words(_relative(head, call)):  # which may be given mask tokens too
                return Readout(parts=(_relative(encoders[-1], call),))
            return Readout(head=_relative(head, call)) if head.features else None
        parts = [part for part in self.parts(call) if part.features and not is_head(_relative(part, call))]
        if self._predicts_words(call):
            found = [part for part in reversed(parts) if not self._predicts_words(part, of=call)]
        elif self._reconstructs(call):
            found = self._narrowest_first(call, parts)
        else:
            return None
        return Readout(parts=tuple(dict.fromkeys(_relative(part, call) for part in found))) if found else None

    def head(self, call: Call) -> Call | None:
        """The head that a call ends in: its last submodule with parameters, if it has the name of a head.

        Without such a name, it is a head if it is a linear layer that reduces the dimension and only the loss uses its
        output. Of consecutive heads the first is returned; of several, the one that consumes the output of the latest
        submodule, since others may process targets.
        """
        last = self._last_head(call)
        if last is None:
            return None
        others = [part for part in self.parts(call) if is_head(_relative(part, call)) and part.features]
        heads = [self._first_head(head, call) for head in (last, *filter(self._has_matrix, others))]
        earliest = float("-inf")
        return max(
            heads, key=lambda head: max((one.order[1] for one in self._feeders_of(head, call)), default=earliest)
        )

    def _first_head(self, head: Call, call: Call) -> Call:
        seen = set[Key]()
        while head.key not in seen:
            seen.add(head.key)
            before = (one for one in self._feeders_of(head, call) if is_head(_relative(one, call)))
            head = next(before, head)
        return head

    def _feeders_of(self, part: Call, call: Call) -> list[Call]:
        """Submodules with weights in a call whose outputs another submodule in it consumed."""
        found = [self.calls[key] for key in self._feeders[part.key]]
        found = [one for one in found if self._is_within(one, call) and not self._is_within(one, part)]
        return [one for one in found if self._has_matrix(one)]

    def _last_head(self, call: Call) -> Call | None:
        parts = [part for part in self.parts(call) if self._has_matrix(part)]
        last = max(parts, key=lambda part: part.order[1], default=None)
        if last is not None and (is_head(_relative(last, call)) or self._classifies(call, last)):
            alone = len(parts) == 1 and self.shares_input(last)  # then the only representation is its output
            return None if alone else last
        makers = [self.calls[key] for key in call.made_by]
        makers = [maker for maker in makers if self._is_within(maker, call) and self._has_matrix(maker)]
        heads = [maker for maker in makers if is_head(_relative(maker, call))]
        return min(heads, key=lambda maker: maker.order, default=None)

    def is_stage(self, call: Call) -> bool:
        """Whether a submodule is one stage of a pipeline whose later stages produce the representation."""
        owner = self._owner(call)
        if owner is not None and owner.path == "" and not owner.features:  # a step
            owner = next((one for one in self._callers(call) if one.path == "" and one.features), None)
        if owner is None:
            return not named_like_encoder(call.path) and self._is_small_beside(call)
        readout = self.readout(owner)
        if readout is None:
            return False
        if named_like_encoder(call.path):
            if self._feeders_of(call, owner):
                return True
            later = [part for part in self.parts(owner) if part.key in call.consumers and part.features]
            return any(self._continues(part, call, owner) for part in later)
        if readout.head:
            head = self.head(owner)
            assert head is not None
            size = _parameters(self.root, call.path)
            taken = head.input and (head.input.rows, *head.input.shape)
            same_shape = call.input is None or owner.input is None or call.input.shape == owner.input.shape
            if not (same_shape or self._passed_on(call, "given")):
                return True
            later = [part for part in self.parts(owner) if part.key in call.consumers]
            heads = [part for part in later if part.key == head.key or is_head(_relative(part, owner))]
            later = [part for part in later if part not in heads]
            if heads and not any(_parameters(self.root, part.path) > size for part in later):
                return False
            return any(_parameters(self.root, part.path) for part in later) or taken not in call.shapes
        if call.path == owner.path:  # another method of it
            first = min(self._extent(part, owner) for part in self.parts(owner) if part.features)
            return self._extent(call, owner) > first
        return _relative(call, owner) != readout.parts[0]

    def has_encoder(self, call: Call) -> bool:
        """Whether a network in it encodes the input to vectors, which later modules then project."""
        vectors = [part for part in self.parts(call) if part.features and all(len(shape) == 2 for shape in part.shapes)]
        larger = [part for part in vectors if part.input is not None and len(part.input.shape) > 1]
        networks = [part for part in larger if list(self._module(part).children())]
        return any(part.consumers and self._passed_on(part, "given") and not is_head(part.path) for part in networks)

    def is_encoding_method(self, call: Call) -> bool:
        """Whether a method named like an encoder produces the input of the module's other layers with weights."""
        owner = self._owner(call)
        if owner is None or owner.path != call.path or not words(call.method) & ENCODES:
            return False
        return any(part.key in call.consumers and self._has_matrix(part) for part in self.parts(owner))

    def outer(self, call: Call) -> Call:
        """The enclosing call whose other submodules produce the input of an inner layer; else the call itself."""
        found, inner, seen = call, call, {call.key}
        while (owner := self._owner(inner)) is not None and owner.key not in seen:
            seen.add(owner.key)
            found = owner if self._is_fed(inner, owner) else found
            inner = owner
        return call if found.arguments is None else found

    def _is_fed(self, call: Call, owner: Call) -> bool:
        """Whether a submodule consumes the output of other submodules with parameters."""
        others = (part for part in self.parts(owner) if call.key in part.consumers and part.key != call.key)
        inside = call.path.startswith(f"{owner.path}.") if owner.path else not owner.method
        return inside and any(_parameters(self.root, part.path) for part in others)

    def shares_input(self, call: Call) -> bool:
        """Whether a submodule's input is that of the module's call in which it was called."""
        return self._passed_on(call, "shares_input")

    def owners(self, call: Call) -> list[Call]:
        """The enclosing calls of modules, from the inside out, except those of the root."""
        return [owner for owner in self._callers(call) if owner.path]

    def _callers(self, call: Call) -> list[Call]:
        found: list[Call] = []
        while call.parent is not None and call.parent in self.calls and self.calls[call.parent] not in found:
            call = self.calls[call.parent]
            found.append(call)
        return found

    def parts(self, call: Call) -> list[Call]:
        """The calls of submodules made in a call, directly or through other methods of the module."""
        return [other for other in self.calls.values() if other.path != call.path and self._owner(other, call) is call]

    def _owner(self, call: Call, wanted: Call | None = None) -> Call | None:
        """The enclosing call of a submodule; if that is a method called within its module's call, the module's call."""
        seen = {call.key}
        found: Call | None = None
        while call.parent is not None and call.parent in self.calls and call.parent not in seen:
            call = self.calls[call.parent]
            seen.add(call.key)
            if found is not None and call.path != found.path:
                break
            found = call
            if call is wanted:
                break
        return found

    def _passed_on(self, call: Call, how: str) -> bool:
        """Whether an input is passed down to a call through other methods of the enclosing module."""
        owner = self._owner(call)
        while owner is not None and call is not owner:
            if not getattr(call, how):
                return False
            assert call.parent is not None
            call = self.calls[call.parent]
        return True

    def _has_matrix(self, call: Call) -> bool:
        """Whether a module has weight matrices, not only the vectors of a normalization layer."""
        return any(parameter.ndim > 1 for parameter in self._module(call).parameters())

    def _represents(self, call: Call) -> bool:
        if not call.features or call.returns_loss or self.head(call) is not None:
            return False
        within = [other for other in self.calls.values() if self._is_within(other, call)]
        if any("decoder" in words(_relative(other, call)) for other in within if other.path != call.path):
            return False
        return not (self._reconstructs(call) or self._predicts_words(call) or self._compares(call))

    def _reconstructs(self, call: Call) -> bool:
        """Whether an output has the shape of the input but was computed from something smaller."""
        shape = call.input_shape
        if not any(output[1:] == shape for output in call.shapes) or self._is_used(call):
            return False
        if len(shape) >= 3:
            within = [other for other in self.calls.values() if self._is_within(other, call)]
            return any(len(output) >= 2 and output[2:] != shape[1:] for other in within for output in other.shapes)
        return any(2 * _narrowest(part) <= prod(shape) for part in self.parts(call) if part.features)

    def _predicts_words(self, call: Call, of: Call | None = None) -> bool:
        """Whether the output is logits over the vocabulary of the input."""
        whole = of or call
        if whole.input is None or not whole.input.is_integer or len(whole.input.shape) != 1 or not call.shapes:
            return False
        layers = [part for part in self._module(whole).modules() if isinstance(part, nn.Embedding)]
        counts = {layer.num_embeddings for layer in layers} - {layer.embedding_dim for layer in layers}
        return bool(call.shapes[0]) and call.shapes[0][-1] in counts

    def _compares(self, call: Call) -> bool:
        """Whether the arguments are several inputs of one kind (views of an example) of which a submodule takes one."""
        if call.input is None or call.input.listed or len(call.input.shape) < 2:
            return False
        whole = (call.input.rows, *call.input.shape)
        alike = [one for _, one in leaves(call.arguments) if one.shape == whole and one.dtype == call.input.dtype]
        return len(alike) > 1 and any(
            part.given and part.features and list(self._module(part).children()) for part in self.parts(call)
        )

    def _classifies(self, call: Call, last: Call) -> bool:
        """Whether the last submodule is a linear layer that reduces the features to the input of the loss."""
        if named_like_encoder(call.path) or self._is_used(call) or not last.features or last.input is None:
            return False
        module = self._module(last)
        linear = any(parameter.ndim == 2 for parameter in module.parameters()) and not list(module.children())
        narrower = 2 * _narrowest(last) <= last.input.numel
        return linear and narrower and len(last.input.shape) == 1 and call.shapes == last.shapes

    def _continues(self, part: Call, stage: Call, owner: Call) -> bool:
        """Whether a consumer of a stage's output has more parameters than the stage, and is no head or decoder."""
        larger = _parameters(self.root, part.path) > _parameters(self.root, stage.path)
        decodes = self.head(owner) is None and _is_as_large(part, owner)
        return larger and not decodes and not is_head(part.path)

    def _is_small_beside(self, call: Call) -> bool:
        """Whether a much larger module, neither head nor decoder, consumes the output of a call."""
        size = _parameters(self.root, call.path)
        others = [self.calls[key] for key in call.consumers if key[0] not in ("", call.path)]
        others = [other for other in others if not (is_head(other.path) or _is_as_large(other, call))]
        return any(size < SMALL * _parameters(self.root, other.path) for other in others)

    def _narrowest_first(self, call: Call, parts: list[Call]) -> list[Call]:
        """Submodules in a reconstructing call, without its output layer: those with the fewest positions first.

        Ties are broken by width for vectors (narrowest first), and by order for maps (last first).
        """
        assert call.input is not None
        shape = call.input.shape
        inner = [part for part in parts if all(own[1:] != shape for own in part.shapes)]
        return sorted(inner, key=lambda part: (self._extent(part, call), -part.order[1]))

    def _extent(self, part: Call, whole: Call) -> tuple[int, ...]:
        """Number of positions of a submodule's smallest output; for vectors, also its width."""
        widths = Widths.of(self._module(whole))

        def positions(own: tuple[int, ...]) -> int:
            channels = channel_axis(own, whole.input_shape, widths).axis
            return prod(size for axis, size in enumerate(own) if axis not in (0, channels))

        fewest = min(positions(own) for own in part.shapes if len(own) >= 2)
        return (fewest, _narrowest(part)) if fewest == 1 else (fewest,)

    def _is_used(self, call: Call) -> bool:
        """Whether a module other than a loss consumes the output of a call."""
        others = {path for path, method in call.consumers if path and (path, method) != call.key}
        return any(not words(path) & LOSSES for path in others)

    def _is_within(self, call: Call, outer: Call) -> bool:
        seen = {call.key}
        while call.parent is not None and call.parent in self.calls and call.parent not in seen:
            call = self.calls[call.parent]
            seen.add(call.key)
            if call.key == outer.key:
                return True
        return False

    def _module(self, call: Call) -> nn.Module:
        return self.root.get_submodule(call.path)


def _relative(call: Call, outer: Call) -> str:
    """The path of a submodule relative to the enclosing module."""
    return call.path.removeprefix(f"{outer.path}.") if outer.path else call.path


def _narrowest(call: Call) -> int:
    """Number of elements per example in the smallest output."""
    return min(prod(shape[1:]) for shape in call.shapes if len(shape) >= 2)


def _is_as_large(part: Call, whole: Call) -> bool:
    """Whether a submodule's output has as many elements per example as the input of the whole."""
    return whole.input is not None and any(prod(shape[1:]) == whole.input.numel for shape in part.shapes)


def _parameters(root: nn.Module, path: str) -> int:
    return sum(parameter.numel() for parameter in root.get_submodule(path).parameters())
