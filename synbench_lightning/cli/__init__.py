"""The command `synbench`: evaluate trained encoders, show the curves of runs, write a report."""

from synbench_lightning.cli.main import main as main
