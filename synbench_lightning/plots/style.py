"""One style for all figures, and what a figure becomes: an image or a part of a page (needs the extra ``plots``)."""

from __future__ import annotations

import re
from io import StringIO

import numpy as np

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes as Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Figure
except ImportError as error:
    raise ImportError("Figures need matplotlib: pip install 'synbench-lightning[plots]'") from error

RESOLUTION = 160
# Every colour stands out from white and from a dark page alike, by a contrast of at least 3.5.
OPTIMUM, ENCODER, SHADE = "#808080", "#2a86b5", "#2a86b533"
COLOURS = (ENCODER, "#d0642a", "#3f9a54", "#a066bd", "#b07a1e", "#d04a7a", "#7f8a2a", "#4d8f9f")


def vector(figure: Figure) -> str:
    """The figure as an SVG element for a page: transparent, in the page's font, black drawn in its text colour."""
    file = StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    text = text[text.index("<svg") :].replace("#000000", "currentColor")
    # Several figures in one page must not share ids; those that are referred to are unique already.
    return re.sub(r' id="(?![hmp][0-9a-f]{8,})[^"]*"', "", text)


def pixels(figure: Figure) -> np.ndarray:
    """The figure as an image ``(height, width, 3)`` of bytes."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def new_figure(rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure with axes below each other, in the style of this package."""
    figure = Figure(figsize=(6.4, 4.0 if rows == 1 else 2.8 * rows), dpi=RESOLUTION, layout="constrained")
    found = list(figure.subplots(rows, 1, squeeze=False, sharex=True)[:, 0])
    for axes in found:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=OPTIMUM, alpha=0.25)
    return figure, found
