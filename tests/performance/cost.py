"""What a probe costs beside the encoder's own forwards, and beside the official recipe.

python -m tests.performance.cost [--device cpu|cuda] [--threads 2] [--quick]

All ratios are of medians of runs in one process in turn (A B A B). A bare forward is the encoder on one batch, kept on
the device and used again, as many times as the probe has batches. On a CPU, other work on the machine spoils them: the
load is printed. glibc may hand the memory of activations back and fetch it again at every batch, which can double the
time of a forward; with `--steady-heap` it keeps it, the ratio is then higher and steadier.
"""

from __future__ import annotations

import argparse
import ctypes
import multiprocessing
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from synbench_lightning import ProbePlan, evaluate
from synbench_lightning.functional.gaussian.asymptotic import estimate_limit
from synbench_lightning.functional.representation.information import information_error, instance_information
from synbench_lightning.probe.probe import Probe
from synbench_lightning.runtime.layer_reading import LayerReader
from tests.encoders import encoder_a
from tests.performance.accuracy import EPSILONS, THRESHOLDS, TOO_FEW, stored_limit
from tests.performance.architectures import resnet18, resnet50, vit_small
from tests.performance.encoders import made
from tests.performance.official_recipe import FORWARDS, official_scores
from tests.performance.tables import print_table

DIMENSIONS = (128, 256, 512, 768, 1024, 2048, 4096, 25_088)
BATCH = 256


class Setting(NamedTuple):
    """An encoder's name, its input shape, the forwards of a probe, and how often both are timed."""

    name: str
    input_shape: tuple[int, ...]
    forwards: int
    repeats: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="fewer forwards of the large encoders, fewer repeats")
    parser.add_argument(
        "--steady-heap", action="store_true", help="memory that is freed stays with the process (glibc)"
    )
    parser.add_argument(
        "--only", choices=("probe", "information", "layers", "statistics", "official"), help="one of the tables"
    )
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.steady_heap:
        keep_freed_memory()
    warnings.filterwarnings("ignore", message=TOO_FEW)  # the few forwards of --quick
    device = torch.device(given.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {given.threads} threads"
    heap = "; steady heap" if given.steady_heap else ""
    print(f"{name}; load {os.getloadavg()[0]:.1f} before; batches of {BATCH}; seconds are medians{heap}\n")
    if given.only in (None, "probe"):
        print("examples + statistics + rest = later probe - bare forward; ratio at 8,192 forwards: from the parts\n")
        header = "encoder | input | D | forwards | bare forward | first probe | later probe | ratio | examples, first"
        header += " | examples | statistics | rest | ratio at 8,192 | memory added, MiB"
        print_table(header, (cost_of(row, device, given.threads) for row in settings(device, given.quick)))
    if given.only in (None, "information"):
        print("What information about 128 inputs in 16 views adds to a probe, over the bare forwards of as many\n")
        header = "encoder | input | D | bare forward of 2,048 | information adds | ratio"
        print_table(header, (cost_of_information(row, device) for row in settings(device, given.quick)))
    if given.only in (None, "layers"):
        print("A probe (512 forwards of one task, 2,048 of views of 128 inputs) that reads further layers besides\n")
        header = "encoder | input | layers | probe of one layer | of all | ratio | CPU seconds (turns)"
        print_table(header, (cost_of_layers(row, device) for row in layer_settings(given.quick)))
    if given.only in (None, "statistics"):
        print("Statistics alone: a probe whose encoder looks its features up, 8,192 forwards, one task\n")
        print_table(
            "D | seconds | of information about 128 inputs | memory added, MiB",
            statistics_alone(device, 1 if given.quick else 3),
        )
    if given.only in (None, "official"):
        for encoder in ("encoder_a", "isometric_768"):
            rows = list(official(encoder, range(1 if given.quick else 3)))  # its line comes before the table
            print_table("encoder | D | epsilon | threshold | limit | official - limit | fast - limit", rows)


def settings(device: torch.device, quick: bool) -> list[Setting]:
    if device.type == "cuda":
        large = (3, 224, 224)
        return [Setting(n, s, 8192, 5) for n, s in (("cnn", (3, 32, 32)), ("resnet50", large), ("vit_small", large))]
    few = 512 if quick else 8192
    repeats = 2 if quick else 3
    return [
        Setting("cnn", (3, 32, 32), 8192, 5 if quick else 9),
        Setting("resnet50", (3, 64, 64), few, repeats),
        Setting("vit_small", (3, 64, 64), few, repeats),
    ]


def encoder_of(setting: Setting, device: torch.device) -> nn.Module:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        image = setting.input_shape[-1]
        makers: dict[str, Callable[[], nn.Module]] = {
            "cnn": lambda: encoder_a().eval(),
            "resnet18": resnet18,
            "resnet50": resnet50,
            "vit_small": lambda: vit_small(image, 16 if image == 224 else 8),
        }
        return makers[setting.name]().to(device)


def probe_of(input_shape: Sequence[int], forwards: int, device: torch.device, inputs: Tensor | None = None) -> Probe:
    return Probe(
        "dc",
        ProbePlan(forwards=forwards),
        input_shape,
        epsilons=EPSILONS,
        thresholds=THRESHOLDS,
        batch_size=BATCH,
        normalize=None,
        inputs=inputs,
        views=None if inputs is None else noisy,
        seed=0,
        device=device,
    )


def noisy(inputs: Tensor) -> Tensor:
    return inputs + 0.1 * torch.randn_like(inputs)


def bare_forward(encoder: nn.Module, setting: Setting, device: torch.device) -> Callable[[], None]:
    """As many forwards as the probe makes, of one batch that is there already."""
    batch = torch.randn(min(BATCH, setting.forwards), *setting.input_shape, device=device)

    def run() -> None:
        for _ in range(setting.forwards // len(batch)):
            encoder(batch)

    return run


@torch.no_grad()
def cost_of(setting: Setting, device: torch.device, threads: int) -> Sequence[object]:
    """A row: the cost of a probe of an encoder, and of its parts."""
    memory = added_memory(setting, device, threads)
    encoder = encoder_of(setting, device)
    probe, other = (probe_of(setting.input_shape, setting.forwards, device) for _ in range(2))
    bare = bare_forward(encoder, setting, device)
    bare()
    first_examples, first = seconds(partial(draw, other), device), seconds(partial(probe, encoder), device)
    dim = probe(encoder).feature_dim
    took = alternated(
        setting.repeats,
        device,
        bare=bare,
        probe=partial(probe, encoder),
        examples=partial(draw, probe),
        statistics=probe_with_lookup(dim, setting.forwards, device),
    )
    rest = took["probe"] - took["bare"] - took["examples"] - took["statistics"]
    larger = 8192 / setting.forwards
    full = took if larger == 1 else alternated(1, device, statistics=probe_with_lookup(dim, 8192, device))
    ratio = 1 + (took["examples"] + rest + full["statistics"] / larger) / took["bare"]
    return (
        *(setting.name, "x".join(map(str, setting.input_shape)), dim, setting.forwards),
        *(took["bare"], first, took["probe"], f"{took['probe'] / took['bare']:.2f}", first_examples, took["examples"]),
        *(took["statistics"], f"{rest:.4f}", f"{ratio:.2f}", f"{memory:.0f}"),
    )


@torch.no_grad()
def cost_of_information(setting: Setting, device: torch.device) -> Sequence[object]:
    """A row: a later probe with inputs less one without, which is small."""
    encoder = encoder_of(setting, device)
    inputs = torch.randn(128, *setting.input_shape, generator=torch.Generator().manual_seed(0))
    plain, informed = (probe_of(setting.input_shape, 2 * BATCH, device, own) for own in (None, inputs))
    bare = bare_forward(encoder, setting._replace(forwards=2048), device)
    bare()
    plain(encoder)
    dim = informed(encoder).feature_dim
    runs = {"bare": bare, "plain": partial(plain, encoder), "informed": partial(informed, encoder)}
    took = alternated(setting.repeats, device, **runs)
    added = took["informed"] - took["plain"]
    shape = "x".join(map(str, setting.input_shape))
    return setting.name, shape, dim, took["bare"], added, f"{added / took['bare']:.2f}"


LAYERS = {
    "resnet18": ("layer1", "layer2", "layer3", "layer4.0"),
    "vit_small": tuple(f"blocks.layers.{index}" for index in (2, 5, 8, 11)),
}
"""Four each; the encoder's output is the fifth."""


def layer_settings(quick: bool) -> list[Setting]:
    return [Setting(name, (3, 64, 64), 2 * BATCH, 2 if quick else 5) for name in LAYERS]


@torch.no_grad()
def cost_of_layers(setting: Setting, device: torch.device) -> Sequence[object]:
    """A row: a later probe with layers over one without, in turn."""
    encoder = encoder_of(setting, device)
    inputs = torch.randn(128, *setting.input_shape, generator=torch.Generator().manual_seed(0))
    one, several = (probe_of(setting.input_shape, setting.forwards, device, inputs) for _ in range(2))
    several.layers = LayerReader(encoder, LAYERS[setting.name])
    one(encoder)
    found = several(encoder)
    spent: dict[str, list[float]] = {"one": [], "several": []}

    def timed(name: str, probe: Probe) -> None:
        start = time.process_time()
        probe(encoder)
        spent[name].append(time.process_time() - start)

    took = alternated(
        setting.repeats, device, one=partial(timed, "one", one), several=partial(timed, "several", several)
    )
    shape = "x".join(map(str, setting.input_shape))
    turns = sorted(several / one for one, several in zip(spent["one"], spent["several"], strict=True))
    of_cpu = f"{statistics.median(turns):.2f} ({turns[0]:.2f} to {turns[-1]:.2f})"
    ratio = took["several"] / took["one"]
    return setting.name, shape, len(found.layers), took["one"], took["several"], f"{ratio:.2f}", of_cpu


def draw(probe: Probe) -> None:
    """All examples of a probe, block by block; what was drawn once is kept where it fits the budget."""
    samples = probe.samples
    batch = torch.empty(BATCH, *samples.input_shape, device=samples.device)
    for block in samples.examples(samples.cells).blocks:
        samples.write(block, batch[: samples.plan.signs * block.vectors])


def probe_with_lookup(dim: int, forwards: int, device: torch.device) -> Callable[[], Any]:
    """A probe whose encoder costs next to nothing: noise from a table, and the input, one number, along a line."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(forwards, dim, generator=generator).to(device)
    line = torch.full((1, dim), dim**-0.5, device=device)
    probe = probe_of((1,), forwards, device)

    def run() -> Any:
        at = 0

        def look_up(x: Tensor) -> Tensor:
            nonlocal at
            at += len(x)
            return torch.addmm(table[at - len(x) : at], x, line)

        return probe(look_up)

    return run


def statistics_alone(device: torch.device, repeats: int) -> Iterator[Sequence[object]]:
    for dim in DIMENSIONS:
        features = torch.randn(128, 16, dim, generator=torch.Generator().manual_seed(0)).to(device)
        took = alternated(repeats, device, probe=probe_with_lookup(dim, 8192, device), told=partial(told, features))
        yield dim, took["probe"], took["told"], f"{added_memory_of_statistics(dim, device):.0f}"


def added_memory_of_statistics(dim: int, device: torch.device) -> float:
    """MiB that the statistics of 8,192 features and of 2,048 noisy ones add; in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_added_memory_of_statistics, dim, str(device), torch.get_num_threads()).result()


def _added_memory_of_statistics(dim: int, device: str, threads: int) -> float:
    torch.set_num_threads(threads)
    where, scales = torch.device(device), ProbePlan().scales
    features = torch.randn(1, len(scales), 4096 // len(scales), 2, dim, device=where)
    estimate_limit(features[..., :8], scales, EPSILONS)
    before = _peak_bytes(where)
    estimate_limit(features, scales, EPSILONS)
    told(features.flatten(0, 3)[:2048].unflatten(0, (128, 16)))
    return (_peak_bytes(where) - before) / 2**20


def told(features: Tensor) -> tuple[Tensor, Tensor]:
    return instance_information(features), information_error(features)


def official(name: str, seeds: Sequence[int]) -> Iterator[Sequence[object]]:
    """Prints time and forwards of the official recipe and the fast plan; rows: the error of both, over some seeds."""
    encode, input_shape = made(name)
    limit, device = stored_limit(name), torch.device("cpu")
    scores: dict[str, list[np.ndarray]] = {"official": [], "fast": []}
    took: dict[str, list[float]] = {"official": [], "fast": []}
    dim = 0

    def by_recipe(seed: int) -> None:
        scores["official"].append(official_scores(encode, input_shape, EPSILONS, THRESHOLDS, seed).numpy())

    def by_plan(seed: int) -> None:
        nonlocal dim
        result = evaluate(encode, input_shape, epsilons=EPSILONS, thresholds=THRESHOLDS, seed=seed)
        scores["fast"].append(np.array(result.scores[0]))
        dim = result.feature_dim

    for seed in seeds:
        took["fast"].append(seconds(partial(by_plan, seed), device))
        took["official"].append(seconds(partial(by_recipe, seed), device))
    slow, fast = (statistics.median(took[way]) for way in ("official", "fast"))
    forwards = ProbePlan().num_forwards(1)
    print(
        f"{name}, seeds {list(seeds)}: official recipe {slow:.1f} s and {FORWARDS:,} forwards, fast plan {fast:.2f} s "
        f"(noise drawn anew) and {forwards:,}: {slow / fast:.0f} times the time, {FORWARDS / forwards:.1f} times the "
        "forwards. Mean error and largest of one seed:\n"
    )
    for row, epsilon in enumerate(EPSILONS):
        for column, threshold in enumerate(THRESHOLDS):
            at = row, column
            off = {way: np.array(found)[:, row, column] - limit[at] for way, found in scores.items()}
            cells = [f"{off[way].mean():+.3f} ({np.abs(off[way]).max():.3f})" for way in ("official", "fast")]
            yield name, dim, str(epsilon), str(threshold), limit[at].item(), *cells


def added_memory(setting: Setting, device: torch.device, threads: int) -> float:
    """MiB that a probe's peak adds to that of bare forwards; in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_added_memory, setting, str(device), threads).result()


@torch.no_grad()
def _added_memory(setting: Setting, device: str, threads: int) -> float:
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", message=TOO_FEW)
    where = torch.device(device)
    encoder = encoder_of(setting, where)
    bare_forward(encoder, setting._replace(forwards=min(setting.forwards, 4 * BATCH)), where)()
    before = _peak_bytes(where)
    probe_of(setting.input_shape, setting.forwards, where)(encoder)
    return (_peak_bytes(where) - before) / 2**20


def _peak_bytes(device: torch.device) -> int:
    """Peak so far; on the CPU of this program alone (`ru_maxrss` would begin with that of the one that started it)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def keep_freed_memory() -> None:
    """Serve all sizes from the heap (M_MMAP_THRESHOLD, -3) and never shrink it (M_TRIM_THRESHOLD, -1)."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 2**30)
    libc.mallopt(-1, 2**31 - 1)


def alternated(repeats: int, device: torch.device, **runs: Callable[[], Any]) -> dict[str, float]:
    """Median seconds of each run, all of them in turn."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            took[name].append(seconds(run, device))
    return {name: statistics.median(values) for name, values in took.items()}


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
