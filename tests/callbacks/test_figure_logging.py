import inspect
import pickle
import re
import sys

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util import tensor_util
from torch.utils.tensorboard import SummaryWriter

from tests.callbacks.runs import probing, steps, trainer
from tests.callbacks.test_views import Pairs
from tests.encoders import Autoencoder

FIGURES = ("curve", "scales", "task_map")


class WithHyperparameters(Autoencoder):
    def __init__(self, width=16, options=None):
        super().__init__()
        self.save_hyperparameters()


def shown(logger):
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0})
    events.Reload()
    return events


def images(events, key):
    return [image.step for image in events.Images(key)]


def drawing(**arguments):
    return probing(log_figures=True, **arguments)


def test_the_first_and_the_last_probe_are_drawn_and_those_between_where_there_is_time():
    logger, callback = TensorBoardLogger("runs"), drawing(every=2)
    trainer(callback, max_steps=20, logger=logger).fit(Autoencoder())
    for name in FIGURES:
        drawn = images(shown(logger), f"synbench_figures/{name}")
        assert drawn[0] == 0
        assert drawn[-1] == 20
        assert set(drawn) <= set(steps(callback))
        assert len(drawn) == len(set(drawn))


def test_every_probe_is_drawn_where_drawing_takes_little_of_the_time(monkeypatch):
    monkeypatch.setattr("synbench_lightning.callbacks.figure_logging.SHARE", 1.0)
    logger = TensorBoardLogger("runs")
    trainer(drawing(probe_at_end=False), max_steps=12, logger=logger).fit(Autoencoder())
    assert images(shown(logger), "synbench_figures/scales") == [0, 5, 10]


def test_figures_are_sharp():
    logger = TensorBoardLogger("runs")
    trainer(drawing(), max_steps=1, logger=logger).fit(Autoencoder())
    assert all(image.width >= 1000 for name in FIGURES for image in shown(logger).Images(f"synbench_figures/{name}"))


def layout(events):
    (tensor,) = events.Tensors("custom_scalars__config__")
    return layout_pb2.Layout.FromString(tensor_util.make_ndarray(tensor.tensor_proto).item())


def charts(logger, folder="synbench_charts"):
    events = EventAccumulator(f"{logger.log_dir}/{folder}")
    events.Reload()
    return layout(events)


INPUTS = torch.randn(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("arguments", "monitored"),
    [({}, "score"), ({"inputs": INPUTS}, "information"), ({"labels": (INPUTS, torch.arange(40) % 2)}, "readout")],
)
def test_the_page_of_charts_opens_with_the_one_to_monitor_in_its_band(arguments, monitored):
    logger = TensorBoardLogger("runs")
    trainer(drawing(**arguments), drawing(prefix="deep"), max_steps=5, logger=logger).fit(Autoencoder())
    events = shown(logger)
    for prefix, name in (("synbench", monitored), ("deep", "score")):
        ((chart,), *_) = (category.chart for category in charts(logger, f"{prefix}_charts").category)
        (band,) = chart.margin.series
        assert band.value == f"{prefix}/{name}"
        value, low, high = (
            [point.value for point in events.Scalars(tag)] for tag in (band.value, band.lower, band.upper)
        )
        errors = [point.value for point in events.Scalars(f"{prefix}/{name}_se")]
        assert low == pytest.approx([v - e for v, e in zip(value, errors, strict=True)], abs=1e-6)
        assert high == pytest.approx([v + e for v, e in zip(value, errors, strict=True)], abs=1e-6)


def test_a_chart_after_the_first_has_one_line_and_says_which():
    logger = TensorBoardLogger("runs")
    trainer(drawing(inputs=INPUTS), drawing(prefix="synbench_b"), max_steps=1, logger=logger).fit(Autoencoder())
    tags, found = shown(logger).Tags()["scalars"], {}
    for category in charts(logger).category[1:]:
        for chart in category.chart:
            found[chart.title] = [tag for tag in tags if any(re.search(e, tag) for e in chart.multiline.tag)]
    assert found == {
        "SynBench score": ["synbench/score"],
        "worst-task score": ["synbench/worst"],
        "effective rank of the features": ["synbench_details/effective_rank"],
        "fraction of training time in probes": ["synbench_details/overhead"],
        **{task: [f"synbench_tasks/{task}"] for task in ("dc", "cos_1", "cos_2")},
    }


def test_the_charts_are_laid_out_anew_when_there_is_a_better_one_to_monitor():
    logger = TensorBoardLogger("runs")
    trainer(drawing(inputs="auto"), max_steps=10, logger=logger).fit(Pairs())
    events = EventAccumulator(f"{logger.log_dir}/synbench_charts")
    events.Reload()
    pages = [
        layout_pb2.Layout.FromString(tensor_util.make_ndarray(tensor.tensor_proto).item())
        for tensor in events.Tensors("custom_scalars__config__")
    ]
    assert [page.category[0].chart[0].margin.series[0].value for page in pages] == [
        "synbench/score", "synbench/information"
    ]  # fmt: skip


@pytest.mark.parametrize("hook", ["setup", "on_fit_start", "on_train_start", "on_train_end"])
def test_the_tables_and_the_page_of_charts_of_the_user_are_left_alone(hook):
    class Own(WithHyperparameters):
        def __init__(self):
            super().__init__()
            own = getattr(self, hook)

            def logging(*given, **named):
                own(*given, **named)
                self.logger.log_hyperparams(self.hparams, {"accuracy": 0.5})
                self.logger.experiment.add_custom_scalars({"mine": {"loss": ["Multiline", ["loss"]]}})

            setattr(self, hook, logging)

    logger = TensorBoardLogger("runs", default_hp_metric=False)
    trainer(drawing(), max_steps=5, logger=logger).fit(Own())
    events = shown(logger)
    content = events.SummaryMetadata("_hparams_/experiment").plugin_data.content  # the first one, as TensorBoard reads
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    assert [info.name.tag for info in experiment.metric_infos] == ["accuracy"]
    assert [category.title for category in layout(events).category] == ["mine"]
    assert [point.step for point in events.Scalars("synbench/score")] == [0, 5]


def test_a_logger_without_figures_is_passed_over_in_silence(recwarn):
    logger = CSVLogger("csv")
    trainer(drawing(), max_steps=5, logger=logger).fit(WithHyperparameters())
    assert [str(warning.message) for warning in recwarn if "SynBench" in str(warning.message)] == []
    assert logger.experiment.metrics == []  # all of them written


def test_nothing_but_points_where_figures_are_not_wanted():
    logger = TensorBoardLogger("runs")
    trainer(probing(log_figures=False), max_steps=1, logger=logger).fit(WithHyperparameters())
    events = shown(logger)
    assert events.Tags()["images"] == []
    assert "custom_scalars__config__" not in events.Tags()["tensors"]
    assert not [tag for tag in events.Tags()["scalars"] if tag.startswith("synbench_band")]


def silent(kind):
    """A logger of that class whose service is not there: it is told of figures, and of nothing else."""

    class Silent(kind):
        def __init__(self):
            self.figures = []

        name, version, save_dir, run_id = "run", 0, ".", "r1"
        log_metrics = log_hyperparams = log_graph = save = finalize = after_save_checkpoint = lambda *_, **__: None

        def log_image(self, *given, **named):
            bound = inspect.signature(WandbLogger.log_image).bind(self, *given, **named).arguments
            self.figures.append((bound["key"], bound["step"], bound["images"][0]))

        @property
        def experiment(self):
            return self

        def log_figure(self, run_id, figure, artifact_file):
            assert run_id == "r1"
            self.figures.append((artifact_file, None, figure))

    return Silent()


def test_wandb_gets_images_by_its_own_call():
    logger = silent(WandbLogger)
    trainer(drawing(), max_steps=1, logger=logger).fit(Autoencoder())
    assert [(key, step) for key, step, _ in logger.figures] == [
        (f"synbench_figures/{name}", step) for step in (0, 1) for name in FIGURES
    ]
    assert all(image.ndim == 3 for _, _, image in logger.figures)


def test_mlflow_gets_vector_figures_by_its_own_call():
    logger = silent(MLFlowLogger)
    trainer(drawing(), max_steps=1, logger=logger).fit(Autoencoder())
    assert [file for file, _, _ in logger.figures] == [
        f"synbench_figures/{name}/step_{step:08d}.svg" for step in (0, 1) for name in FIGURES
    ]
    assert all(isinstance(figure, Figure) for _, _, figure in logger.figures)


def broken(*_, **__):
    raise ZeroDivisionError("broken")


class Failing:
    """The writer of a logger in which one call fails."""

    def __init__(self, writer, call):
        self.writer, self.call = writer, call

    def __getattr__(self, name):
        return broken if name == self.call else getattr(self.writer, name)


@pytest.mark.parametrize("fault", ["scale_figure", "pixels", "import", "add_image", "add_scalar", "add_custom_scalars"])
def test_what_cannot_be_shown_is_said_once_and_costs_nothing_else(fault, monkeypatch, recwarn):
    plain, callback = probing(every=2), drawing(every=2)
    trainer(plain, max_steps=6, logger=CSVLogger("csv")).fit(Autoencoder())

    class Logger(TensorBoardLogger):
        @property
        def experiment(self):
            return Failing(super().experiment, fault) if fault == "add_image" else super().experiment

    class FailingImport:
        def find_spec(self, name, *_):
            if name == "synbench_lightning.plots":
                broken()

    monkeypatch.setattr("synbench_lightning.callbacks.figure_logging.SHARE", 1.0)
    if fault in ("scale_figure", "pixels"):
        monkeypatch.setattr(f"synbench_lightning.plots.{fault}", broken)
    elif fault == "import":
        for name in [name for name in sys.modules if name.startswith("synbench_lightning.plots")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.delattr("synbench_lightning.plots", raising=False)
        monkeypatch.setattr(sys, "meta_path", [FailingImport(), *sys.meta_path])
    elif fault in ("add_custom_scalars", "add_scalar"):
        whole = getattr(SummaryWriter, fault)

        def call(self, name, *given, **named):
            if fault == "add_custom_scalars" or "_band" in name:
                broken()
            return whole(self, name, *given, **named)

        monkeypatch.setattr(SummaryWriter, fault, call)
    logger = Logger("runs")
    trainer(callback, max_steps=6, logger=logger).fit(Autoencoder())
    assert steps(callback) == steps(plain) == [0, 2, 4, 6]
    told = [str(warning.message) for warning in recwarn if "could not be logged" in str(warning.message)]
    assert len(told) == 1
    assert all("ZeroDivisionError: broken" in text for text in told)
    assert [point.step for point in shown(logger).Scalars("synbench/score")] == [0, 2, 4, 6]


def test_a_callback_with_a_dashboard_is_pickled():
    callback = drawing()
    trainer(callback, max_steps=1, logger=TensorBoardLogger("runs")).fit(Autoencoder())
    assert pickle.loads(pickle.dumps(callback)).history == callback.history
