"""Tables in plain text."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence

WIDTH = 80
"""Columns of a terminal."""


def aligned(rows: Sequence[Sequence[str]], left: Collection[int] = ()) -> list[str]:
    """Lines with the columns of all rows below each other, flush right but for the columns in ``left``.

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
    """A sentence in lines of a terminal; paths stay whole."""
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
