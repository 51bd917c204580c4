"""What the words on the command line become, and what the process returns."""

import logging
import os
import sys
from argparse import Namespace

import pytest

from synbench_lightning.cli import main
from synbench_lightning.cli import main as function
from synbench_lightning.cli.encoder_evaluation import _normalize
from synbench_lightning.cli.main import ATTACHED, _with_attached_arguments

own = sys.modules[function.__module__]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["--encoder.width", "8", "--json"], [ATTACHED, "encoder", "width=8", "--json"]),
        (["--module.net.width=8"], [ATTACHED, "module", "net.width=8"]),
        (["--encoder.a=b=c\nd"], [ATTACHED, "encoder", "a=b=c\nd"]),
        (["--encoder.on", "--encoder.other", "-1"], [ATTACHED, "encoder", "on=true", ATTACHED, "encoder", "other=-1"]),
        (["x", "--encoder.flag"], ["x", ATTACHED, "encoder", "flag=true"]),
        (["--encoder", "a.b", "--encoders.c", "--encoder."], ["--encoder", "a.b", "--encoders.c", "--encoder."]),
    ],
)  # fmt: skip
def test_arguments_of_a_factory_are_attached_to_it(given, found):
    assert _with_attached_arguments(given) == found


def helped(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--help"])
    assert caught.value.code == 0
    return " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("history", "Print the curves of runs and rank the runs."),
        ("report", "Write one HTML page about runs, with their ranking."),
        ("evaluate", "Probe trained encoders and rank them: by information with --views, else by readout"),
    ],
)
def test_each_command_says_what_it_does(capsys, command, words):
    assert words in helped(capsys, command)
    assert "--debug" in helped(capsys, command)


def test_the_help_of_evaluate_has_its_defaults_and_hides_what_is_written_otherwise(capsys):
    text = helped(capsys, "evaluate")
    assert "--forwards N forward passes of the fast plan, default: 8192" in text
    assert "default: 0 0.2; must include 0" in text
    assert "--plan {fast,official} default: fast" in text
    assert ATTACHED not in text
    given = own._parser().parse_args(["evaluate", "--encoder", "a:b"])
    assert (given.epsilons, given.threshold, given.batch_size, given.seed) == ([0.0, 0.2], 0.7, 256, 0)
    assert (given.tasks, given.plan, given.forwards, given.weights_only) == ("default", "fast", None, "true")
    assert [given.json, given.no_cache, given.debug] == [False] * 3
    of_a_run = own._parser().parse_args(["report", "."])
    assert (str(of_a_run.output), of_a_run.prefix) == ("synbench_report.html", "synbench")


def test_each_source_has_its_own_options_and_several_values_of_one_are_kept():
    words = ["evaluate", "--module", "a:B", "--ckpt", "1", "2", "--ckpt", "3", "--attribute", "net", "--encoder", "c:d"]
    one, other = own._parser().parse_args([*words, ATTACHED, "encoder", "x=1"]).sources
    assert (one.kind, one.spec, one.checkpoints, one.attribute, one.arguments) == (
        "module",
        "a:B",
        list("123"),
        "net",
        [],
    )
    assert (other.kind, other.spec, other.checkpoints, other.arguments) == ("encoder", "c:d", [], ["x=1"])


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--batch-size", "+0", "must be an integer of at least 1, got 0"),
        ("--seed", "1.0", "must be an integer of at least 0, got '1.0'"),
        ("--threshold", "inf", "must be a finite number"), ("--threshold", "a", "must be a finite number, got 'a'"),
    ],
)  # fmt: skip
def test_numbers_are_checked_where_they_are_given(capsys, option, value, words):
    with pytest.raises(SystemExit) as caught:
        main(["evaluate", "--encoder", "a:b", option, value])
    assert caught.value.code == 2
    assert f"argument {option}: {words}" in capsys.readouterr().err


def test_numbers_with_a_sign_and_zero_as_a_seed_are_taken():
    words = ["evaluate", "--encoder", "a:b", "--batch-size", "+1", "--seed", "0", "--mean", "-0.5", "1"]
    given = own._parser().parse_args(words)
    assert (given.batch_size, given.seed, given.mean) == (1, 0, [-0.5, 1.0])


def ending(monkeypatch, error):
    def run(given):
        if error is not None:
            raise error

    monkeypatch.setattr(own, "history_command", run)


def test_a_reader_that_has_closed_the_pipe_is_no_failure(monkeypatch, capfd):
    ending(monkeypatch, BrokenPipeError())
    assert main(["history", "."]) == 0
    os.write(1, b"nobody reads this")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("error", "code"), [(OSError("disk full"), 1), (KeyboardInterrupt(), 130)])
def test_failures_have_a_line_and_a_code(monkeypatch, capsys, error, code):
    ending(monkeypatch, error)
    assert main(["history", "."]) == code
    assert capsys.readouterr().err.count("\n") == 1


def test_errors_are_shown_in_full_where_asked(monkeypatch):
    ending(monkeypatch, OSError("disk full"))
    with pytest.raises(OSError, match="disk full"):
        main(["history", ".", "--debug"])


def test_levels_of_loggers_are_those_of_before(monkeypatch):
    logger = logging.getLogger("lightning.pytorch")
    monkeypatch.setattr(logger, "level", logging.INFO)
    levels = []
    monkeypatch.setattr(own, "history_command", lambda given: levels.append(logger.level) or 0)
    assert main(["history", "."]) == 0
    assert (levels, logger.level) == ([logging.ERROR], logging.INFO)


@pytest.mark.parametrize("words", [["--vers"], ["history", ".", "--fig", "a.svg"], []])
def test_options_are_written_out_and_a_command_is_named(monkeypatch, capsys, words):
    ending(monkeypatch, None)
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert "the following arguments are required: COMMAND" in capsys.readouterr().err or "--fig" in words


def test_the_arguments_are_those_of_the_process(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["synbench", "best", "a"])
    monkeypatch.setattr(own, "best_command", lambda rest: rest)
    assert main() == ["a"]


def test_the_result_of_a_command_is_the_exit_code(monkeypatch):
    monkeypatch.setattr(own, "best_command", lambda rest: rest)
    assert main(["best", "a", "--help"]) == ["a", "--help"]  # parsed by the command itself
    assert main(["best"]) == ["--help"]


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        ([0.5], [0.25], (0.5, 0.25)), ([0.1, 0.2], [1.0, 2.0], ((0.1, 0.2), (1.0, 2.0))),
        ([0.5], [1.0, 2.0], (0.5, (1.0, 2.0))), (None, None, None),
    ],
)  # fmt: skip
def test_one_value_is_for_all_channels_and_several_are_for_one_each(mean, std, expected):
    assert _normalize(Namespace(mean=mean, std=std)) == expected
