"""What the commands of the studies have in common: their arguments, and the table that they write or read."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from validity.answers import Row, read_table, write_table


def study_arguments(
    parser: argparse.ArgumentParser, folder: str, small: tuple[int, int], full: tuple[int, int]
) -> argparse.Namespace:
    """The arguments that every study takes, added to those of a parser, and checked.

    Args:
        parser: with what is the study's own.
        folder: where checkpoints and results go by default.
        small: seeds and steps with ``--small``.
        full: seeds and steps by default.
    """
    parser.add_argument("--small", action="store_true", help=f"{small[0]} seed and {small[1]} steps: minutes")
    parser.add_argument("--seeds", type=int, help=f"seeds for each way of pretraining (default: {full[0]})")
    parser.add_argument("--steps", type=int, help=f"optimizer steps of a run (default: {full[1]})")
    parser.add_argument("--dir", type=Path, default=Path(folder), help="where checkpoints and results go")
    parser.add_argument("--table", type=Path, help="only answer from these results")
    args = parser.parse_args()
    seeds, steps = small if args.small else full
    args.seeds = seeds if args.seeds is None else args.seeds
    args.steps = steps if args.steps is None else args.steps
    if args.seeds < 1 or args.steps < 50:
        parser.error(f"--seeds must be at least 1 and --steps at least 50, got {args.seeds} and {args.steps}")
    return args


def study_rows(args: argparse.Namespace, name: str, measure: Callable[[], list[Row]]) -> list[Row]:
    """The rows of the table that is named, else those that are measured, which are written to ``NAME.csv.gz``."""
    if args.table is not None:
        return read_table(args.table)
    args.dir.mkdir(parents=True, exist_ok=True)
    rows, path = measure(), args.dir / f"{name}.csv.gz"
    write_table(rows, path)
    print(f"Results: {path}")
    return rows


def one_thread() -> None:
    """Tensors this small are not worth sharing among threads."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*lbfgs failed to converge")
