"""Information and readout of each layer of an encoder, and the best layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from synbench_lightning.functional.representation.information import (
    comparable_widths,
    information_replicates,
    instance_information,
    replicates_error,
)
from synbench_lightning.functional.representation.readout import Readout


class Information(NamedTuple):
    """Information of features, its standard error, and the jackknife replicates behind the error."""

    value: float
    error: float
    replicates: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, features: Tensor) -> Information:
        """Compute it from features ``(K, n, D)`` of n views of K inputs."""
        replicates = information_replicates(features)
        rows = tuple(tuple(row) for row in replicates.tolist())
        return cls(float(instance_information(features)), float(replicates_error(replicates)), rows)


@dataclass(frozen=True)
class LayerResult:
    """Information and readout of one layer.

    Args:
        name: dotted name of the module.
        width: dimensions of its features, after pooling.
        information: mutual information between the features of a view and the identity of the input, in nats; ``None``
            without inputs.
        information_error: its standard error over noise or views and over the inputs.
        replicates: jackknife replicates, the information without each group of inputs and of views; their differences
            between two layers give the standard error of the difference.
        readout: leave-one-out R² of a ridge regression of a few labels; ``None`` without labels.
        readout_error: its standard error over the labeled examples.
        head: whether it belongs to a head after the encoder.
    """

    name: str
    width: int
    information: float | None = None
    information_error: float | None = None
    replicates: tuple[tuple[float, ...], ...] = ()
    readout: float | None = None
    readout_error: float | None = None
    head: bool = False

    def value(self, key: str) -> float | None:
        """The ``"information"`` or the ``"readout"``."""
        return self.information if key == "information" else self.readout


class BestLayer(NamedTuple):
    """The layer with the highest value among those of the encoder whose width is comparable to that of its output.

    ``place`` is its index. ``margin`` is the difference between its value and that of the encoder's output; if it is
    the output, between its value and the second best. ``error`` is the standard error of the margin.
    """

    place: int
    layer: LayerResult
    margin: float
    error: float

    @property
    def margin_in_errors(self) -> float:
        """The margin in standard errors."""
        return self.margin / self.error if self.error else math.inf


def layer_results(
    names: Sequence[str],
    widths: Sequence[int],
    information: Sequence[Information] | None,
    readouts: Sequence[Readout] | None,
    in_heads: int = 0,
) -> tuple[LayerResult, ...]:
    """Collect the results of all layers in the order of their calls: encoder, its output, then heads.

    Args:
        names: names of the encoder's layers, of those in heads, and of the output, in this order.
        widths: widths of their features, in the same order.
        information: their information, in the same order.
        readouts: their readouts, in the same order.
        in_heads: number of layers in heads.
    """
    first_head, output = len(names) - 1 - in_heads, len(names) - 1
    found = []
    for index in (*range(first_head), output, *range(first_head, output)):
        told, read = information and information[index], readouts and readouts[index]
        found.append(
            LayerResult(
                names[index], widths[index],
                information=told[0] if told else None, information_error=told[1] if told else None,
                replicates=told[2] if told else (),
                readout=read[0] if read else None, readout_error=read[1] if read else None,
                head=first_head <= index < output,
            )
        )  # fmt: skip
    return tuple(found)


def output_layer(layers: Sequence[LayerResult]) -> LayerResult:
    """The encoder's output: the last layer that is not in a head."""
    return [layer for layer in layers if not layer.head][-1]


def best_layer(layers: Sequence[LayerResult], key: str) -> BestLayer | None:
    """The best of the layers that are comparable with the encoder's output; ``None`` if there is no other.

    Args:
        layers: the layers of one probe.
        key: ``"information"`` or ``"readout"``.
    """
    if not layers:
        return None
    output = output_layer(layers)
    ranked = [
        (value, index, layer)
        for index, layer in enumerate(layers)
        if not layer.head and comparable_widths(layer.width, output.width) and (value := layer.value(key)) is not None
    ]
    if len(ranked) < 2:
        return None
    ranked.sort(key=lambda one: -one[0])
    (value, index, best), (_, _, second) = ranked[:2]
    other = second if best is output else output
    return BestLayer(index, best, value - (other.value(key) or 0.0), _difference_error(best, other, key))


def _difference_error(one: LayerResult, other: LayerResult, key: str) -> float:
    """The standard error of the difference; readouts are treated as independent, which overestimates it."""
    if key == "information":
        replicates = (torch.tensor(layer.replicates, dtype=torch.float64) for layer in (one, other))
        first, second = replicates
        return float(replicates_error(first - second))
    return math.hypot(one.readout_error or 0.0, other.readout_error or 0.0)
