"""`python -m synbench_lightning.cli`, where the command is not on the path."""

import sys

from synbench_lightning.cli.main import main

sys.exit(main())
