"""What a run is told about its probes: falls beyond noise while the loss improves, collapse, other arguments."""

import logging

import pytest
import torch

from synbench_lightning.callbacks.probe_warnings import ProbeWarnings
from tests.results import written_result

NOTHING = ((0.5, 0.5),)


def told(caplog, probes):
    """The falls that are told of, for pairs of losses since the last probe and values of the probe."""
    warnings = ProbeWarnings(0.7)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        before = None
        for losses, values in probes:
            for loss in losses:
                warnings.trained(torch.tensor(loss))
            result = written_result(**values)
            warnings.probed(result, before)
            before = result
    return [message for message in caplog.messages if "has fallen" in message]


def information(value, error=0.0):
    return {"information": value, "information_error": error}


@pytest.mark.parametrize(("value", "falls"), [(3.5, 0), (3.49, 1)])
def test_a_fall_is_one_beyond_three_standard_errors_of_the_difference(caplog, value, falls):
    probes = [([2.0], information(5.0, 0.3)), ([1.0], information(value, 0.4))]  # 3 * sqrt(.3² + .4²) = 1.5
    assert len(told(caplog, probes)) == falls


def test_the_message_has_both_values_and_the_mean_losses_before_them(caplog):
    probes = [([], information(1.0)), ([9.0, 5.0], information(5.0)), ([4.0], information(6.0)),
              ([[1.0, 2.0], 3.0, 3.0], information(4.0))]  # fmt: skip
    (message,) = told(caplog, probes)
    assert "the information has fallen from 6.000 to 4.000, more than its noise" in message
    assert "while the training loss went from 4 to 2.5" in message
    assert "what distinguishes the inputs from each other" in message


@pytest.mark.parametrize(
    ("losses", "falls"),
    [([[2.0], [1.0]], 1), ([[2.0], [2.0]], 0), ([[2.0], [3.0]], 0), ([[2.0], []], 0), ([[], [1.0]], 0)],
)
def test_a_fall_is_told_while_the_loss_improves(caplog, losses, falls):
    probes = list(zip(losses, [information(5.0), information(1.0)], strict=True))
    assert len(told(caplog, probes)) == falls


def test_what_was_best_before_the_first_step_is_compared_from_the_first_loss_on(caplog):
    probes = [([], information(5.0)), ([2.0], information(4.0)), ([3.0], information(3.0)), ([1.0], information(3.0))]
    (message,) = told(caplog, probes)
    assert "from 5.000 to 3.000" in message
    assert "from 2 to 1" in message


def test_each_fall_is_told_once(caplog):
    high, low = information(5.0), information(1.0)
    assert len(told(caplog, [([3.0], high), ([2.0], low), ([1.0], low)])) == 1
    equal = [([3.0], high), ([2.0], low), ([2.0], high), ([1.0], low)]
    assert len(told(caplog, equal)) == 1  # only a new best begins anew
    assert len(told(caplog, [([3.0], high), ([2.0], low), ([2.0], information(6.0)), ([1.0], low)])) == 2


def test_values_of_another_kind_are_not_compared(caplog):
    assert told(caplog, [([3.0], information(5.0)), ([2.0], {"readout": 0.9, "readout_error": 0.0})]) == []
    readouts = [([3.0], {"readout": 0.9}), ([2.0], {"readout": 0.5, "readout_error": 0.01})]
    (message,) = told(caplog, readouts)
    assert "the readout has fallen from 0.900 to 0.500" in message
    assert "what the given labels depend on" in message


def test_the_score_is_watched_where_nothing_else_was_measured(caplog):
    good, bad = {}, {"accuracy": (((0.6, 0.7),),), "bound": (((1.3, 1.0),),)}
    (message,) = told(caplog, [([3.0], good), ([2.0], bad)])
    values = written_result().score(), written_result(**bad).score()
    assert f"the score has fallen from {values[0]:.3f} to {values[1]:.3f}" in message
    uncertain = {**bad, "standard_errors": (((0.6,),),)}
    assert told(caplog, [([3.0], good), ([2.0], uncertain)]) == []


def first(caplog, **values):
    caplog.clear()
    with caplog.at_level(logging.INFO):
        ProbeWarnings(0.7).probed(written_result(**values), None)
    return caplog.messages


def test_the_first_probe_names_the_dimensions_the_score_and_tasks_without_an_effect(caplog):
    dimensions = f"SynBench: the representation has 64 dimensions, score {written_result().score():.3f}."
    assert first(caplog) == [dimensions]
    both = {"tasks": ("dc", "cos"), "accuracy": (((0.8, 0.99),), NOTHING), "bound": (((1.3, 1.0),), ((1.0, 1.0),))}
    both["standard_errors"] = (((0.01,),), ((0.01,),))
    said = first(caplog, **both)
    assert said[0] == dimensions
    assert said[1].startswith("SynBench: the score of cos is 0: the encoder is insensitive to that task")
    assert len(said) == 2
    none = {"tasks": (), "accuracy": (), "bound": (), "standard_errors": ()}
    assert first(caplog, **none, **information(1.0)) == ["SynBench: the representation has 64 dimensions."]


def test_collapse_is_told_when_it_begins():
    warnings, result = ProbeWarnings(0.7), written_result()
    gone = written_result(feature_std=0.0, effective_rank=0.0, accuracy=(NOTHING,), bound=(((0.0, 0.0),),))
    assert gone.collapsed
    with pytest.warns(UserWarning, match="The representation has collapsed"):
        warnings.probed(gone, None)
    warnings.probed(gone, gone)
    with pytest.warns(UserWarning, match="The representation has collapsed"):
        warnings.probed(gone, result)


def test_values_made_with_other_arguments_are_told_of():
    before = written_result(step=40)
    with pytest.warns(UserWarning, match=r"scores up to step 40, from the checkpoint, .* other arguments"):
        ProbeWarnings(0.7).probed(written_result(seed=1), before)
