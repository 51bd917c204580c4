"""Arguments, messages and exit codes of the command `synbench`."""

from __future__ import annotations

import argparse
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import synbench_lightning
from synbench_lightning.checks import check_integer, check_name, check_number
from synbench_lightning.cli.best import best_command
from synbench_lightning.cli.encoder_evaluation import evaluate_command
from synbench_lightning.cli.encoder_sources import Source
from synbench_lightning.cli.errors import CommandError, UsageError, in_one_line
from synbench_lightning.cli.history import history_command
from synbench_lightning.cli.report import report_command
from synbench_lightning.probe.families import FAMILIES
from synbench_lightning.runtime.lightning_packages import PACKAGES

EVALUATE = """\
Probe trained encoders and rank them: by information with --views, else by readout
with --labels. Encoders are not ranked by the score alone. An encoder is one of

  --encoder package.module:factory   a function or class that returns it; --encoder.NAME VALUE sets an argument,
                                     --ckpt FILE loads its weights
  --encoder timm:NAME                a timm model with its pretrained weights and its own normalization
  --encoder transformers:NAME        the same for transformers: images, raw audio, or text in embedding space
  --module package.module:Class      a LightningModule with --ckpt FILE [FILE ...]; its encoder is found as by
                                     the callback, or named by --attribute backbone.trunk

These can be repeated; --ckpt, --attribute and --encoder.NAME belong to the one before them.
"""

EXAMPLES = """\
examples:
  synbench evaluate --encoder torchvision.models:resnet18 --encoder.weights DEFAULT --input-shape 3 224 224
  synbench evaluate --module my_project:SimCLR --ckpt run/checkpoints/*.ckpt --input-shape 3 32 32
  synbench evaluate --encoder timm:resnet18 --encoder timm:vit_tiny_patch16_224 --json > scores.json
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: the arguments; by default those of the process.

    Returns:
        The exit code: 0 for success, 1 for a failure, 2 for wrong arguments, 130 for an interrupt by the user.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    rest = arguments[1:] if arguments[:1] == ["best"] else []  # jsonargparse parses these from a signature
    given = _parser().parse_args(_with_attached_arguments(arguments[:1] if rest else arguments))
    given.rest = rest or ["--help"]
    with _in_one_voice():
        try:
            code: int = given.run(given)
            sys.stdout.flush()
            return code
        except KeyboardInterrupt:
            print("synbench: interrupted by the user", file=sys.stderr)
            return 130
        except BrokenPipeError:  # of `synbench ... | head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except (CommandError, OSError) as error:
            if given.debug:
                raise
            if isinstance(error, UsageError):
                given.parser.print_usage(sys.stderr)
            print(f"synbench {given.command}: error: {in_one_line(error)}", file=sys.stderr)
            return 2 if isinstance(error, UsageError) else 1


@contextmanager
def _in_one_voice() -> Iterator[None]:
    """Print each warning in one line, and silence Lightning's hints about training."""
    levels = {logger: logger.level for logger in map(logging.getLogger, PACKAGES)}
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.showwarning = _show_warning
        for logger in levels:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in levels.items():
                logger.setLevel(level)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="synbench", allow_abbrev=False, description="Evaluate learned representations, without labels."
    )
    parser.add_argument("--version", action="version", version=f"synbench-lightning {synbench_lightning.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", title="commands")
    _add_evaluate(_command(commands, "evaluate", evaluate_command, "probe encoders and rank them", EVALUATE, EXAMPLES))
    history = _command(commands, "history", history_command, "print the curves of runs and rank the runs")
    history.add_argument(
        "run_dir", metavar="RUN_DIR", nargs="+", type=_folder, help="folder with checkpoints, event files or a CSV log"
    )
    history.add_argument("--figure", type=Path, metavar="FILE", help="also draw the curves, as .svg, .pdf or .png")
    history.add_argument("--json", action="store_true", help="print the logged values and the ranking as JSON")
    _command(
        commands,
        "best",
        lambda given: best_command(given.rest),
        "find the best checkpoint of a folder on labeled tasks",
    )
    report = _command(commands, "report", report_command, "write one HTML page about runs, with their ranking")
    report.add_argument("run_dir", metavar="RUN_DIR", nargs="+", type=_folder, help="as in `synbench history`")
    report.add_argument(
        "--output", type=Path, default=Path("synbench_report.html"), metavar="FILE", help="default: %(default)s"
    )
    for command in (history, report):
        command.add_argument(
            "--prefix", type=partial(_checked, check_name), default="synbench", help="prefix of the logged keys"
        )
        _add_weights_only(command)
    return parser


def _command(
    commands: Any, name: str, run: Callable[[Any], int], summary: str, description: str = "", epilog: str = ""
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=description or f"{summary[0].upper()}{summary[1:]}.", epilog=epilog,
        allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(run=run, parser=parser, command=name, sources=[])
    return parser


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    integer, number = partial(_checked, _integer), partial(_checked, _number)
    parser.add_argument("--encoder", action=_Open, metavar="SPEC", help="an encoder (see above)")
    parser.add_argument("--module", action=_Open, metavar="SPEC", help="a LightningModule (see above)")
    parser.add_argument("--ckpt", action=_Attach, nargs="+", metavar="FILE", help="weights of the encoder or module")
    parser.add_argument(
        "--attribute", action=_Attach, nargs=1, metavar="NAME", help="the module's encoder, or a layer of it"
    )
    parser.add_argument(ATTACHED, action=_Attach, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument(
        "--input-shape", nargs="+", type=integer, metavar="N", help="shape of one example, such as 3 224 224; not "
        "needed for timm and transformers models",
    )  # fmt: skip
    parser.add_argument(
        "--tasks",
        choices=sorted(FAMILIES),
        default="default",
        metavar="FAMILY",
        help=f"family of tasks: {', '.join(FAMILIES)}; default: %(default)s",
    )
    parser.add_argument(
        "--inputs", type=Path, metavar="FILE", help="a .pt or .npy file of unlabeled inputs (N, *shape), at least 32, "
        "on which information is measured",
    )  # fmt: skip
    parser.add_argument(
        "--views", metavar="SPEC", help="a .pt or .npy file of views (N, V, *shape), V per input, in place of "
        "--inputs; use the same file for all encoders, whatever views they were trained with. Or module:function, "
        "which maps a batch of --inputs to a random view of each, such as the augmentations used in pretraining",
    )  # fmt: skip
    parser.add_argument(
        "--labels", type=Path, metavar="FILE", help="a .pt or .npy file of integers (N,), the labels of --inputs, at "
        "least 20, for which the readout is measured",
    )  # fmt: skip
    parser.add_argument(
        "--layers", nargs="+", metavar="NAME", help="auto, or names of modules of the encoder: information or readout "
        "is measured for each of them, in the same forward passes; needs --inputs",
    )  # fmt: skip
    parser.add_argument("--plan", choices=("fast", "official"), default="fast", help="default: %(default)s")
    parser.add_argument("--forwards", type=integer, metavar="N", help="forward passes of the fast plan, default: 8192")
    parser.add_argument(
        "--epsilons", nargs="+", type=number, default=[0.0, 0.2], metavar="E", help="default: 0 0.2; must include 0"
    )
    parser.add_argument("--threshold", type=number, default=0.7, metavar="A", help="threshold accuracy, default: 0.7")
    parser.add_argument(
        "--mean", nargs="+", type=number, metavar="M", help="mean of the normalization, one or one per channel"
    )
    parser.add_argument("--std", nargs="+", type=number, metavar="S", help="standard deviation, one or one per channel")
    parser.add_argument("--batch-size", type=integer, default=256, metavar="N", help="default: 256")
    parser.add_argument("--seed", type=partial(_checked, _seed), default=0, help="seed of the examples, default: 0")
    parser.add_argument("--device", help="default: the accelerator if available, else cpu")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--no-cache", action="store_true", help="neither read nor write cached results")
    parser.add_argument(
        "--cache-dir", type=Path, metavar="DIR", help="default: the folder synbench in the user's cache folder"
    )
    _add_weights_only(parser)


def _add_weights_only(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights-only", choices=("true", "false"), default="true", help="false: also load checkpoints that contain "
        "objects other than tensors and plain values, which can run arbitrary code; default: true",
    )  # fmt: skip


ATTACHED = "--source-argument"


def _with_attached_arguments(argv: Sequence[str]) -> list[str]:
    """`--encoder.width 8` and `--encoder.width=8` as `--source-argument encoder width=8`."""
    rewritten, rest = list[str](), list(argv)
    while rest:
        found = re.fullmatch(r"--(encoder|module)\.([^=]+)(?:=(.*))?", rest[0], re.DOTALL)
        word = rest.pop(0)
        if found is None:
            rewritten.append(word)
            continue
        kind, name, value = found.groups()
        if value is None:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        rewritten += [ATTACHED, kind, f"{name}={value}"]
    return rewritten


class _Open(argparse.Action):
    """Add a source of encoders."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        namespace.sources = [*namespace.sources, Source(self.dest, values)]


class _Attach(argparse.Action):
    """Attach an option to the last source."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        shown = f"--{values[0]}.{values[1].split('=')[0]}" if option == ATTACHED else option
        if not namespace.sources:
            parser.error(f"{shown} must come after the --encoder or --module that it belongs to")
        source: Source = namespace.sources[-1]
        if option == ATTACHED:
            if values[0] != source.kind:
                parser.error(f"{shown} must come after a --{values[0]}, not after --{source.kind} {source.spec}")
            source.arguments.append(values[1])
        elif option == "--ckpt":
            source.checkpoints += values
        else:
            if source.kind != "module":
                parser.error(f"{shown} must come after a --module, not after --{source.kind} {source.spec}")
            source.attribute = values[0]


def _checked(check: Callable[[str, Any], Any], text: str) -> Any:
    try:
        return check("value", text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).replace("`value` ", "").rstrip(".")) from error


def _integer(name: str, text: str) -> int:
    return check_integer(name, int(text) if re.fullmatch(r"[+-]?\d+", text) else text, 1)


def _seed(name: str, text: str) -> int:
    return check_integer(name, int(text) if re.fullmatch(r"[+-]?\d+", text) else text, 0)


def _number(name: str, text: str) -> float:
    try:
        return check_number(name, float(text), "a finite number", -sys.float_info.max)
    except ValueError:
        raise ValueError(f"`{name}` must be a finite number, got {text!r}.") from None


def _folder(text: str) -> Path:
    folder = Path(text)
    if not folder.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder")
    return folder


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"synbench: warning: {' '.join(str(message).split())}", file=sys.stderr)
