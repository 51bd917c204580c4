"""Runs are ranked by what ranks them, with the error of each difference, and only where they are comparable."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from synbench_lightning import ProbePlan, ProbeResult, evaluate, rank
from synbench_lightning.functional.representation.information import instance_information


def result(information=None, error=None, *, kind="views", inputs="128 in 16 views", step=None, **changes):
    """A result whose information has replicates by which its standard error is ``error``, where that is given."""
    if information is not None:
        spread = () if error is None else ((information + error, information - error),)
        changes |= {"information": information, "information_error": abs(error or 1.0), "information_kind": kind}
        changes |= {"inputs": inputs, "information_replicates": spread}
    accuracy = changes.pop("accuracy", 0.9)
    plain = {
        "tasks": ("dc",), "epsilons": (0.0,), "thresholds": (0.7,), "plan": ProbePlan(num_scales=2),
        "accuracy": (((accuracy, accuracy),),), "bound": (((1.0, 1.0),),), "standard_errors": (((0.01,),),),
        "feature_dim": 4, "effective_rank": 4.0, "alpha_req": 0.5, "feature_std": 1.0, "num_forwards": 8192, "seed": 0,
        "seconds": 1.0, "step": step,
    }  # fmt: skip
    return ProbeResult(**plain | changes)


def readout(value, error, labels="300 (ab)", **changes):
    """A result with a readout that has replicates by which its standard error is ``error``."""
    own = {"readout": value, "readout_error": error, "readout_replicates": ((value + error, value - error),)}
    return result(labels=labels, **own, **changes)


def said(ranking):
    return " ".join(str(ranking).split())


def test_two_within_two_standard_errors_cannot_be_distinguished_and_a_third_can():
    found = rank({"far": result(5.0, -0.5), "close": result(9.0, -0.3), "best": result(10.0, 0.3)})
    assert (found.key, found.holds, found.best, found.rivals) == ("information", True, "best", ("close",))
    assert [one.name for one in found.ranked] == ["best", "close", "far"]
    assert [one.behind for one in found.ranked] == [0.0, 1.0, 5.0]
    # Replicates of opposite sign: the errors add up.
    assert [one.behind_error for one in found.ranked] == pytest.approx([0.0, 0.6, 0.8])
    assert all(one.paired for one in found.ranked)
    assert "it cannot be distinguished from close (less than two standard errors" in said(found)


def test_an_error_that_both_have_in_common_is_not_one_of_the_difference():
    found = rank({"best": result(10.0, 1.0), "other": result(9.5, 0.9)})
    assert found.ranked[1].behind_error == pytest.approx(0.1)
    assert found.rivals == ()  # as independent values they would be 0.37 standard errors apart


def test_without_replicates_the_errors_are_those_of_independent_values():
    found = rank({"best": result(10.0, 0.3), "other": result(9.5)})
    assert found.ranked[1].behind_error == pytest.approx(math.hypot(0.3, 1.0))
    assert (found.ranked[1].paired, found.rivals) == (False, ("other",))


@pytest.mark.parametrize(("behind", "rivals"), [(0.59, ("other",)), (0.61, ())])
def test_two_standard_errors_are_the_limit(behind, rivals):
    assert rank({"best": result(9.0, 0.2), "other": result(9.0 - behind, -0.1)}).rivals == rivals


def test_equal_results_cannot_be_distinguished():
    assert rank({"one": result(9.0, 0.1), "other": result(9.0, 0.1)}).rivals == ("other",)


def test_the_best_probe_after_the_first_step_counts():
    history = [result(9.9, 0.1, step=0), result(8.0, 0.1, step=10), result(7.0, 0.1, step=20)]
    found = rank({"run": history, "other": [result(7.5, 0.1, step=20)]})
    assert [(one.name, one.step) for one in found.ranked] == [("run", 10), ("other", 20)]
    assert rank({"run": history[:1]}).ranked[0].step == 0


def test_probes_of_a_run_with_other_arguments_than_its_last_are_not_among_its_best():
    history = [result(9.9, 0.1, step=10, inputs="others"), result(8.0, 0.1, step=20), result(7.0, 0.1, step=30)]
    assert rank({"run": history}).ranked[0].step == 20


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (result(9.0, 0.1, inputs="64 in 16 views"), "different inputs or views"),
        (result(9.0, 0.1, kind="noise", inputs="128"), "information with white noise, not under views"),
        (result(9.0, 0.1, plan=ProbePlan(num_scales=2, forwards=512)), "a different plan"),
        (result(9.0, 0.1, tasks=("cos_1",), seed=3), "different tasks, a different seed"),
        (
            result(9.0, 0.1, feature_dim=17),
            "17 features, not 4: encoders whose widths differ by more than a factor of 4 are not comparable",
        ),
        (result(), "no information"),
    ],
)
def test_what_is_not_comparable_is_not_ranked_and_the_reason_is_given(other, reason):
    found = rank({"other": other, "one": result(5.0, 0.1), "two": result(4.0, 0.1)})
    assert [one.name for one in found.ranked] == ["one", "two"]
    assert found.excluded["other"].startswith(reason)
    assert f"Not comparable: other ({reason}" in said(found)


def test_widths_are_compared_up_to_a_factor_of_four_by_information_and_not_at_all_by_the_score():
    runs = {"narrow": result(4.0, 0.1, feature_dim=4), "wide": result(5.0, 0.1, feature_dim=16)}
    assert (rank(runs).key, rank(runs).best, rank(runs).excluded) == ("information", "wide", {})
    runs = {"narrow": result(feature_dim=4), "wide": result(feature_dim=16)}
    assert list(rank(runs).excluded) == ["wide"]
    assert "encoders of different width are not comparable" in rank(runs).excluded["wide"]


def test_where_views_differ_the_readout_of_the_same_labels_ranks():
    found = rank({name: readout(value, 0.01, information=9.0, information_kind="views", inputs=name)
                  for name, value in (("a", 0.5), ("b", 0.6))})  # fmt: skip
    assert (found.key, found.holds, found.best, found.excluded) == ("readout", True, "b", {})


def test_where_both_rank_all_the_information_does():
    runs = {"a": readout(0.5, 0.01, information=9.0, information_kind="views", inputs="x")}
    runs["b"] = readout(0.6, 0.01, information=8.0, information_kind="views", inputs="x")
    assert (rank(runs).key, rank(runs).best) == ("information", "a")


def test_the_score_and_information_with_noise_are_in_order_and_do_not_rank():
    scores = rank({"a": result(accuracy=0.8), "b": result(accuracy=0.9)})
    assert (scores.key, scores.holds, scores.best) == ("score", False, "b")
    assert "This does not rank representations: the score can be misleading." in said(scores)
    assert "Best is" not in said(scores)
    noise = rank({"a": result(5.0, 0.1, kind="noise"), "b": result(6.0, 0.1, kind="noise")})
    assert (noise.key, noise.holds, noise.best) == ("information", False, "b")
    assert "information with white noise can be misleading" in said(noise)


def test_scores_of_the_official_protocol_have_no_errors_and_are_not_distinguished():
    found = rank({"a": result(accuracy=0.8, standard_errors=None), "b": result(accuracy=0.9)})
    assert (found.ranked[1].behind_error, found.rivals) == (None, ("a",))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "`results` must be a non-empty mapping of names to results, got {}"),
        ([1], "`results` must be a non-empty mapping"),
        ({"a": []}, r"`results\['a'\]` must be a ProbeResult or a history of them, got \[\]"),
        ({"a": [3]}, r"`results\['a'\]` must be a ProbeResult or a history of them, got \[3\]"),
    ],
)
def test_nothing_to_rank_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        rank(given)


def test_the_table_fits_eighty_columns_and_has_what_is_known():
    text = str(rank({f"runs/lr={place}e-3": result(9.0 - place, 0.1, step=1000 * place) for place in range(1, 4)}))
    assert text.splitlines()[1].split() == ["1", "runs/lr=1e-3", "1,000", "8.00", "±", "0.10"]
    assert text.splitlines()[2].split() == ["2", "runs/lr=2e-3", "2,000", "7.00", "±", "0.10", "1.00", "±", "0.00"]
    assert max(map(len, text.splitlines()[:4])) <= 80


def jitter(batch):
    return batch + 0.5 * torch.randn_like(batch)


def test_the_error_of_a_difference_is_its_scatter_over_inputs_and_views():
    """Two encoders that share most of what they keep, against fresh inputs and views."""
    generator = torch.Generator().manual_seed(0)
    one = nn.Linear(12, 6, bias=False)
    other = nn.Linear(12, 6, bias=False)
    weights = torch.randn(2, 6, 12, generator=generator)
    one.weight.data, other.weight.data = weights[0], 0.9 * weights[0] + 0.4 * weights[1]
    differences, errors, single = [], [], []
    for seed in range(30):
        x = torch.randn(64, 12, generator=generator)
        named = {"one": one, "other": other}
        found = {
            name: evaluate(encoder, (12,), inputs=x, views=jitter, seed=seed, plan=ProbePlan(forwards=512))
            for name, encoder in named.items()
        }
        ranking = rank(found)
        differences.append(found["one"].information - found["other"].information)
        errors.append(ranking.ranked[1].behind_error)
        single.append(found["one"].information_error)
    scatter = float(torch.tensor(differences).std())
    paired = float(torch.tensor(errors).square().mean().sqrt())
    assert paired == pytest.approx(scatter, rel=0.5)
    assert paired < float(torch.tensor(single).mean())


def test_replicates_are_the_information_without_a_group_of_inputs_or_views():
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    views = torch.stack([jitter(x) for _ in range(8)], 1)
    found = evaluate(nn.Flatten(), (8,), inputs=views, plan=ProbePlan(forwards=512))
    by_inputs, by_views = found.information_replicates
    without = torch.arange(64) % 4 != 1
    own = float(instance_information(views[without]))
    assert by_inputs[1] == pytest.approx(own, rel=0.1)  # there the chance level is subtracted, which is common to all
    assert len(by_inputs) == len(by_views) == 4


def test_the_threshold_is_that_of_the_score_and_of_its_error():
    runs = {
        "steep": result(accuracy=0.75, thresholds=(0.6, 0.7), standard_errors=(((0.01, 0.02),),)),
        "best": result(accuracy=0.9, thresholds=(0.6, 0.7), standard_errors=(((0.03, 0.04),),)),
    }
    for threshold, errors in ((0.6, (0.03, 0.01)), (0.7, (0.04, 0.02)), (0.65, (None, None))):
        found = rank(runs, threshold)
        assert [one.value for one in found.ranked] == [
            runs[one.name].score(threshold=threshold) for one in found.ranked
        ]
        assert tuple(one.error for one in found.ranked) == errors
        expected = None if errors[0] is None else pytest.approx(math.hypot(*errors))
        assert found.ranked[1].behind_error == expected
        assert not found.ranked[1].paired
    assert rank(runs).ranked[0].error == 0.04


def test_the_table_of_encoders_has_no_steps_and_three_digits_of_a_readout():
    found = rank({"a": readout(0.5, 0.01), "b": readout(0.6, 0.02)})
    assert found.rows == [
        ["rank", "encoder", "readout", "behind the best"],
        ["1", "b", "0.600 ± 0.020", ""],
        ["2", "a", "0.500 ± 0.010", "0.100 ± 0.010"],
    ]
    assert str(found).splitlines()[:3] == [
        "rank  encoder        readout  behind the best",
        "   1  b        0.600 ± 0.020",
        "   2  a        0.500 ± 0.010    0.100 ± 0.010",
    ]
    alone = rank({"a": result(5.0, 0.1, step=0)})
    assert alone.rows[1] == ["1", "a", "0", "5.00 ± 0.10", ""]
    assert alone.sentences == []


def test_rivals_are_listed_or_said_to_be_all():
    close = {name: result(9.0 + place / 100, 0.1 * place - 0.2) for place, name in enumerate("abc")}
    assert "cannot be distinguished from any of the others" in said(rank(close))
    assert "cannot be distinguished from a (less" in said(rank({"a": close["a"], "c": close["c"]}))
    far = rank({**close, "far": result(1.0, 0.1)})
    assert "cannot be distinguished from b, a (less" in said(far)
    assert "Best is c, by information under the same views, in nats:" in said(far)


def test_the_largest_group_is_ranked_and_the_readout_where_more_runs_have_it():
    views = {"inputs": "x", "information": 9.0, "information_kind": "views"}
    runs = {"a": readout(0.5, 0.01, **views), "b": readout(0.6, 0.01), "c": readout(0.4, 0.01)}
    found = rank(runs)
    assert (found.key, found.best, found.excluded) == ("readout", "b", {})
    other = rank({**runs, "d": readout(0.9, 0.01, labels="other"), "e": readout(0.8, 0.01, labels="other")})
    assert (other.best, other.excluded) == ("b", {"d": "different labeled examples", "e": "different labeled examples"})
    assert "Not comparable: d, e (different labeled examples)." in said(other)


def test_two_that_have_nothing_in_common_but_a_score_are_ordered_by_it():
    found = rank({"a": result(9.0, 0.1, inputs="x", accuracy=0.8), "b": result(5.0, 0.1, inputs="y", accuracy=0.9)})
    assert (found.key, found.holds, found.best) == ("score", False, "b")
    alone = rank({"a": result(9.0, 0.1, inputs="x")})
    assert (alone.key, alone.holds, alone.rivals) == ("information", True, ())
    assert rank({"a": result()}).key == "score"


def test_replicates_of_another_number_do_not_make_a_paired_error():
    other = replace(result(8.0, 0.4), information_replicates=((8.0, 8.1, 7.9),))
    found = rank({"one": result(9.0, 0.3), "other": other})
    assert (found.ranked[1].paired, found.ranked[1].behind_error) == (False, pytest.approx(0.5))
