"""The figure of layers over a run."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from synbench_lightning import plots
from synbench_lightning.probe.layers import best_layer
from tests.probe.test_layers import layer


@dataclass
class Probed:
    step: int
    layers: tuple

    layer_key = "information"

    @property
    def best_layer(self):
        return best_layer(self.layers, "information")


def history(widths=(8, 8, 8)):
    values = [(3, 2, 1), (2, 5, 1), (1, 2, 6)]
    return [
        Probed(
            100 * step, tuple(layer(f"block{i}", w, float(v)) for i, (v, w) in enumerate(zip(row, widths, strict=True)))
        )
        for step, row in enumerate(values)
    ]


def test_each_layer_has_a_row_each_probe_a_column_and_a_dot_on_the_best():
    axes, bar = plots.layer_map_figure(history()).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["block0 (8)", "block1 (8)", "block2 (8)"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0", "100", "200"]
    np.testing.assert_allclose(axes.images[0].get_array(), [[3, 2, 1], [2, 5, 2], [1, 1, 6]])
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[0, 0], [1, 1], [2, 2]])
    assert "nats" in bar.get_ylabel()


def test_layers_of_widths_that_do_not_compare_are_shown_each_as_a_fraction_of_its_own_highest():
    axes, bar = plots.layer_map_figure(history((2, 8, 8))).axes
    assert "nats" in bar.get_ylabel()
    axes, bar = plots.layer_map_figure(history((1, 8, 8))).axes
    np.testing.assert_allclose(np.asarray(axes.images[0].get_array()).max(1), 1)
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[0, 1], [1, 1], [2, 2]])
    assert "fraction" in bar.get_ylabel()


def test_probes_before_the_layers_were_changed_are_left_out():
    before = Probed(0, (layer("other", 8, 1.0), layer("block2", 8, 1.0)))
    axes, _ = plots.layer_map_figure([before, *history()[1:]]).axes
    assert [text.get_text() for text in axes.get_xticklabels()] == ["100", "200"]


def test_a_history_without_layers_is_refused():
    with pytest.raises(ValueError, match="has no layers"):
        plots.layer_map_figure([Probed(0, ())])


def test_long_names_are_shown_from_where_they_differ_and_heads_are_left_out():
    names = [f"model.student.backbone.encoder.layer.{i}.output.dense" for i in range(2)] + ["model.student.backbone"]
    layers = tuple(layer(name, 768, float(i)) for i, name in enumerate(names))
    head = replace(layer("model.student.head", 64, 9.0), head=True)
    axes, _ = plots.layer_map_figure([Probed(0, (*layers, head))]).axes
    shown = [text.get_text() for text in axes.get_yticklabels()]
    assert shown == ["…layer.0.output.dense (768)", "…layer.1.output.dense (768)", "model.student.backbone (768)"]


def test_names_that_differ_at_their_beginning_only_stay_as_they_are():
    names = [f"{side}_tower_of_the_network.layer.output" for side in ("left", "right")]
    axes, _ = plots.layer_map_figure([Probed(0, tuple(layer(name, 8, 1.0) for name in names))]).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [f"{name} (8)" for name in names]
