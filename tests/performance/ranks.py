"""How a probe is shared by the processes of a DDP run.

python -m tests.performance.ranks [--worlds 1 2 4]

Each world is a run of real processes with one thread each. Seconds are CPU time of the busiest process, so that more
processes than cores can be measured: of the encoder's forwards, and of the whole probe (statistics are made on every
process). Bytes are what a process puts into the sum of the features.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from synbench_lightning import ProbePlan, SynBenchCallback
from tests.callbacks.runs import trainer
from tests.performance.overhead import Classifier
from tests.performance.tables import print_table

ROOT = Path(__file__).parents[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--process", help=argparse.SUPPRESS)  # what one of the processes is started with: a folder
    given = parser.parse_args()
    if given.process:
        probe_as_one_of_many(Path(given.process))
    else:
        print_table("processes | encoder, s | of one process's | whole probe, s | MiB summed", rows(given.worlds))


def rows(worlds: Sequence[int]) -> Iterator[Sequence[object]]:
    alone = None
    for world in worlds:
        with tempfile.TemporaryDirectory() as folder:
            command = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
            subprocess.run(
                [sys.executable, *command, __file__, "--process", folder],
                env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
                stderr=subprocess.DEVNULL,
                check=True,
            )
            found = [json.loads(path.read_text()) for path in Path(folder).iterdir()]
        encoder, whole = (max(one[part] for one in found) for part in ("encoder", "probe"))
        alone = alone or encoder
        yield world, encoder, f"{encoder / alone:.2f}", whole, round(found[0]["bytes"] / 2**20, 1)


def probe_as_one_of_many(folder: Path) -> None:
    """Probe before the first step and after one, and write down what the second probe took."""
    spent = [0.0]

    def encoder(module: LightningModule, x: Tensor) -> Tensor:
        start = time.process_time()
        features: Tensor = module.encoder(x)  # type: ignore[operator]
        spent[0] += time.process_time() - start
        return features

    class Timed(SynBenchCallback):
        def _run(self, *given: object, **named: object) -> None:
            spent[0], start = 0.0, time.process_time()
            super()._run(*given, **named)  # type: ignore[arg-type]
            whole = time.process_time() - start
            size = 4 * ProbePlan().num_forwards(3) * self.history[-1].feature_dim
            found = {"encoder": spent[0], "probe": whole, "bytes": size}
            (folder / f"{run.global_rank}.json").write_text(json.dumps(found))

    world = int(os.environ["WORLD_SIZE"])
    callback = Timed(encoder=encoder, input_shape=(3, 32, 32), log_figures=False)
    run = trainer(callback, max_steps=1, strategy="ddp", devices=world)
    examples = torch.utils.data.TensorDataset(torch.randn(64, 3, 32, 32), torch.arange(64) % 10)
    run.fit(Classifier(), torch.utils.data.DataLoader(examples, batch_size=8))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
