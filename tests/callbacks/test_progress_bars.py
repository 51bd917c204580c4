"""The bar of a long probe below the trainer's."""

from types import SimpleNamespace

import pytest
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from tqdm.auto import tqdm

from synbench_lightning.callbacks.progress import probe_progress


@pytest.mark.parametrize("position", [0, 2])
def test_a_tqdm_bar_counts_examples_in_the_line_below_those_of_training(position, capsys):
    trainer = SimpleNamespace(progress_bar_callback=TQDMProgressBar(process_position=position))
    with probe_progress(trainer, "A probe") as advance:
        (bar,) = [one for one in tqdm._instances if one.desc.startswith("A probe")]
        assert (-bar.pos, bar.leave, bar.unit, bool(bar.dynamic_ncols)) == (2 * position + 1, False, "ex", True)
        advance(3, 10)
        assert (bar.n, bar.total) == (3, 10)
        advance(7, 12)
        assert (bar.n, bar.total) == (7, 12)
    assert not [one for one in tqdm._instances if one.desc.startswith("A probe")]


def test_there_is_no_bar_where_training_has_none():
    disabled = TQDMProgressBar()
    disabled.disable()
    for bar in (None, disabled, RichProgressBar()):  # the last one was not started
        with probe_progress(SimpleNamespace(progress_bar_callback=bar), "A probe") as advance:
            assert advance is None
