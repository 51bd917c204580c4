"""Figure of the layers of an encoder over a run (extra ``plots``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from synbench_lightning.functional.representation.information import comparable_widths
from synbench_lightning.plots.run import STEPS
from synbench_lightning.plots.style import Figure, in_style, new_figure

LONGEST, MOST_STEPS = 24, 6
"""Maximum characters in the name of a layer, and maximum number of step labels."""
LABELS = {"information": "information (nats)", "readout": "readout of labels (R²)"}


class DrawnLayer(Protocol):
    """One layer, as the figure needs it."""

    @property
    def name(self) -> str: ...
    @property
    def width(self) -> int: ...
    @property
    def head(self) -> bool: ...
    def value(self, key: str) -> float | None: ...


class Best(Protocol):
    """The index of the best layer."""

    @property
    def place(self) -> int: ...


class Layered(Protocol):
    """The part of :class:`synbench_lightning.ProbeResult` that the figure needs."""

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
    """Plot information or readout of every layer at every probe as a heat map, with the best layer per probe marked.

    The encoder's output, which is the last layer called, is at the top; heads behind it are omitted. If layers differ
    in width by more than a factor of four, their values are not comparable: each is shown as a fraction of its own
    maximum, and only layers whose width is comparable to that of the output can be marked as the best.

    Args:
        history: results of one run; only those since the last change of the layers are drawn.

    Returns:
        A figure of its own, not known to ``pyplot``.

    Raises:
        ValueError: if the last probe has no layers.
    """
    if not history or not history[-1].layers:
        raise ValueError("The last result of `history` has no layers: probe with `layers`.")
    names = _named(history[-1])
    first = max((index for index, result in enumerate(history) if _named(result) != names), default=-1) + 1
    history, key = history[first:], history[-1].layer_key
    values = np.array([[layer.value(key) for layer in _drawn(result)] for result in history], dtype=float).T
    label = LABELS[key]
    if not all(comparable_widths(width, names[-1][1]) for _, width in names):
        values = values / np.maximum(np.nanmax(values, 1, keepdims=True), 1e-12)
        label = "fraction of the layer's maximum"
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
    # Centered on the figure, since long names may make the axes narrow.
    figure.suptitle(
        f"Layers of the encoder (width){'; dots: best layer' * bool(marked)}", fontsize=9.5, fontweight="bold"
    )
    figure.colorbar(image, ax=axes, label=label)
    return figure


def _drawn(result: Layered) -> list[DrawnLayer]:
    return [layer for layer in result.layers if not layer.head]


def _named(result: Layered) -> list[tuple[str, int]]:
    return [(layer.name, layer.width) for layer in _drawn(result)]


def _short(names: Sequence[str]) -> list[str]:
    """Remove the common prefix of names, and keep the last parts of long ones if they remain unique."""
    parts = [name.split(".") for name in names]
    alike = next((depth for depth, level in enumerate(zip(*parts, strict=False)) if len(set(level)) > 1), 0)
    cut = ["\N{HORIZONTAL ELLIPSIS}" * bool(alike) + ".".join(own[alike:]) for own in parts]
    found = [_end(name) for name in (cut if all(own[alike:] for own in parts) else names)]
    return found if len(set(found)) == len(names) else list(names)


def _end(name: str) -> str:
    """The last parts of a name that fit into ``LONGEST`` characters."""
    parts = name.split(".")
    kept = parts[-1:]
    for part in reversed(parts[:-1]):
        if len(".".join([part, *kept])) > LONGEST:
            return "\N{HORIZONTAL ELLIPSIS}" + ".".join(kept)
        kept = [part, *kept]
    return name
