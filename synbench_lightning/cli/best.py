"""`synbench best`: the best checkpoint of a folder on a benchmark, from a subset of its items."""

from __future__ import annotations

from collections.abc import Sequence

from synbench_lightning.benchmark.model_selection import select_best_checkpoint
from synbench_lightning.cli.errors import CommandError


def best_command(arguments: Sequence[str]) -> int:
    """Run ``select_best_checkpoint`` with arguments parsed from its signature by jsonargparse, and print the result.

    Raises:
        CommandError: if jsonargparse is missing, or the folder, the module or the tasks are invalid.
    """
    try:
        from jsonargparse import auto_cli
    except ImportError as error:
        raise CommandError("this command needs jsonargparse: pip install 'synbench-lightning[cli]'") from error
    try:
        print(auto_cli(select_best_checkpoint, args=list(arguments), prog="synbench best"))
    except (ValueError, TypeError, RuntimeError) as error:
        raise CommandError(str(error)) from error
    return 0
