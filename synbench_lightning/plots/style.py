"""One style for all figures, and what a figure becomes: an image, a file, or a part of a page (extra ``plots``)."""

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
"""In inches: the width of the text of a paper in one column, in which the letters below have nine points."""
# Every colour stands out from white and from a dark page alike, by a contrast of at least 3.5.
OPTIMUM, ENCODER, SHADE = "#808080", "#2a86b5", "#2a86b533"
COLOURS = (ENCODER, "#d0642a", "#3f9a54", "#a066bd", "#b07a1e", "#d04a7a", "#7f8a2a", "#4d8f9f")
STYLE: dict[Any, Any] = {
    "font.size": 9, "axes.titlesize": 9.5, "axes.titleweight": "bold", "axes.spines.top": False,
    "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.color": OPTIMUM, "grid.alpha": 0.25,
    "grid.linewidth": 0.6, "lines.linewidth": 1.6, "lines.markersize": 4, "legend.frameon": False,
    "legend.fontsize": 8.5,
}  # fmt: skip
IN_FILES: dict[Any, Any] = {"svg.fonttype": "none", "pdf.fonttype": 42}
"""Text stays text, in the fonts that journals ask for."""


def in_style(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Let a function draw its figure in the style of this package, whatever style the caller has set."""

    @wraps(draw)
    def styled(*given: P.args, **named: P.kwargs) -> Figure:
        with rc_context(STYLE):
            return draw(*given, **named)

    return styled


def new_figure(rows: int = 1, height: float | None = None) -> tuple[Figure, list[Axes]]:
    """A figure with axes below each other that share the horizontal one.

    Args:
        rows: number of the axes.
        height: of the figure in inches; by default one that suits curves.
    """
    figure = Figure(figsize=(WIDTH, height or (3.4 if rows == 1 else 2.2 * rows)), dpi=RESOLUTION, layout="constrained")
    return figure, list(figure.subplots(rows, 1, squeeze=False, sharex=True)[:, 0])


def vector(figure: Figure) -> str:
    """The figure as an SVG element for a page: transparent, in the page's font, black drawn in its text colour."""
    file = StringIO()
    with rc_context(IN_FILES):
        figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    text = text[text.index("<svg") :].replace("#000000", "currentColor")
    # Several figures in one page must not share ids; those that are referred to are unique already.
    return re.sub(r' id="(?![hmp][0-9a-f]{8,})[^"]*"', "", text)


def save(figure: Figure, path: Path) -> None:
    """Write the figure to a file, in the format that its name ends with, ready for a paper."""
    with rc_context(IN_FILES):
        figure.savefig(path)


def pixels(figure: Figure) -> np.ndarray[Any, Any]:
    """The figure as an image ``(height, width, 3)`` of bytes."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
