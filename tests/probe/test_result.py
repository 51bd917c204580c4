import io
import json
import pickle
from dataclasses import replace

import pytest
import torch

from synbench_lightning import ProbePlan, ProbeResult, evaluate


@pytest.fixture(scope="module")
def result() -> ProbeResult:
    encoder = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.ReLU())
    return evaluate(encoder, (8,), tasks="default", plan=ProbePlan(forwards=2048)).at(step=7)


def test_a_result_survives_json_pickle_and_a_weights_only_checkpoint(result):
    assert ProbeResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    assert pickle.loads(pickle.dumps(result)) == result
    file = io.BytesIO()
    torch.save(result.to_dict(), file)
    file.seek(0)
    assert ProbeResult.from_dict(torch.load(file, weights_only=True)) == result


def test_a_result_is_frozen_and_comparable(result):
    with pytest.raises(AttributeError):
        result.step = 3
    assert result != result.at(step=8)


def test_scores_and_score_agree(result):
    for t, task in enumerate(result.tasks):
        for e, epsilon in enumerate(result.epsilons):
            for h, threshold in enumerate(result.thresholds):
                assert result.scores[t][e][h] == pytest.approx(result.score(task, epsilon, threshold), abs=1e-12)


def test_aggregates_are_those_of_the_tasks_scores(result):
    scores = sorted(result.task_scores().values())
    assert result.worst() == (min(result.task_scores(), key=result.task_scores().get), scores[0])
    found = result.aggregates()
    assert found["worst"] == (scores[0], result.standard_error(result.worst()[0]))
    assert found["mean"].value == pytest.approx(sum(scores) / 3)
    assert found["cvar"].value == pytest.approx((scores[0] + scores[1] / 2) / 1.5)
    errors = [result.standard_error(task) for task in result.tasks]
    assert found["mean"].standard_error == pytest.approx(sum(error**2 for error in errors) ** 0.5 / 3)
    assert result.score() == result.task_scores()["dc"]


def test_aggregates_of_the_accuracy_are_taken_at_each_scale(result):
    of_tasks = [rows[0] for rows in result.accuracy]
    found = result.accuracy_aggregates()
    assert found["worst"] == pytest.approx([min(values) for values in zip(*of_tasks, strict=True)])
    assert found["mean"] == pytest.approx([sum(values) / 3 for values in zip(*of_tasks, strict=True)])


def test_what_was_not_probed_is_refused(result):
    with pytest.raises(
        ValueError, match=r"`task` must be one that was probed, \['dc', 'random_1', 'random_2'\], got 'x'"
    ):
        result.score("x")
    with pytest.raises(ValueError, match=r"`epsilon` must be one that was probed, \[0.0, 0.2\], got 0.3"):
        result.score(epsilon=0.3)
    with pytest.raises(ValueError, match="`thresholds`"):
        result.score(threshold=1.0)


def test_the_best_epsilon_is_the_one_with_the_highest_score_of_those_probed(result):
    for task in result.tasks:
        scores = {epsilon: result.score(task, epsilon, 0.6) for epsilon in result.epsilons}
        assert result.best_epsilon(task, 0.6) == max(scores, key=scores.get)
    same = replace(result, accuracy=(((0.9,) * 16,) * 2,) * 3, bound=(((1.0,) * 16,) * 2,) * 3)
    assert same.best_epsilon() == 0.0
