import subprocess
import sys

import pytest

from synbench_lightning.cli import main
from synbench_lightning.cli.errors import CommandError
from tests.cli.commands import QUICK, SHAPE, run

pytestmark = pytest.mark.usefixtures("a_folder_with_encoders")

ENCODER = ["--encoder", "encoders:make"]

MISUSE = [
    ([*QUICK], "at least one --encoder or --module is needed"),
    ([*ENCODER], "--input-shape is needed for encoders:make: the shape of one example, as in --input-shape 3 224 224"),
    ([*ENCODER, "--input-shape", "1", "0"], "argument --input-shape: must be an integer of at least 1, got 0"),
    ([*ENCODER, "--input-shape", "a"], "argument --input-shape: must be an integer of at least 1, got 'a'"),
    ([*ENCODER, *SHAPE, "--plan", "slow"], "argument --plan: invalid choice: 'slow'"),
    ([*ENCODER, *SHAPE, "--tasks", "all"], "argument --tasks: invalid choice: 'all'"),
    ([*ENCODER, *SHAPE, "--plan", "official", "--forwards", "9"], "argument --forwards: the official plan has a fixed"),
    ([*ENCODER, *SHAPE, "--forwards", "9"], "argument --forwards: must be at least 128"),
    ([*ENCODER, *SHAPE, "--epsilons", "0", "1"], r"argument --epsilons: must be different numbers in [0, 1)"),
    ([*ENCODER, *SHAPE, "--epsilons", "0.2"], "argument --epsilons: must include 0"),
    ([*ENCODER, *SHAPE, "--epsilons", "x"], "argument --epsilons: must be a finite number, got 'x'"),
    ([*ENCODER, *SHAPE, "--threshold", "1"], r"argument --threshold: must be accuracies in [0.5, 1)"),
    ([*ENCODER, *SHAPE, "--mean", "0.5"], "--mean and --std must be given together"),
    ([*ENCODER, *SHAPE, "--mean", "0.5", "--std", "0"], "argument --std: must be positive, got 0"),
    ([*ENCODER, *SHAPE, "--views", "encoders:shifted"], "argument --views: needs --inputs"),
    ([*ENCODER, *SHAPE, "--labels", "none.pt"], "argument --labels: none.pt could not be read: "),
    ([*ENCODER, *SHAPE, "--inputs", "none.pt"], "argument --inputs: none.pt could not be read: "),
    ([*ENCODER, *SHAPE, "--seed", "-1"], "argument --seed: must be an integer of at least 0, got -1"),
    ([*ENCODER, *SHAPE, "--device", "abacus"], "argument --device: 'abacus' is not available here"),
    ([*ENCODER, *SHAPE, "--sed", "1"], "unrecognized arguments: --sed 1"),
    (["--encoder", "encoders", *SHAPE], "--encoder encoders: must be timm:NAME, transformers:NAME or package.module:"),
    (["--module", "encoders:Wide", *SHAPE], "--module encoders:Wide: needs its weights, --ckpt FILE [FILE ...]"),
    (["--ckpt", "a.ckpt", *ENCODER, *SHAPE], "--ckpt must come after the --encoder or --module that it belongs to"),
    (["--encoder.width", "8", *SHAPE], "--encoder.width must come after the --encoder or --module"),
    ([*ENCODER, "--module.width", "8", *SHAPE], "--module.width must come after a --module, not after --encoder"),
    ([*ENCODER, "--attribute", "a", *SHAPE], "--attribute must come after a --module, not after --encoder"),
    ([*ENCODER, "--encoder.width", "wide", *SHAPE], "--encoder encoders:make: "),
    ([*ENCODER, "--encoder.depth", "2", *SHAPE], "--encoder encoders:make: "),
]


@pytest.mark.parametrize(("arguments", "message"), MISUSE, ids=[message[:40] for _, message in MISUSE])
def test_wrong_arguments_are_told_in_one_line_with_exit_code_2(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert err.splitlines()[-1].startswith("synbench")
    assert "Traceback" not in err


def test_the_traceback_is_shown_where_asked(capsys):
    with pytest.raises(CommandError, match="out of luck") as caught:
        main(["evaluate", "--encoder", "encoders:broken", "--debug", *QUICK])
    assert isinstance(caught.value.__cause__, KeyError)


def test_the_command_runs_as_a_module_and_its_help_names_every_command():
    found = subprocess.run(
        [sys.executable, "-m", "synbench_lightning.cli", "--help"], capture_output=True, text=True, timeout=120
    )
    assert found.returncode == 0
    for command in ("evaluate", "history", "report"):
        assert command in found.stdout


def test_an_end_by_the_user_is_no_traceback(capsys):
    code, _, err = run(capsys, "--encoder", "encoders:interrupted", *QUICK)
    assert (code, err) == (130, "synbench: interrupted by the user\n")


def test_warnings_are_one_line_each(capsys):
    code, _, err = run(capsys, "--encoder", "torch.nn:Flatten", "--input-shape", "900", "--forwards", "768")
    assert code == 0
    assert err.startswith("synbench: warning: The representation varies in")
    assert err.count("\n") == 1
