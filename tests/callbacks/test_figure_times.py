"""Which probes are drawn, on a clock that is set by hand, and what is drawn of them."""

from types import SimpleNamespace

import pytest

from synbench_lightning import plots
from synbench_lightning.callbacks import figure_logging
from synbench_lightning.callbacks.figure_logging import FigureLogger
from tests.callbacks.test_figure_logging import WandbLogger, silent
from tests.results import written_result


class Drawing:
    """Figures that take a second each, and what they were drawn of."""

    def __init__(self, monkeypatch):
        self.now, self.drawn = 1000.0, []
        monkeypatch.setattr(figure_logging, "time", SimpleNamespace(perf_counter=lambda: self.now))
        for name in ("robustness_accuracy", "scale", "task_map", "layer_map"):
            monkeypatch.setattr(plots, f"{name}_figure", self.figure(name))
        monkeypatch.setattr(plots, "pixels", lambda figure: figure)
        self.logger = silent(WandbLogger)
        self.trainer = SimpleNamespace(loggers=[self.logger], is_global_zero=True)
        self.figures, self.history = FigureLogger("synbench", 0.75), []

    def figure(self, name):
        def draw(of, **more):
            self.now += 1 / 3 if name != "scale" else 1 - 2 / 3
            self.drawn.append((name, of, more))
            return name

        return draw

    def probe(self, step, now=None, **values):
        """Whether a probe at a step is drawn."""
        self.now = self.now if now is None else now
        self.history.append(written_result(step=step, **values))
        before = len(self.drawn)
        metrics = {"synbench/score": 1.0}
        self.figures.update(self.trainer, self.history, metrics, "synbench/score", step)
        return len(self.drawn) > before


@pytest.fixture
def drawing(monkeypatch):
    return Drawing(monkeypatch)


def test_the_first_probe_of_a_fit_is_drawn_and_others_while_drawing_took_a_fiftieth_of_the_time(drawing):
    for start in (1000.0, 5000.0):
        drawing.now = start
        drawing.figures.open()
        assert drawing.probe(0)
        drawing.now = start + 1  # without rounding
        drawing.figures._spent = 1.0
        assert not drawing.probe(1, now=start + 49)
        assert drawing.probe(2, now=start + 50)
        drawing.figures._spent = 2.0
        assert not drawing.probe(3, now=start + 99)
        assert drawing.probe(4, now=start + 100)


def test_the_time_of_drawing_is_counted(drawing):
    drawing.figures.open()
    drawing.probe(0)
    assert drawing.figures._spent == pytest.approx(1.0)
    drawing.probe(1, now=2000.0)
    assert drawing.figures._spent == pytest.approx(2.0)


def test_the_last_probe_is_drawn_at_the_end_unless_it_was(drawing):
    drawing.figures.open()
    drawing.figures.close(drawing.trainer, drawing.history)  # no probe
    assert drawing.drawn == []
    drawing.probe(0)
    drawing.figures.close(drawing.trainer, drawing.history)
    assert len(drawing.drawn) == 3
    assert not drawing.probe(5)
    drawing.figures.close(drawing.trainer, drawing.history)
    assert len(drawing.drawn) == 6
    assert [step for _, step, _ in drawing.logger.figures] == [0, 0, 0, 5, 5, 5]


def test_the_last_result_is_drawn_at_the_threshold_and_the_map_is_of_all(drawing):
    drawing.figures.open()
    drawing.probe(0)
    drawing.probe(5, now=5000.0)
    last, history = drawing.history[-1], drawing.history
    assert drawing.drawn[3:] == [
        ("robustness_accuracy", last, {"threshold": 0.75}), ("scale", last, {}),
        ("task_map", history, {"threshold": 0.75}),
    ]  # fmt: skip


NO_TASKS = {"tasks": (), "accuracy": (), "bound": (), "standard_errors": ()}


def test_nothing_is_drawn_without_tasks_a_logger_or_matplotlib_or_on_another_process(drawing, monkeypatch):
    drawing.figures.open()
    assert not drawing.probe(0, **NO_TASKS)
    drawing.trainer.is_global_zero = False
    assert not drawing.probe(1, now=2000.0)
    drawing.trainer.is_global_zero, drawing.trainer.loggers = True, []
    assert not drawing.probe(2, now=3000.0)
    drawing.trainer.loggers = [drawing.logger]
    monkeypatch.setattr(figure_logging, "find_spec", lambda name: None)
    assert not drawing.probe(3, now=4000.0)
    monkeypatch.undo()
    assert drawing.logger.figures == []


def test_the_band_of_a_value_without_an_error_is_its_line():
    class Board(figure_logging.lightning_classes("loggers.TensorBoardLogger")[0]):
        def __init__(self):
            self.points = []

        @property
        def experiment(self):
            return SimpleNamespace(add_scalar=lambda *point: self.points.append(point))

        log_dir = "runs"

    board = Board()
    trainer = SimpleNamespace(loggers=[board], is_global_zero=True)
    result = written_result(**NO_TASKS)
    for metrics in ({"synbench/readout": 0.5}, {"synbench/readout": 0.5, "synbench/readout_se": 0.125}):
        FigureLogger("synbench", 0.7).update(trainer, [result], metrics, "synbench/readout", 7)
    band = [f"synbench_band/readout_{side}" for side in ("low", "high")]
    assert board.points == [(band[0], 0.5, 7), (band[1], 0.5, 7), (band[0], 0.375, 7), (band[1], 0.625, 7)]
