"""`synbench best`: the best of a folder of checkpoints on a benchmark, from a few of its points."""

from __future__ import annotations

from collections.abc import Sequence

from synbench_lightning.benchmark.model_selection import select_best_checkpoint
from synbench_lightning.cli.errors import CommandError


def best_command(arguments: Sequence[str]) -> int:
    """Run ``select_best_checkpoint`` with arguments that jsonargparse types by its signature, and print what it found.

    Raises:
        CommandError: if jsonargparse is missing, or the folder, the module or the tasks do not fit.
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
