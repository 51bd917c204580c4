"""The command `synbench`: evaluate finished encoders, look at the curves of runs, write a report."""

from synbench_lightning.cli.main import main as main
