"""Markdown tables, row by row as they are measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def print_table(header: str, rows: Iterable[Sequence[object]]) -> None:
    """Print rows under a header such as ``"encoder | D | limit"``."""
    print(f"| {header} |\n|{'---|' * (header.count('|') + 1)}")
    for row in rows:
        print("| " + " | ".join(map(_cell, row)) + " |", flush=True)
    print()


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
