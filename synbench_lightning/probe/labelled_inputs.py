"""A few labelled inputs, and what a readout of their features says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from synbench_lightning.checks import shown
from synbench_lightning.functional.representation.readout import few_label_readout
from synbench_lightning.probe.batched_encoding import BatchedEncoding
from synbench_lightning.probe.proxy_samples import Block, Examples, in_blocks
from synbench_lightning.probe.view_sampling import check_enough
from synbench_lightning.probe.views import ViewedInputs, check_inputs
from synbench_lightning.runtime.input_leaf import num_examples
from synbench_lightning.runtime.structures import checksum, mapped, taken

FEWEST_LABELLED, MOST_LABELLED = 20, 512
"""Labelled inputs that are shown."""
CLEAR = 3.0
"""Standard errors from which on a loss under views is one, by convention."""
LOST = 0.5
"""Views under which a larger share of what the readout tells above chance is lost are told of."""

Labels = Tensor | tuple[Any, Tensor]
"""Those of the ``inputs``, ``(N,)``; or labelled inputs of their own, ``(N, *input_shape)`` and ``(N,)``."""


class LabelledInputs:
    """Labelled inputs that are shown as they are, the first 512.

    ``of_inputs`` tells whether they are those that are shown with views too.

    Raises:
        ValueError: for labels that are no integers, do not fit the inputs, or are too few or all alike.
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
            raise ValueError(f"`labels` must be one for each input, got {len(y)} labels for {number} inputs.")
        if isinstance(x, Tensor) and (x.is_floating_point() or number is None):
            shape = tuple(x.shape[1:]) if input_shape is None else input_shape
            self.inputs: Any = check_inputs(name, x, shape, FEWEST_LABELLED, MOST_LABELLED)
        else:
            self.inputs = _first_examples(name, x, number)
        self.num_inputs = min(len(y), MOST_LABELLED)
        self.labels, self.device = y[: self.num_inputs].detach().cpu(), device
        counts = self.labels.unique(return_counts=True)[1]
        if len(counts) < 2 or int((counts > 1).sum()) < 2:
            raise ValueError(
                f"`labels` must hold two classes at least, with two examples each, among the first {len(self.labels)}; "
                f"the numbers of examples are {counts.tolist()}."
            )
        self.identity = f"{self.num_inputs} ({checksum(self.inputs)}, {checksum(self.labels)})"

    def features(self, encoding: BatchedEncoding) -> Tensor:
        """Features ``(n, D)`` of the inputs, in their order."""
        if self._are_real:
            return encoding.features(self.examples)[:, 0]
        found = encoding.features_of(self._chunks)
        if len(found) != self.num_inputs:
            raise ValueError(f"`labels` must be one for each input, got {self.num_inputs} for {len(found)} inputs.")
        return found

    def few(self, encoding: BatchedEncoding, number: int) -> Any:
        """Some of them as the encoder is given them."""
        return encoding.few(self.examples, number) if self._are_real else encoding.few_of(self._chunks[0], number)

    @property
    def _are_real(self) -> bool:
        return isinstance(self.inputs, Tensor) and self.inputs.is_floating_point()

    @property
    def examples(self) -> Examples:
        """All of them, as they are encoded."""
        return Examples(in_blocks(self.num_inputs), self.num_inputs, 1, self.write)

    @property
    def _chunks(self) -> list[Any]:
        return self.inputs if isinstance(self.inputs, list) else [self.inputs]

    def write(self, block: Block, out: Tensor) -> None:
        """Write the examples of a block into ``(block.vectors, *input_shape)``."""
        out.copy_(self.inputs[block.first : block.first + block.vectors])

    def lost_under_views(self, features: Tensor, shown: ViewedInputs, of_views: Tensor) -> str | None:
        """A sentence where the readout loses much of its accuracy once it is fitted to views and judged on others'.

        Args:
            features: ``(n, D)`` of these inputs.
            shown: the same inputs in views.
            of_views: ``(K, draws, D)`` of these.
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
            f"A readout of the labels is right for {float(plain.mean()):.0%} of the inputs and for "
            f"{float(viewed.mean()):.0%} of their views ({chance:.0%} by chance): the views seem to destroy what the "
            "labels are about, and information under them misleads. Leave out the transform that does (colours, where "
            "labels are in the colour)."
        )


def _first_examples(name: str, x: Any, number: int | None) -> Any:
    """The first inputs of another kind than real tensors, on the CPU."""
    if number is None:
        return [mapped(chunk, lambda leaf: leaf.detach().cpu()) for chunk in x]
    check_enough(name, number, FEWEST_LABELLED)
    kept = taken(x, torch.arange(min(number, MOST_LABELLED)), number)
    return mapped(kept, lambda leaf: leaf.detach().cpu())


def check_labels(labels: Any, inputs: Any) -> None:
    """What can be said of labels before the shape of the inputs is known.

    Raises:
        ValueError: for another kind of value, or labels of inputs that were not given.
    """
    pair = isinstance(labels, (tuple, list)) and len(labels) == 2
    y = labels[1] if pair else labels
    whole = isinstance(y, Tensor) and y.ndim == 1 and not y.is_floating_point() and not y.is_complex()
    if not whole:
        raise ValueError(
            "`labels` must be integers (N,), one for each of `inputs`, or a pair (x, y) of labelled inputs "
            f"(N, *input_shape) and their labels (N,), got {shown(y)}{' as y' if pair else ''}: "
            "`torch.as_tensor` makes a tensor of an array."
        )
    if not pair and (inputs is None or isinstance(inputs, str)):
        raise ValueError(
            f"`labels` of shape {tuple(y.shape)} need a tensor of `inputs` that they belong to, got inputs={inputs!r}: "
            "give a pair (x, y) of labelled inputs."
        )
