"""What a result says of itself: settings, keys, errors that are unknown, and plain types that are no result."""

import math
from dataclasses import replace

import pytest
import torch

from synbench_lightning import LabelledTask, ProbePlan, ProbeResult, evaluate
from synbench_lightning.probe.layers import Information, LayerResult, best_layer, layer_results
from tests.probe.test_noisy_inputs import SMALL
from tests.probe.test_ranking import readout, result


def layer(name, information=None, read=None, width=4, head=False, error=0.1):
    spread = () if information is None else ((information, information + 0.2),)
    return LayerResult(name, width, information, error, spread, read, None if read is None else error, head)


@pytest.mark.parametrize(
    ("found", "key"),
    [
        (result(5.0, 0.1, kind="views"), "information"),
        (result(5.0, 0.1, kind="pairs"), "information"),
        (readout(0.5, 0.01, information=5.0, information_kind="views"), "information"),
        (readout(0.5, 0.01, information=5.0, kind="noise"), "readout"),
        (readout(0.5, 0.01), "readout"),
        (result(5.0, 0.1, kind="noise"), "information"),
        (result(), "score"),
        (replace(result(), tasks=()), "information"),
    ],
)
def test_the_key_to_monitor_is_the_first_that_ranks_and_is_there(found, key):
    assert found.best_key == key
    assert found.layer_key == ("information" if key == "score" else key)


def test_the_best_layer_is_not_chosen_by_information_with_noise():
    layers = (layer("a", 9.0, 0.9), layer("b", 5.0, 0.5))
    assert replace(result(5.0, 0.1, kind="noise"), layers=layers).best_layer is None
    assert replace(result(5.0, 0.1, kind="views"), layers=layers).best_layer.layer.name == "a"
    by_readout = replace(readout(0.5, 0.01, information=5.0, kind="noise"), layers=layers).best_layer
    assert by_readout.layer.name == "a"
    assert by_readout.margin == pytest.approx(0.4)
    assert by_readout.error == pytest.approx(math.hypot(0.1, 0.1))
    assert by_readout.margin_in_errors == pytest.approx(0.4 / math.hypot(0.1, 0.1))


def test_layers_in_heads_stand_after_the_output_and_are_not_the_best():
    info = [Information(float(value), 0.1, ((float(value), value + 0.5),)) for value in (1, 9, 3, 5)]
    found = layer_results(["one", "two", "head", ""], [4, 4, 4, 4], info, None, in_heads=1)
    assert [(one.name, one.head, one.information) for one in found] == [
        ("one", False, 1.0), ("two", False, 9.0), ("", False, 5.0), ("head", True, 3.0),
    ]  # fmt: skip
    assert all(one.readout is None and one.readout_error is None for one in found)
    best = best_layer((*found[:3], replace(found[3], information=20.0)), "information")
    assert (best.layer.name, best.place, best.margin) == ("two", 1, 4.0)
    none = layer_results(["one", ""], [4, 4], None, None)
    assert [(one.information, one.information_error, one.replicates) for one in none] == [(None, None, ())] * 2
    assert best_layer(none, "information") is None
    same = layer("a", 5.0), layer("b", 4.0)
    assert best_layer(same, "information").margin_in_errors == math.inf  # they differ by the same in each replicate


def test_settings_name_all_that_values_depend_on():
    plain = result()
    assert plain.settings == f"tasks dc; {plain.plan}; epsilons (0.0,); seed 0"
    full = replace(plain, input_shape=(3, 4), inputs="32 (ab)", labels="20 (cd)")
    assert full.settings == f"{plain.settings}; input shape (3, 4); inputs 32 (ab); labels 20 (cd)"
    assert plain.compares(full)
    assert full.differences(replace(full, labels="21", seed=1, epsilons=(0.1,))) == ("epsilons", "seed", "labels")


def test_features_have_collapsed_where_no_discriminant_exists_or_nothing_varies():
    assert not result().collapsed
    assert replace(result(), bound=(((0.0, 0.0),),)).collapsed
    assert not replace(result(), bound=(((0.0, 0.1),),)).collapsed
    alone = replace(result(5.0, 0.1), tasks=(), accuracy=(), bound=(), standard_errors=None)
    assert not alone.collapsed
    assert replace(alone, feature_std=0.0).collapsed


def test_a_probe_of_inputs_alone_has_no_score_and_says_so():
    alone = replace(result(5.0, 0.1), tasks=(), accuracy=(), bound=(), standard_errors=None)
    with pytest.raises(ValueError, match="This probe has no score: the encoder does not accept the real-valued"):
        alone.score()
    assert ProbeResult.from_dict(alone.to_dict()) == alone


def test_the_standard_errors_of_the_official_protocol_and_of_other_thresholds_are_unknown():
    found = result()
    assert found.standard_error() == 0.01
    assert replace(found, standard_errors=None).standard_error() is None
    for one in (replace(found, standard_errors=None).aggregates(), found.aggregates(threshold=0.71)):
        assert {aggregate.standard_error for aggregate in one.values()} == {None}
    known = found.aggregates()
    assert known["worst"].standard_error == known["mean"].standard_error == pytest.approx(0.01)
    assert known["gap"] == (0.0, 0.0)


def test_the_mean_accuracy_is_weighted_as_the_scales():
    plan = ProbePlan(num_scales=3)
    found = replace(result(), plan=plan, accuracy=(((0.6, 0.9, 1.0),),), bound=(((1.0, 1.0, 1.0),),))
    # Gauss-Legendre of three points: weights 5/18, 8/18, 5/18
    assert found.mean_accuracy() == pytest.approx((5 * 0.6 + 8 * 0.9 + 5 * 1.0) / 18)
    assert found.mean_accuracy("dc", 0.0) == found.mean_accuracy()
    assert (found.scales, found.weights) == (plan.scales, plan.weights)


def test_tasks_and_epsilons_are_found_by_name_and_value():
    found = evaluate(torch.nn.Identity(), (6,), tasks="random", epsilons=(0.2, 0.0), plan=ProbePlan(forwards=1024))
    scores = torch.tensor(found.scores)
    row, column = found.tasks.index("random_2"), 1
    assert found.score("random_2", 0.0, 0.8) == pytest.approx(scores[row, column, found.thresholds.index(0.8)].item())
    assert found.task_scores(0.2, 0.6)["random_3"] == pytest.approx(scores[3, 0, 0].item())
    worst, value = found.worst(0.2, 0.8)
    assert value == pytest.approx(scores[:, 0, found.thresholds.index(0.8)].min().item())
    assert found.score(worst, 0.2, 0.8) == value
    table = torch.tensor(found.accuracy)[:, 0]
    assert found.accuracy_aggregates(0.2)["worst"] == pytest.approx(table.min(0).values.tolist())
    with pytest.raises(ValueError, match=r"`epsilon` must be one that was probed, \[0.2, 0.0\], got \[0.2\]"):
        found.score(epsilon=[0.2])


def test_labels_of_a_task_replace_the_unknown_optimum_by_one_at_each_threshold():
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    task = LabelledTask("first", x, (x[:, 0] + 0.8 * x[:, 1] * x[:, 2] > 0).long())
    family = [*evaluate_tasks(), task]
    found = evaluate(torch.nn.Identity(), (6,), tasks=family, plan=ProbePlan(forwards=1024), thresholds=(0.6, 0.9))
    for column, _ in enumerate(found.epsilons):
        accuracy = found.accuracy[1][column][0]
        assert 0.7 < accuracy < 0.9
        assert found.scores[1][column] == pytest.approx([(accuracy - 0.6) / 0.4, 0.0])
    assert found.labelled == ("first",)


def evaluate_tasks():
    from synbench_lightning import task_family

    return task_family("dc", (6,))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"accuracy": [[[0.5]]]}, r"a ProbeResult has `accuracy` of another shape than \(1, 1, 2\), tasks x epsilons"),
        ({"bound": [[[1.0, 1.0], [1.0, 1.0]]]}, "a ProbeResult has `bound` of another shape"),
        ({"more": 1}, "a ProbeResult has unknown fields: more"),
        ({"seed": "1"}, "a ProbeResult has invalid fields: seed"),
        ({"plan": {"forwards": 1.5}}, "a ProbePlan has invalid fields: forwards"),
        ({"layers": [{"name": "a"}]}, "a LayerResult lacks fields: width"),
    ],
)
def test_plain_types_that_are_no_result_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        ProbeResult.from_dict(result().to_dict() | change)


def test_results_of_earlier_versions_have_information_with_noise_and_no_more():
    found = result(5.0, 0.1, kind="noise").to_dict()
    for later in ("information_kind", "layers", "information_replicates", "readout_replicates", "labels", "readout"):
        found.pop(later)
    assert ProbeResult.from_dict(found).information_kind == "noise"
    plain = {key: value for key, value in result().to_dict().items() if key != "information_kind"}
    assert ProbeResult.from_dict(plain).information_kind is None


def test_the_best_layer_and_all_else_come_back_from_plain_types():
    layers = (layer("a", 9.0, 0.9), layer("b", 5.0, None, width=7), layer("c", None, 0.2, head=True))
    full = readout(0.5, 0.01, information=5.0, information_kind="views", inputs="x", information_error=0.2)
    full = replace(full, layers=layers, input_shape=(3, 2), information_replicates=((1.0, 2.0), (3.0, 4.0)))
    plain = full.to_dict()
    assert ProbeResult.from_dict(plain) == full
    assert isinstance(plain["layers"][0], dict)
    assert plain["input_shape"] == [3, 2]


def test_a_plot_shows_the_curve_of_the_result():
    assert len(evaluate(torch.nn.Identity(), (4,), plan=SMALL).plot().axes) >= 1
