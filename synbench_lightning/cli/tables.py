"""Tables in plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

WIDTH = 80
"""Characters in a line of the terminal."""


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = ()) -> list[str]:
    """Format rows as lines with aligned columns: flush left for those in ``left``, flush right for the others.

    Example:
        >>> print(*aligned([["name", "n"], ["a", "10"]], left={0}), sep="|")
        name   n|a     10
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place in left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def wrapped(text: str) -> list[str]:
    """Wrap a sentence to the width of the terminal, without breaking paths."""
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
