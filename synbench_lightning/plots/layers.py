"""Figure of the layers of an encoder over a run (needs the extra ``plots``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from synbench_lightning.plots.run import STEPS
from synbench_lightning.plots.style import Figure, in_style, new_figure

LABELS = {"information": "information (nats)", "readout": "readout of labels (R²)"}


class DrawnLayer(Protocol):
    """What the figure shows of one layer."""

    @property
    def name(self) -> str: ...
    @property
    def width(self) -> int: ...
    def value(self, key: str) -> float | None: ...


class Best(Protocol):
    """Where the best layer is."""

    @property
    def place(self) -> int: ...


class Layered(Protocol):
    """What the figure shows of a :class:`synbench_lightning.ProbeResult`, which has all of it."""

    @property
    def step(self) -> int | None: ...
    @property
    def layers(self) -> Sequence[DrawnLayer]: ...
    @property
    def layer_key(self) -> str: ...
    @property
    def best_layer(self) -> Best | None: ...


@in_style
def layer_map_figure(history: Sequence[Layered]) -> Figure:
    """What was found in every layer at every probe of a run as a heat map, with the best layer of each probe marked.

    The last layer called, the encoder's output, is at the top. Where the layers are of different width, each is shown
    as a fraction of its own maximum, since their values are not comparable; then only those as wide as the output are
    candidates for the best.

    Args:
        history: results of one run; those since layers were changed for the last time are drawn.

    Returns:
        A figure of its own, not known to ``pyplot``.

    Raises:
        ValueError: if no layer was read in the last probe.
    """
    if not history or not history[-1].layers:
        raise ValueError("`history` ends without layers: none were read.")
    names = _named(history[-1])
    first = max((index for index, result in enumerate(history) if _named(result) != names), default=-1) + 1
    history, key = history[first:], history[-1].layer_key
    values = np.array([[layer.value(key) for layer in result.layers] for result in history], dtype=float).T
    label = LABELS[key]
    if len({width for _, width in names}) > 1:
        values = values / np.maximum(np.nanmax(values, 1, keepdims=True), 1e-12)
        label = "fraction of the layer's highest"
    figure, (axes,) = new_figure(height=1.2 + 0.28 * max(len(names), 5))
    axes.grid(False)
    image = axes.imshow(values, aspect="auto", cmap="viridis", origin="lower", interpolation="nearest")
    marked = [(index, best.place) for index, result in enumerate(history) if (best := result.best_layer) is not None]
    if marked:
        probes, best_layers = zip(*marked, strict=True)
        axes.scatter(probes, best_layers, s=12, color="white", edgecolors="black")
    axes.set_yticks(range(len(names)), [f"{name} ({width})" for name, width in names])
    shown = range(0, len(history), math.ceil(len(history) / 8))
    axes.set_xticks(shown, [f"{history[index].step or 0:,}" for index in shown])
    axes.set(xlabel=STEPS, title=f"Layers of the encoder (width){'; dots: the best one' * bool(marked)}")
    figure.colorbar(image, ax=axes, label=label)
    return figure


def _named(result: Layered) -> list[tuple[str, int]]:
    return [(layer.name, layer.width) for layer in result.layers]
