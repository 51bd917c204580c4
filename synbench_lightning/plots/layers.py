"""Figure of the layers of an encoder over a run (needs the extra ``plots``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from synbench_lightning.plots.run import STEPS
from synbench_lightning.plots.style import Figure, in_style, new_figure

LONGEST, MOST_STEPS = 24, 6
"""Letters in the name of a layer, and labels of steps, that fit."""
LABELS = {"information": "information (nats)", "readout": "readout of labels (R²)"}


class DrawnLayer(Protocol):
    """What the figure shows of one layer."""

    @property
    def name(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def head(self) -> bool: ...
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

    The last layer called, the encoder's output, is at the top; heads behind it are not shown. Where the layers are of
    different width, each is shown as a fraction of its own maximum, since their values are not comparable; then only
    those as wide as the output are candidates for the best.

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
    values = np.array([[layer.value(key) for layer in _drawn(result)] for result in history], dtype=float).T
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
    labels = _short([name for name, _ in names])
    axes.set_yticks(range(len(names)), [f"{name} ({width})" for name, (_, width) in zip(labels, names, strict=True)])
    shown = range(0, len(history), math.ceil(len(history) / MOST_STEPS))
    axes.set_xticks(shown, [f"{history[index].step or 0:,}" for index in shown])
    axes.set(xlabel=STEPS)
    # Over the whole figure: the axes may be narrower, beside long names.
    figure.suptitle(
        f"Layers of the encoder (width){'; dots: the best one' * bool(marked)}", fontsize=9.5, fontweight="bold"
    )
    figure.colorbar(image, ax=axes, label=label)
    return figure


def _drawn(result: Layered) -> list[DrawnLayer]:
    return [layer for layer in result.layers if not layer.head]


def _named(result: Layered) -> list[tuple[str, int]]:
    return [(layer.name, layer.width) for layer in _drawn(result)]


def _short(names: Sequence[str]) -> list[str]:
    """Names without what all of them begin with, and of long ones the last parts, where they still differ."""
    parts = [name.split(".") for name in names]
    alike = next((depth for depth, level in enumerate(zip(*parts, strict=False)) if len(set(level)) > 1), 0)
    cut = ["\N{HORIZONTAL ELLIPSIS}" * bool(alike) + ".".join(own[alike:]) for own in parts]
    found = [_end(name) for name in (cut if all(own[alike:] for own in parts) else names)]
    return found if len(set(found)) == len(names) else list(names)


def _end(name: str) -> str:
    """The last parts of a name, as many as fit."""
    parts = name.split(".")
    kept = parts[-1:]
    for part in reversed(parts[:-1]):
        if len(".".join([part, *kept])) > LONGEST:
            return "\N{HORIZONTAL ELLIPSIS}" + ".".join(kept)
        kept = [part, *kept]
    return name
