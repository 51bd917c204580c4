"""Print a table of what is found in the clients that are installed: ``python -m tests.clients [timm lightly:dino]``.

After a colon stands a part of the names of the clients that are run.
"""

from __future__ import annotations

import importlib
import sys
import traceback
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from tests.clients.clients import Client, run

TESTS = Path(__file__).parent.glob("test_*.py")
FILES = sorted(path.stem.removeprefix("test_") for path in TESTS if "CLIENTS" in path.read_text())


def main(names: list[str]) -> None:
    """Print a row for each client, and what was said where another encoder was found than was expected."""
    print("| client | encoder | shape | views | logged | |\n|---|---|---|---|---|---|", flush=True)
    for name, _, part in (name.partition(":") for name in names or FILES):
        try:
            clients: list[Client] = importlib.import_module(f"tests.clients.test_{name}").CLIENTS
        except pytest.skip.Exception as missing:
            print(f"<!-- {missing} -->", flush=True)
            continue
        for client in (one for one in clients if part in one.name):
            _row(f"{name} {_version(name)}: {client}", client)


def _row(title: str, client: Client) -> None:
    try:
        outcome = run(client)
    except Exception as error:
        print(f"| {title} | | | | | failed: {type(error).__name__} |", flush=True)
        print(traceback.format_exc(limit=-6), file=sys.stderr, flush=True)
        return
    cells = (f"`{outcome.encoder}`", outcome.shape or "none", outcome.views, ", ".join(outcome.keys))
    verdict = outcome.verdict(client)
    print(f"| {title} | {' | '.join(map(str, cells))} | {verdict} |", flush=True)
    for message in () if verdict == "right" else outcome.messages:
        print(f"    {message}", file=sys.stderr, flush=True)


def _version(name: str) -> str:
    try:
        return version(name.replace("_", "-"))
    except PackageNotFoundError:
        return "from its repository"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1:])
