"""The tables of `synbench evaluate` for results that are written down, so that every character is known."""

import pytest

from synbench_lightning import ProbePlan
from synbench_lightning.cli.encoder_evaluation import Evaluated, _as_text, _layers_as_text, _with_short_names
from synbench_lightning.cli.errors import CommandError, UsageError, in_one_line
from synbench_lightning.cli.run_ranking import rankings
from synbench_lightning.cli.tables import wrapped
from synbench_lightning.probe.layers import LayerResult
from tests.results import written_result

HALF = ((0.75, 0.995), (0.7, 0.7))  # accuracy by epsilon and scale
BOUNDS = ((1.3, 1.0), (1.0, 1.0))

COLUMNS = ["readout", "score", "eps", "0.2", "worst", "task", "eff.", "rank", "seconds"]
"""Of every table of encoders, behind what it begins with."""


def result(**more):
    values = {
        "tasks": ("dc", "cos"), "epsilons": (0.0, 0.2), "accuracy": (HALF, HALF), "bound": (BOUNDS, BOUNDS),
        "standard_errors": (((0.0123,), (0.02,)), ((0.01,), (0.02,))), "effective_rank": 7.25, "seconds": 2.345,
    }  # fmt: skip
    return written_result(**{**values, **more})


def shown(*found, threshold=0.7):
    lines = _as_text(found, rankings({one.name: one.result for one in found}, threshold), threshold)
    text = "\n".join(lines)
    assert all(len(line) <= 80 for line in lines if " " in line and "  " not in line)
    return lines, " ".join(text.split())


def test_one_encoder_is_a_heading_and_a_row():
    own = result(information=12.345, information_error=0.678, information_kind="noise", readout=0.4567)
    score, worst = own.score(), own.worst()
    lines, text = shown(Evaluated("net", own, (3,), False))
    assert lines[:2] == ["net", ""]
    assert lines[2].split() == ["information", *COLUMNS]
    assert " ".join(lines[3].split()) == (
        f"12.35 ± 0.68 0.457 {score:.3f} ± 0.012 {own.score(epsilon=0.2):.3f} {worst[1]:.3f} {worst[0]} 7.2 of 64 2.3"
    )
    assert lines[4] == ""
    assert len(lines[2]) == len(lines[3])  # flush right
    assert "± one standard error. Score: on the task dc at threshold 0.7. Forwards: 8,192." in text
    assert "identity of the input, with white noise, in nats." in text
    assert "Readout: leave-one-out R² of a ridge regression of the labels on the features." in text
    assert "different shapes" not in text
    assert "official" not in text


def test_what_was_not_measured_or_came_from_the_cache_is_said():
    lines, text = shown(Evaluated("net", result(epsilons=(0.0,), accuracy=(HALF[:1],) * 2, bound=(BOUNDS[:1],) * 2,
                                                standard_errors=None), (3,), True))  # fmt: skip
    assert lines[2].split() == ["score", "worst", "task", "eff.", "rank", "seconds"]
    assert lines[3].split()[-4:] == ["7.2", "of", "64", "cached"]
    assert "±" not in lines[3]
    assert "Information:" not in text
    assert "Readout:" not in text
    assert "official" not in text  # of a single encoder nothing is compared


def test_several_encoders_are_ranked_above_a_table_of_what_the_ranking_does_not_show():
    one = result(information=3.0, information_error=0.1, information_kind="views", readout=0.5, num_forwards=768)
    two = result(information=2.0, information_error=0.1, information_kind="views", readout=0.6, readout_error=0.05)
    lines, text = shown(Evaluated("a", one, (3,), False), Evaluated("b", two, (4,), False))
    assert lines[0].split() == ["rank", "encoder", "information", "behind", "the", "best"]
    place = lines.index("") + 1
    assert lines[place].split() == ["encoder", *COLUMNS]
    assert [line[:8] for line in lines[place + 1 : place + 3]] == ["a       ", "b       "]  # flush left
    assert lines[place + 1].split()[1] == "0.500"
    assert lines[place + 2].split()[1:4] == ["0.600", "±", "0.050"]
    assert "Forwards: 768 to 8,192." in text
    assert "identity of the input, in random views, in nats." in text
    assert "The encoders have inputs of different shapes, so that their tasks differ." in text
    pairs, noise = result(information=1.0, information_kind="pairs"), result(information=1.0, information_kind="noise")
    _, text = shown(Evaluated("a", pairs, (3,), False), Evaluated("b", noise, (3,), False))
    assert "identity of the input, in the views that were given or with white noise, in nats." in text
    _, text = shown(Evaluated("a", one, (3,), False), Evaluated("b", result(), (3,), False))
    assert "identity of the input, in random views, in nats." in text


def test_the_official_protocol_is_named_where_encoders_are_compared():
    official = result(standard_errors=None, plan=ProbePlan(num_scales=2))
    _, text = shown(Evaluated("a", official, (3,), False), Evaluated("b", official, (3,), False))
    assert "The official protocol has no standard errors: small differences may be noise." in text
    _, text = shown(Evaluated("a", result(), (3,), False), Evaluated("b", result(), (3,), False))
    assert "The official protocol" not in text


def test_layers_are_a_table_with_the_best_one_and_those_that_are_not_ranked():
    layers = (
        LayerResult("one", 8, readout=0.75, readout_error=0.03), LayerResult("two", 1, readout=0.9, readout_error=0.1),
        LayerResult("out", 8, readout=0.5, readout_error=0.04), LayerResult("head", 8, readout=0.8, readout_error=0.1,
                                                                          head=True),
    )  # fmt: skip
    found = Evaluated("net", result(layers=layers, readout=0.5), (3,), False)
    assert _layers_as_text(found) == [
        "",
        "Layers of net:",
        "layer  width        readout",
        "one        8  0.750 ± 0.030  best, by 0.25 ± 0.05",
        "two        1  0.900 ± 0.100  not ranked: more than 4 times as wide or narrow as the output",
        "out        8  0.500 ± 0.040",
        "head       8  0.800 ± 0.100",
    ]
    assert _layers_as_text(Evaluated("net", result(), (3,), False)) == []
    assert shown(found)[0][-7:] == _layers_as_text(found)
    by_information = tuple(LayerResult(name, 8, information=value, information_error=0.2) for name, value in
                           (("one", 1.0), ("out", 2.0)))  # fmt: skip
    rows = _layers_as_text(Evaluated("net", result(layers=by_information, information=2.0, information_kind="noise"),
                                     (3,), False))  # fmt: skip
    assert rows[2:] == ["layer  width    information", "one        8  1.000 ± 0.200", "out        8  2.000 ± 0.200"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["run/a/x.ckpt", "run/b/y.ckpt"], ["a/x.ckpt", "b/y.ckpt"]),
        (["run/x.ckpt", "run/y.ckpt"], ["x.ckpt", "y.ckpt"]),
        (["run/a/x.ckpt"], ["run/a/x.ckpt"]), (["net", "run/a/x.ckpt"], ["net", "run/a/x.ckpt"]),
        (["/run/a/x.ckpt", "run/a/x.ckpt"], ["/run/a/x.ckpt", "run/a/x.ckpt"]),
        (["/run/a/x.ckpt", "/run/b/x.ckpt"], ["a/x.ckpt", "b/x.ckpt"]), ([], []),
    ],
)  # fmt: skip
def test_checkpoints_are_named_relative_to_their_common_folder(names, expected):
    found = _with_short_names([Evaluated(name, result(), (3,), False) for name in names])
    assert [one.name for one in found] == expected


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (CommandError("two\n  lines"), "two lines"), (UsageError(""), ""), (ValueError("of a value"), "of a value"),
        (ValueError(), "ValueError"), (KeyError("x"), "KeyError: 'x'"), (RuntimeError(), "RuntimeError"),
    ],
)  # fmt: skip
def test_errors_are_told_in_one_line(error, text):
    assert in_one_line(error) == text


def test_sentences_are_wrapped_at_80_characters_and_paths_are_not():
    assert wrapped(f"{'x' * 40} {'y' * 39}") == [f"{'x' * 40} {'y' * 39}"]
    assert wrapped(f"{'x' * 40} {'y' * 40}") == ["x" * 40, "y" * 40]
    assert wrapped("xx-yyy/" * 30) == ["xx-yyy/" * 30]
