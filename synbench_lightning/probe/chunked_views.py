"""Views of inputs other than floating-point tensors: token ids, integer images, structures of tensors, graphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from synbench_lightning.checks import is_integer, shown
from synbench_lightning.probe.batched_encoding import BatchedEncoding
from synbench_lightning.probe.view_sampling import (
    INPUT_FORWARDS,
    INPUT_NOISE,
    MOST_INPUTS,
    Kind,
    Views,
    check_enough,
    num_draws,
    random_view,
    view_warnings,
)
from synbench_lightning.runtime.devices import free_bytes, pinned
from synbench_lightning.runtime.input_leaf import input_leaf, num_examples
from synbench_lightning.runtime.structures import at, checksum, described, leaves, mapped, moved, taken, tensors_in

DEVICE_FRACTION = 0.1  # mutants: memory and time alone
"""Views that take less than this fraction of a device's free memory stay there between probes."""


class ChunkedViews:
    """Views of inputs of any kind, in chunks: token ids, structures of tensors, graphs.

    Args:
        kind: kind of views that the information is measured with.
        views: for each view, the same inputs in the same order, in chunks.
        source: prefix of the identity, which describes where the inputs come from.
    """

    def __init__(self, kind: Kind, views: Sequence[Sequence[Any]], source: str = "") -> None:
        self.kind, self.views, self.draws = kind, views, len(views)
        self._device = torch.device("cpu")
        one, other, *_ = views
        counts = [num_examples(chunk) for chunk in one]
        self.num_inputs = sum(1 if count is None else count for count in counts)
        self.warnings = _warnings(one, other)
        self.identity = f"{source}{self.num_inputs} in {self.draws} views ({checksum(list(map(list, views)))})"

    def features(self, encoding: BatchedEncoding) -> Tensor:
        """Encode all views; returns features ``(inputs, draws, D)``."""
        self._bring_to(encoding.device)
        found = encoding.features_of([chunk for view in self.views for chunk in view])
        grouped: Tensor = found.unflatten(0, (self.draws, -1))
        return grouped.transpose(0, 1)

    def few(self, encoding: BatchedEncoding, number: int) -> Any:
        """Return some inputs in the form that the encoder takes."""
        return encoding.few_of(self.views[0][0], number)

    def _bring_to(self, device: torch.device) -> None:
        """Keep views on the device if they fit, else in pinned memory."""
        if device == self._device or device.type == "cpu":
            return
        self._device = device
        views = [list(view) for view in self.views]
        size = sum(tensor.nbytes for tensor in tensors_in(views))
        if size < DEVICE_FRACTION * free_bytes(device):  # mutants: memory and time alone
            self.views = moved(views, device)
        else:
            self.views = mapped(views, pinned)


def _warnings(of_one: Sequence[Any], of_other: Sequence[Any]) -> tuple[str, ...]:
    """Warnings from the first chunk of two views."""
    one, other = of_one[0], of_other[0]
    leaf, again = input_leaf(one), input_leaf(other)
    if leaf is None or again is None or leaf.listed or leaf.shape != again.shape or leaf.rows != again.rows:
        return ()
    sides = [[tensor for path, tensor in leaves(side) if path != leaf.path] for side in (one, other)]
    if checksum(sides[0]) != checksum(sides[1]):  # for example, which tokens are kept
        return ()
    first, second = at(one, leaf.path), at(other, again.path)
    return () if first.is_complex() or len(first) < 2 else view_warnings(first, first, second)


def given_chunks(inputs: Tensor) -> ChunkedViews:
    """Wrap precomputed integer views ``(N, V, ...)``."""
    draws = inputs.shape[1]
    kept = inputs[: INPUT_FORWARDS // draws].detach().cpu()
    check_enough("inputs", len(kept))
    if all(torch.equal(kept[:, 0], kept[:, view]) for view in range(1, draws)):
        raise ValueError("`inputs` (N, V, *input_shape) must contain different views of each input, got equal ones.")
    return ChunkedViews("pairs", [[kept[:, view]] for view in range(draws)])


def drawn_chunks(inputs: Any, views: Views | None, seed: int) -> ChunkedViews:
    """Sample random views of inputs of any kind; without ``views``, integer images get noise."""
    rows = num_examples(inputs)
    if rows is None and not (isinstance(inputs, (list, tuple)) and inputs):
        raise ValueError(
            f"`inputs` must be a tensor (N, ...), a structure of tensors with one row per example, or a list of "
            f"batches, got {shown(inputs)}: `torch.as_tensor` makes a tensor of an array; of a dataset or a loader, "
            "pass a batch of examples."
        )
    if rows is not None:
        check_enough("inputs", rows)
        inputs = taken(inputs, torch.arange(min(rows, MOST_INPUTS)), rows)
    chunks = [inputs] if rows is not None else list(inputs)
    chunks = [mapped(chunk, lambda leaf: leaf.detach().cpu()) for chunk in chunks]
    draws = num_draws(min(rows or MOST_INPUTS, MOST_INPUTS))
    draw, kind = views, "views"
    if views is None:
        if not isinstance(inputs, Tensor) or inputs.ndim < 3 or not is_integer(inputs):
            listed = " For a list of examples pass `torch.stack(inputs)`." if isinstance(inputs, (list, tuple)) else ""
            raise ValueError(
                f"`inputs` {described(inputs)} need `views`, since noise cannot be added to them: pass a function from "
                f"a batch of them to a random view of each (masked tokens, another window, another crop).{listed}"
            )
        draw, kind = _rounded_noise, "noise"
    assert draw is not None
    found = [
        [random_view(draw, chunk, seed, number, place) for place, chunk in enumerate(chunks)] for number in range(draws)
    ]
    for view in found:
        for one, chunk in zip(view, chunks, strict=True):
            _check_structure(one, chunk)
    if len({checksum(view) for view in found}) == 1:
        raise ValueError(
            f"`views` returned the same view {draws} times: it must return a new random view in each call (is the "
            "transform disabled, or does it set its own seed?)."
        )
    return ChunkedViews(kind, found, f"{checksum(chunks)}: ")  # type: ignore[arg-type]


def _rounded_noise(inputs: Tensor) -> Tensor:
    """Add white noise to integer images."""
    values = inputs.double()
    limits = torch.iinfo(inputs.dtype)
    noisy = values + INPUT_NOISE * values.std() * torch.randn(values.shape)
    return noisy.round().clamp(limits.min, limits.max).to(inputs.dtype)


def _check_structure(view: Any, inputs: Any) -> None:
    kinds = [(path, leaf.dtype, leaf.shape[:1]) for path, leaf in leaves(inputs)]
    found = [(path, leaf.dtype, leaf.shape[:1]) for path, leaf in leaves(view)]
    same = kinds == found if num_examples(inputs) is not None else [k[:2] for k in kinds] == [k[:2] for k in found]
    if not same:
        raise ValueError(
            f"`views` must keep structure, dtypes and batch size of its input, {described(inputs)}, got "
            f"{described(view)}."
        )
    if bad := sum(int((~torch.isfinite(x)).sum()) for x in tensors_in(view) if x.is_floating_point()):
        raise ValueError(f"`views` returned NaN or infinity in {bad} values.")
