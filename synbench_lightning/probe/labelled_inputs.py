"""A few labeled inputs for the readout of labels from features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from synbench_lightning.checks import is_integer, shown
from synbench_lightning.functional.representation.readout import few_label_readout
from synbench_lightning.probe.batched_encoding import BatchedEncoding
from synbench_lightning.probe.proxy_samples import Block, Examples, in_blocks
from synbench_lightning.probe.view_sampling import check_dense_inputs, check_enough
from synbench_lightning.probe.views import ViewedInputs, check_inputs
from synbench_lightning.runtime.input_leaf import num_examples
from synbench_lightning.runtime.structures import checksum, mapped, taken

FEWEST_LABELLED, MOST_LABELLED = 20, 512
"""Minimum and maximum number of labeled inputs that are encoded."""
CLEAR = 3.0
"""A drop in accuracy under views is significant from this many standard errors on, by convention."""
LOST = 0.5
"""Views that lose more than this fraction of the readout's accuracy above chance trigger a warning."""

Labels = Tensor | tuple[Any, Tensor]
"""Labels ``(N,)`` of the ``inputs``, or a pair of labeled inputs ``(N, *input_shape)`` and their labels ``(N,)``."""


class LabelledInputs:
    """The first 512 labeled inputs, encoded unchanged.

    ``of_inputs``: whether they are the inputs that are also encoded in views.

    Raises:
        ValueError: for labels that are not integers, do not match the inputs, are too few, or are all equal.
    """

    def __init__(self, labels: Labels, inputs: Any, input_shape: Sequence[int] | None, device: torch.device) -> None:
        check_labels(labels, inputs)
        self.of_inputs = isinstance(labels, Tensor)
        x, y = (inputs, labels) if isinstance(labels, Tensor) else labels
        if isinstance(x, Tensor) and self.of_inputs and input_shape and x.ndim == len(tuple(input_shape)) + 2:
            x = x[:, 0]  # of several views of each
        name = "inputs" if self.of_inputs else "labels[0]"
        number = num_examples(x)
        if number is not None and len(y) != number:
            raise ValueError(f"`labels` must have one label per input, got {len(y)} labels for {number} inputs.")
        if isinstance(x, Tensor) and (x.is_floating_point() or number is None):
            shape = tuple(x.shape[1:]) if input_shape is None else input_shape
            self.inputs: Any = check_inputs(name, x, shape, FEWEST_LABELLED, MOST_LABELLED)
        else:
            self.inputs = _first_examples(name, x, number)
        self.num_inputs = min(len(y), MOST_LABELLED)
        self.labels, self.device = y[: self.num_inputs].detach().cpu().long(), device
        counts = self.labels.unique(return_counts=True)[1]
        if len(counts) < 2 or int((counts > 1).sum()) < 2:
            raise ValueError(
                f"`labels` must contain at least two classes with two examples each among the first "
                f"{len(self.labels)}; the class counts are {counts.tolist()}."
            )
        self.identity = f"{self.num_inputs} ({checksum(self.inputs)}, {checksum(self.labels)})"

    def features(self, encoding: BatchedEncoding) -> Tensor:
        """Encode the inputs; returns features ``(n, D)`` in their order."""
        if self._are_real:
            return encoding.features(self.examples)[:, 0]
        found = encoding.features_of(self._chunks)
        if len(found) != self.num_inputs:
            raise ValueError(f"`labels` must have one label per input, got {self.num_inputs} for {len(found)} inputs.")
        return found

    def few(self, encoding: BatchedEncoding, number: int) -> Any:
        """Return some inputs in the form that the encoder takes."""
        return encoding.few(self.examples, number) if self._are_real else encoding.few_of(self._chunks[0], number)

    @property
    def _are_real(self) -> bool:
        return isinstance(self.inputs, Tensor) and self.inputs.is_floating_point()

    @property
    def examples(self) -> Examples:
        """All inputs, as blocks to encode."""
        return Examples(in_blocks(self.num_inputs), self.num_inputs, 1, self.write)

    @property
    def _chunks(self) -> list[Any]:
        return self.inputs if isinstance(self.inputs, list) else [self.inputs]

    def write(self, block: Block, out: Tensor) -> None:
        """Write the examples of a block into ``(block.vectors, *input_shape)``."""
        out.copy_(self.inputs[block.first : block.first + block.vectors])

    def lost_under_views(self, features: Tensor, shown: ViewedInputs, of_views: Tensor) -> str | None:
        """Return a warning if the accuracy of the readout is much lower on views than on the inputs.

        Args:
            features: features ``(n, D)`` of these inputs.
            shown: the same inputs in views.
            of_views: features ``(K, draws, D)`` of the views.
        """
        if not self.of_inputs or shown.kind == "noise":
            return None
        number = min(len(self.labels), shown.num_inputs)
        labels = self.labels[:number]
        plain = few_label_readout(features[:number], labels).right.double().cpu()
        draws = [few_label_readout(of_views[:number, draw], labels).right for draw in range(min(4, shown.draws))]
        viewed = torch.stack(draws).double().mean(0).cpu()
        chance = float(labels.unique(return_counts=True)[1].max()) / number
        above, lost = float(plain.mean()) - chance, plain - viewed
        error = float(lost.std()) / number**0.5
        if float(lost.mean()) <= max(LOST * above, CLEAR * error):
            return None
        return (
            f"A readout of the labels reaches {float(plain.mean()):.0%} accuracy on the inputs and "
            f"{float(viewed.mean()):.0%} on their views (chance: {chance:.0%}): the views do not seem to be "
            "label-preserving, and information under them is misleading. Remove the transform that destroys the labels "
            "(color jitter, if labels depend on color)."
        )


def _first_examples(name: str, x: Any, number: int | None) -> Any:
    """The first inputs, other than floating-point tensors, on the CPU."""
    if number is None:
        return [mapped(chunk, lambda leaf: leaf.detach().cpu()) for chunk in x]
    check_enough(name, number, FEWEST_LABELLED)
    kept = taken(x, torch.arange(min(number, MOST_LABELLED)), number)
    return mapped(kept, lambda leaf: leaf.detach().cpu())


def check_labels(labels: Any, inputs: Any) -> None:
    """Check labels before the shape of the inputs is known.

    Raises:
        ValueError: for values of another kind, or labels without inputs.
    """
    pair = isinstance(labels, (tuple, list)) and len(labels) == 2
    y = labels[1] if pair else labels
    check_dense_inputs("labels[1]" if pair else "labels", y)
    whole = isinstance(y, Tensor) and y.ndim == 1 and is_integer(y)
    if not whole:
        raise ValueError(
            "`labels` must be integers (N,), one for each of `inputs`, or a pair (x, y) of labeled inputs "
            f"(N, *input_shape) and their labels (N,), got {shown(y)}{' as y' if pair else ''}: "
            "convert arrays with `torch.as_tensor`."
        )
    if pair:
        check_dense_inputs("labels[0]", labels[0])
    if not pair and (inputs is None or isinstance(inputs, str)):
        raise ValueError(
            f"`labels` of shape {tuple(y.shape)} need a tensor of `inputs` that they belong to, got inputs={inputs!r}: "
            "pass a pair (x, y) of labeled inputs."
        )
