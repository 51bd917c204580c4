"""A progress bar below the trainer's for probes that take long."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

from synbench_lightning.runtime.collectives import Progress
from synbench_lightning.runtime.lightning_packages import Trainer, lightning_classes

DELAY_SECONDS = 1.0  # mutants: memory and time alone
"""Shorter probes show no bar."""


@contextmanager
def probe_progress(trainer: Trainer, title: str) -> Iterator[Progress | None]:
    """Yield a function to call with the number of examples done and their total, or ``None`` if there is no bar."""
    bar: Any = trainer.progress_bar_callback
    if isinstance(bar, lightning_classes("callbacks.TQDMProgressBar")) and bar.is_enabled:
        with tqdm(
            desc=title, position=2 * bar.process_position + 1, leave=False, delay=DELAY_SECONDS, dynamic_ncols=True,
            file=sys.stdout, unit="ex",
        ) as inner:  # fmt: skip

            def advance(done: int, total: int) -> None:
                inner.total = total
                inner.update(done - inner.n)

            yield advance
    elif isinstance(bar, lightning_classes("callbacks.RichProgressBar")) and bar.is_enabled and bar.progress:
        rich = bar.progress
        task = rich.add_task(title, total=1, visible=False)
        start = time.monotonic()

        def advance(done: int, total: int) -> None:
            visible = time.monotonic() - start > DELAY_SECONDS
            rich.update(task, completed=done, total=total, visible=visible)
            if visible:
                bar.refresh()  # Lightning's rich bar redraws only when asked

        try:
            yield advance
        finally:
            rich.remove_task(task)
            bar.refresh()
    else:
        yield None
