"""Figures of probes and benchmarks (needs the extra ``plots``)."""

from synbench_lightning.plots.benchmark import correlation_figure as correlation_figure
from synbench_lightning.plots.benchmark import point_map_figure as point_map_figure
from synbench_lightning.plots.benchmark import prediction_figure as prediction_figure
from synbench_lightning.plots.benchmark import task_curves_figure as task_curves_figure
from synbench_lightning.plots.layers import layer_map_figure as layer_map_figure
from synbench_lightning.plots.probe import robustness_accuracy_figure as robustness_accuracy_figure
from synbench_lightning.plots.probe import scale_figure as scale_figure
from synbench_lightning.plots.run import comparison_figure as comparison_figure
from synbench_lightning.plots.run import history_figure as history_figure
from synbench_lightning.plots.run import logged_figure as logged_figure
from synbench_lightning.plots.run import task_map_figure as task_map_figure
from synbench_lightning.plots.style import new_figure as new_figure
from synbench_lightning.plots.style import pixels as pixels
from synbench_lightning.plots.style import save as save
from synbench_lightning.plots.style import vector as vector
