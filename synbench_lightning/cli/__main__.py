"""`python -m synbench_lightning.cli`, where the command itself is not on the path."""

import sys

from synbench_lightning.cli.main import main

sys.exit(main())
