"""The common style of figures, and their export as image, file, or inline SVG (extra ``plots``)."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from io import StringIO
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes as Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Figure
except ImportError as error:
    raise ImportError("Figures need matplotlib: pip install 'synbench-lightning[plots]'") from error

P = ParamSpec("P")

RESOLUTION = 160
WIDTH = 6.4
"""In inches: the text width of a single-column paper, so that the font sizes below are true to scale."""
# Every color has a contrast of at least 3.5 on both white and dark pages.
OPTIMUM, ENCODER, SHADE = "#808080", "#2a86b5", "#2a86b533"
COLOURS = (ENCODER, "#d0642a", "#3f9a54", "#a066bd", "#b07a1e", "#d04a7a", "#7f8a2a", "#4d8f9f")
STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": OPTIMUM, "grid.alpha": 0.25,
    "grid.linewidth": 0.6, "lines.linewidth": 1.6, "lines.markersize": 4, "legend.frameon": False,
    "legend.fontsize": 8.5,
}  # fmt: skip
IN_FILES: dict[Any, Any] = {"svg.fonttype": "none", "pdf.fonttype": 42}
"""Keep text as text, in fonts that journals accept."""


def in_style(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorate a function to draw its figure in the style of this package, regardless of the caller's style."""

    @wraps(draw)
    def styled(*given: P.args, **named: P.kwargs) -> Figure:
        with rc_context(STYLE):
            return draw(*given, **named)

    return styled


def new_figure(rows: int = 1, height: float | None = None) -> tuple[Figure, list[Axes]]:
    """Create a figure with stacked axes that share the x-axis.

    Args:
        rows: number of the axes.
        height: of the figure in inches; by default suitable for curves.
    """
    figure = Figure(figsize=(WIDTH, height or (3.4 if rows == 1 else 2.2 * rows)), dpi=RESOLUTION, layout="constrained")
    return figure, list(figure.subplots(rows, 1, squeeze=False, sharex=True)[:, 0])


def vector(figure: Figure) -> str:
    """The figure as an SVG element for a page: transparent, with the page's font, and its text color for black."""
    file = StringIO()
    with rc_context(IN_FILES):
        figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    text = text[text.index("<svg") :].replace("#000000", "currentColor")
    # Several figures on a page must not share ids. Ids that are referenced are unique already.
    return re.sub(r' id="(?![hmp][0-9a-f]{8,})[^"]*"', "", text)


def save(figure: Figure, path: Path) -> None:
    """Write the figure to a file for publication, in the format given by its suffix."""
    with rc_context(IN_FILES):
        figure.savefig(path)


def pixels(figure: Figure) -> np.ndarray[Any, Any]:
    """The figure as an image ``(height, width, 3)`` of 8-bit values."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
