"""The study of views of text."""

import gzip
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from validity import text_measure, text_views
from validity.encoders import DIM
from validity.runs import Run, checkpoint_steps
from validity.text_encoders import TextEncoder
from validity.text_objectives import DEVELOPMENT, HELD_OUT, OBJECTIVES
from validity.texts import TOKENS, WORDS, Corpus, Texts, load_corpus

EXAMPLES = Path(__file__).parents[2] / "examples"


def texts(rows=60, length=48, distinct=False):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, WORDS, (rows, length), generator=generator)
    ids = torch.arange(3, 3 + length).expand(rows, length) if distinct else ids
    return Texts(ids, torch.full((rows,), length), torch.arange(rows) % 2)


@pytest.fixture
def corpus(monkeypatch):
    found = Corpus("topic", *(texts(rows) for rows in (300, 300, 60)))
    monkeypatch.setattr(text_measure, "load_corpus", lambda name: found)
    return found


def test_the_halves_of_the_study_share_no_objective_and_leave_none_out():
    assert {*DEVELOPMENT, *HELD_OUT} == {*OBJECTIVES}
    assert len(DEVELOPMENT) == len(HELD_OUT)


def test_parts_of_a_text_share_no_word_and_random_views_of_it_do():
    viewed = text_views.viewed(texts(rows=200, distinct=True))
    for name in text_views.DISJOINT:
        for views in viewed[name]:
            assert len(views.unique()) == views.numel()
    for name in text_views.RANDOM:
        assert any(len(views.unique()) < views.numel() for views in viewed[name])


def test_a_causal_encoder_does_not_see_what_follows_and_a_transformer_does():
    ids = texts().beginnings()
    other = torch.cat([ids[:, :10], ids[:, 10:].flip(1)], 1)
    for name, unseen in (("causal", True), ("transformer", False)):
        encoder = TextEncoder(name).eval()
        assert torch.allclose(encoder(ids)[:, :10], encoder(other)[:, :10], atol=1e-5) == unseen


@pytest.mark.parametrize("name", ["transformer", "causal", "mixer", "bag"])
def test_encoders_that_normalize_over_features_do_not_see_a_shift_of_all_of_them_as_in_the_task_dc(name):
    encoder = TextEncoder(name).eval()
    vectors = torch.randn(4, TOKENS, DIM)
    shifted = encoder.states(vectors + 3.0)
    torch.testing.assert_close(encoder.states(vectors), shifted, rtol=1e-3, atol=1e-3)
    along = text_measure.of_tokens(0).direction
    assert along.sum().abs() < 1e-5
    assert not torch.allclose(encoder.states(vectors + 3 * along), shifted, atol=0.05)


@pytest.mark.parametrize(
    "objective", [pytest.param(name, marks=[] if name == "bag" else pytest.mark.slow) for name in OBJECTIVES]
)
def test_every_objective_trains_and_is_measured(objective, corpus, tmp_path):
    run = Run("docstrings", objective, OBJECTIVES[objective].encoder, 0, 4)
    text_measure.pretrain(run, tmp_path)
    rows = text_measure.Measurement("docstrings").rows(run, tmp_path)
    poolings = 2 if objective == "causal" else 1
    assert [row["step"] for row in rows[::poolings]] == checkpoint_steps(4, text_measure.CHECKPOINTS)
    assert all(np.isfinite(row[f"predictor:{name}"]) for row in rows for name in text_measure.PREDICTORS)
    assert all(0 <= value <= 1 for row in rows for name, value in row.items() if name.startswith("accuracy:"))


@pytest.mark.slow
def test_docstrings_are_found_by_topic_and_no_document_is_in_two_parts():
    corpus = load_corpus("docstrings")
    assert len(corpus.train.labels.unique()) == 10
    train, test = ({tuple(row) for row in part.ids.tolist()} for part in (corpus.train, corpus.test))
    assert len(train & test) < 0.01 * len(test)


@pytest.mark.parametrize("corpus", ["docstrings", "reviews"])
def test_in_the_kept_results_parts_of_texts_follow_and_masked_words_do_not(monkeypatch, capsys, corpus):
    table = EXAMPLES / "validity" / f"text_{corpus}.csv.gz"
    monkeypatch.setattr(sys, "argv", ["text_study.py", "--table", str(table)])
    runpy.run_path(str(EXAMPLES / "text_study.py"), run_name="__main__")
    out = capsys.readouterr().out
    every = out.split("## All objectives, mean of the tokens: 18 runs")[1]

    def median(name):
        line = re.search(rf"^\| information, {re.escape(name)} \|.*$", every, re.MULTILINE)[0]
        return float(re.findall(r"([-+]\d\.\d+) \[", line)[0])

    assert median("quarters") > 0.5 > 0 > median("mask 15 %")
    with gzip.open(table, "rt") as file:
        assert sum(1 for _ in file) == 1 + 3 * 7 * text_measure.CHECKPOINTS
