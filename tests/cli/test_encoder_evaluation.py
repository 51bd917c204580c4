import math

import pytest

from synbench_lightning.cli.encoder_evaluation import Evaluated, indistinguishable
from synbench_lightning.probe.plan import ProbePlan
from synbench_lightning.probe.result import ProbeResult


def evaluated(name, accuracy, error):
    """An encoder of one accuracy at every scale, and the standard error of its score."""
    plan = ProbePlan(num_scales=2)
    result = ProbeResult(
        tasks=("dc",), epsilons=(0.0,), thresholds=(0.7,), plan=plan, accuracy=(((accuracy, accuracy),),),
        bound=(((1.0, 1.0),),), standard_errors=None if error is None else (((error,),),), feature_dim=4,
        effective_rank=4.0, alpha_req=0.5, feature_std=1.0, num_forwards=8192, seed=0, seconds=1.0,
    )  # fmt: skip
    return Evaluated(name, result, (4,), cached=False)


@pytest.mark.parametrize("share", [(0.6, 0.8), (1.0, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize(("standard_errors", "told_apart"), [(1.9, False), (2.1, True)])
def test_scores_are_told_apart_from_two_standard_errors_of_their_difference_on(standard_errors, told_apart, share):
    difference = evaluated("", 0.9, None).result.score() - evaluated("", 0.8, None).result.score()
    one, other = (part * difference / standard_errors for part in share)
    assert math.hypot(one, other) == pytest.approx(difference / standard_errors)
    better, worse = evaluated("better", 0.9, one), evaluated("worse", 0.8, other)
    for pair in ([better, worse], [worse, better]):
        found = indistinguishable(pair, threshold=0.7)
        assert found == ([] if told_apart else [(pair[0].name, pair[1].name)])


def test_every_pair_is_compared():
    three = [evaluated(name, accuracy, 0.001) for name, accuracy in (("a", 0.8), ("b", 0.9), ("c", 0.8))]
    assert indistinguishable(three, threshold=0.7) == [("a", "c")]


def test_scores_without_standard_errors_are_not_judged():
    assert indistinguishable([evaluated("a", 0.8, None), evaluated("b", 0.8, 0.1)], threshold=0.7) == []
