"""How a process of a distributed test ends."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def leave() -> NoReturn:
    """End this process here and now, when it has written down what it saw.

    Gloo's threads abort, in about one run of fifty, an interpreter that shuts down beside them ("terminate called
    without an active exception"), whatever was done before.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
