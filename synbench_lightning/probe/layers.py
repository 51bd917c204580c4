"""What a probe found in each layer of an encoder, and which of them to read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from synbench_lightning.functional.representation.information import (
    information_replicates,
    instance_information,
    replicates_error,
)
from synbench_lightning.functional.representation.readout import Readout


class Information(NamedTuple):
    """The information in features, its standard error, and what the error is made of."""

    value: float
    error: float
    replicates: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, features: Tensor) -> Information:
        """Of features ``(K, n, D)`` of n views of K inputs."""
        replicates = information_replicates(features)
        rows = tuple(tuple(row) for row in replicates.tolist())
        return cls(float(instance_information(features)), float(replicates_error(replicates)), rows)


@dataclass(frozen=True)
class LayerResult:
    """What was found in one layer.

    Args:
        name: dotted name of the module.
        width: dimensions of its features, after pooling.
        information: mutual information between the features of a view and the identity of the input, in nats; ``None``
            without inputs.
        information_error: its standard error over noise or views and over the inputs.
        replicates: the information without each group of inputs and of views: the difference between two layers has the
            standard error that follows from the differences of these.
        readout: leave-one-out R² of a ridge regression of a few labels; ``None`` without labels.
        readout_error: its standard error over the labelled examples.
    """

    name: str
    width: int
    information: float | None = None
    information_error: float | None = None
    replicates: tuple[tuple[float, ...], ...] = ()
    readout: float | None = None
    readout_error: float | None = None

    def value(self, key: str) -> float | None:
        """The ``"information"`` or the ``"readout"``."""
        return self.information if key == "information" else self.readout


class BestLayer(NamedTuple):
    """The layer with the highest value among those as wide as the encoder's output.

    ``margin`` is how far its value is above that of the encoder's output, where it is that, above the second best;
    ``error`` is the standard error of the margin.
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
) -> tuple[LayerResult, ...]:
    """Of all layers, the first to be called first."""
    found = []
    for index, (name, width) in enumerate(zip(names, widths, strict=True)):
        informed = (None, None, ()) if information is None else information[index]
        read = (None, None) if readouts is None else readouts[index][:2]
        found.append(LayerResult(name, width, *informed, *read))
    return tuple(found)


def best_layer(layers: Sequence[LayerResult], key: str) -> BestLayer | None:
    """The best of the layers that compare with the encoder's output, the last one; ``None`` where there is no other.

    Args:
        layers: of one probe.
        key: ``"information"`` or ``"readout"``.
    """
    ranked = [
        (value, index, layer)
        for index, layer in enumerate(layers)
        if layer.width == layers[-1].width and (value := layer.value(key)) is not None
    ]
    if len(ranked) < 2:
        return None
    ranked.sort(key=lambda one: -one[0])
    (value, index, best), (_, _, second) = ranked[:2]
    other = second if best is layers[-1] else layers[-1]
    return BestLayer(index, best, value - (other.value(key) or 0.0), _difference_error(best, other, key))


def _difference_error(one: LayerResult, other: LayerResult, key: str) -> float:
    """The standard error of the difference; of readouts as if they were independent, which is too much."""
    if key == "information":
        replicates = (torch.tensor(layer.replicates, dtype=torch.float64) for layer in (one, other))
        first, second = replicates
        return float(replicates_error(first - second))
    return math.hypot(one.readout_error or 0.0, other.readout_error or 0.0)
