"""`synbench evaluate`: score encoders and rank them."""

from __future__ import annotations

import json
import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import redirect_stdout
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from synbench_lightning.cli.cache import cache_key, cached_result, default_folder, keep_result
from synbench_lightning.cli.encoder_sources import Candidate, Source, candidates, imported
from synbench_lightning.cli.errors import CommandError, UsageError, in_one_line
from synbench_lightning.cli.tables import aligned
from synbench_lightning.functional.gaussian.bayes_optimal import optimal_accuracy
from synbench_lightning.functional.gaussian.discriminant import check_epsilons
from synbench_lightning.functional.gaussian.score import check_thresholds
from synbench_lightning.probe.evaluate import evaluate
from synbench_lightning.probe.labelled_inputs import check_labels
from synbench_lightning.probe.layers import output_layer
from synbench_lightning.probe.plan import ProbePlan
from synbench_lightning.probe.probe import OFFICIAL_THRESHOLDS
from synbench_lightning.probe.proxy_samples import Normalize
from synbench_lightning.probe.result import ProbeResult
from synbench_lightning.probe.view_sampling import Views
from synbench_lightning.probe.views import SampledViews
from synbench_lightning.runtime.devices import default_device
from synbench_lightning.runtime.layer_encoder import layer_or_encoder
from synbench_lightning.runtime.structures import checksum


class Evaluated(NamedTuple):
    """An encoder's name, its result, the shape of its inputs, and whether the result was there already."""

    name: str
    result: ProbeResult
    input_shape: tuple[int, ...]
    cached: bool


def evaluate_command(given: Namespace) -> int:
    """Score the encoders that were named, and print them in the order of their scores.

    Raises:
        UsageError: for arguments that are wrong or missing.
    """
    if not given.sources:
        raise UsageError("at least one --encoder or --module is needed")
    plan, normalize, about = _plan(given), _normalize(given), _about(given)
    listed = [one for source in given.sources for one in candidates(source, given.weights_only == "true")]
    names = [candidate.name for candidate in listed]
    found, failures = list[Evaluated](), 0
    for place, candidate in enumerate(listed):
        name = candidate.name
        if names.count(name) > 1:
            name += f" #{names[:place].count(name) + 1}"
        try:
            with redirect_stdout(sys.stderr):  # what encoders print does not belong to the table or the JSON
                found.append(_evaluated(candidate._replace(name=name), given, plan, normalize, about))
        except UsageError:
            raise
        except (CommandError, ValueError, TypeError, RuntimeError, NotImplementedError) as error:
            if given.debug:
                raise
            words = in_one_line(error)
            print(f"synbench evaluate: error: {words if name in words else f'{name}: {words}'}", file=sys.stderr)
            failures += 1
    found.sort(key=lambda one: -one.result.score(threshold=given.threshold))
    if given.json:
        print(json.dumps(_as_json(found, given.threshold), indent=2))
    elif found:
        print("\n".join(_as_text(found, given.threshold)))
    return 1 if failures else 0


def indistinguishable(scored: Sequence[Evaluated], threshold: float) -> list[tuple[str, str]]:
    """Pairs of encoders whose scores differ by less than two standard errors of the difference.

    The errors are combined as if they were independent. They are not: all encoders see the same noise, and the real
    error of a difference was 0.1 to 0.9 of this one among six small encoders. Pairs that are told apart are, by more
    than two standard errors; of the others some could be with more forwards.
    """
    pairs = []
    for one, other in combinations(scored, 2):
        errors = [found.result.standard_error(threshold=threshold) for found in (one, other)]
        difference = one.result.score(threshold=threshold) - other.result.score(threshold=threshold)
        if None not in errors and abs(difference) < 2 * math.hypot(*(error or 0.0 for error in errors)):
            pairs.append((one.name, other.name))
    return pairs


def _plan(given: Namespace) -> ProbePlan:
    if given.forwards is not None and given.plan == "official":
        raise UsageError("argument --forwards: the official plan has a fixed number of forwards; leave it out")
    plan = ProbePlan.of(given.plan) if given.forwards is None else ProbePlan(forwards=given.forwards)
    try:
        check_epsilons(given.epsilons)
        check_thresholds((given.threshold,), plan.lowest_threshold)
        plan.noise_vectors(1)
    except ValueError as error:
        words = in_one_line(error)
        for name, option in (("epsilons", "epsilons"), ("thresholds", "threshold"), ("forwards", "forwards")):
            words = words.replace(f"`{name}`", f"argument --{option}:")
        raise UsageError(words) from error
    if 0.0 not in given.epsilons:
        raise UsageError("argument --epsilons: must hold 0, the epsilon of the score that is ranked")
    return plan


def _normalize(given: Namespace) -> Normalize | None:
    if (given.mean is None) != (given.std is None):
        raise UsageError("--mean and --std must be given together")
    if given.mean is None:
        return None
    if min(given.std) <= 0:
        raise UsageError(f"argument --std: must be positive, got {min(given.std):g}")
    mean, std = (values[0] if len(values) == 1 else tuple(values) for values in (given.mean, given.std))
    return mean, std


class About(NamedTuple):
    """The inputs that information and readout are about, and what identifies them."""

    inputs: torch.Tensor | None
    views: Views | None
    labels: torch.Tensor | None
    identity: tuple[object, ...]


def _about(given: Namespace) -> About:
    inputs, labels = _tensor("inputs", given.inputs), _tensor("labels", given.labels)
    views = None if given.views is None else imported(Source("views", given.views))
    if inputs is None and given.layers is not None:
        raise UsageError("argument --layers: needs --inputs, by which layers are compared")
    if inputs is None and (views is not None or labels is not None):
        raise UsageError(f"argument --{'labels' if views is None else 'views'}: needs --inputs, the inputs themselves")
    identity: tuple[object, ...] = ()
    try:
        if inputs is not None:
            identity = (inputs.shape, checksum(inputs))
        if inputs is not None and views is not None:  # what they draw tells whether they are the same views
            identity += (SampledViews(inputs, views, inputs.shape[1:], given.seed, torch.device("cpu")).identity,)
        if labels is not None:
            check_labels(labels, inputs)
            identity += (checksum(labels),)
    except ValueError as error:
        words = in_one_line(error)
        for name in ("inputs", "views", "labels"):
            words = words.replace(f"`{name}`", f"argument --{name}:", 1) if words.startswith(f"`{name}`") else words
        raise UsageError(words) from error
    return About(inputs, views, labels, identity)


def _tensor(option: str, path: Path | None) -> torch.Tensor | None:
    if path is None:
        return None
    try:
        found = (
            torch.from_numpy(np.load(path))
            if path.suffix == ".npy"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:
        raise UsageError(f"argument --{option}: {path} could not be read: {in_one_line(error)}") from error
    if not isinstance(found, torch.Tensor):
        raise UsageError(f"argument --{option}: {path} must hold a tensor, holds a {type(found).__name__}")
    return found


def _evaluated(
    candidate: Candidate, given: Namespace, plan: ProbePlan, normalize: Normalize | None, about: About
) -> Evaluated:
    name, loaded = candidate.name, candidate.load()
    shape = loaded.input_shape if given.input_shape is None else tuple(given.input_shape)
    if shape is None:
        raise UsageError(f"--input-shape is needed for {name}: the shape of one example, as in --input-shape 3 224 224")
    device = torch.device(_device(given.device))
    best = float(optimal_accuracy(plan.scales[-1]))
    thresholds = tuple(sorted({given.threshold, *(t for t in OFFICIAL_THRESHOLDS if t < best)}))
    settings: dict[str, Any] = {
        "tasks": given.tasks, "plan": plan, "epsilons": tuple(given.epsilons), "thresholds": thresholds,
        "normalize": normalize or loaded.normalize, "seed": given.seed,
    }  # fmt: skip
    if given.layers is not None:
        settings["layers"] = "auto" if given.layers == ["auto"] else tuple(given.layers)
    folder: Path = given.cache_dir or default_folder()
    key = None
    if loaded.module is not None:
        if not given.no_cache:
            probed = (candidate.identity, shape, settings, device.type, about.identity)
            key = cache_key(loaded.module, repr(probed))
            if (kept := cached_result(folder, key)) is not None:
                return Evaluated(name, kept, shape, cached=True)
        loaded.module.eval().to(device)
    encoder = loaded.encoder
    if loaded.module is not None and loaded.attribute is not None:
        encoder = layer_or_encoder(loaded.module, loaded.attribute, torch.zeros(2, *shape, device=device))
    with tqdm(desc=name, unit=" examples", leave=False, disable=None, dynamic_ncols=True) as bar:

        def advance(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        result = evaluate(
            encoder, shape, batch_size=given.batch_size, device=device, progress=advance,
            inputs=about.inputs, views=about.views, labels=about.labels, **settings,
        )  # fmt: skip
    if key is not None:
        keep_result(folder, key, result)
    return Evaluated(name, result, shape, cached=False)


def _device(name: str | None) -> str:
    chosen = name or default_device().type
    try:
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"argument --device: {chosen!r} is not available here, {in_one_line(error)}") from error
    return chosen


def _as_json(found: Sequence[Evaluated], threshold: float) -> dict[str, object]:
    return {
        "threshold": threshold,
        "models": [
            {
                "name": one.name,
                "score": one.result.score(threshold=threshold),
                "standard_error": one.result.standard_error(threshold=threshold),
                "tasks": one.result.task_scores(threshold=threshold),
                "information": one.result.information,
                "information_kind": one.result.information_kind,
                "readout": one.result.readout,
                "best_epsilon": one.result.best_epsilon(threshold=threshold),
                "input_shape": one.input_shape,
                "cached": one.cached,
                "result": one.result.to_dict(),
            }
            for one in found
        ],
        "cannot_be_told_apart": indistinguishable(found, threshold),
    }


def _layers_as_text(found: Evaluated) -> list[str]:
    """The layers of one encoder."""
    result, key = found.result, found.result.layer_key
    if not result.layers:
        return []
    best = result.best_layer
    rows = [["layer", "width", key, ""]]
    for index, layer in enumerate(result.layers):
        error = layer.information_error if key == "information" else layer.readout_error
        mark = "best" if best is not None and best.place == index else ""
        if best is not None and mark:
            mark += f", by {best.margin:.2g} ± {best.error:.1g}"
        elif layer.width != output_layer(result.layers).width:
            mark = "not ranked: of another width than the output"
        rows.append([layer.name, str(layer.width), f"{layer.value(key):.3f} ± {error:.3f}", mark])
    return ["", f"Layers of {found.name}:", *aligned(rows, left={0, 3})]


def _as_text(found: Sequence[Evaluated], threshold: float) -> list[str]:
    epsilons = [epsilon for epsilon in found[0].result.epsilons if epsilon]
    header = ["rank", "encoder", "score", *(f"eps {epsilon:g}" for epsilon in epsilons), "worst task", "eff. rank"]
    informed = found[0].result.information is not None
    labelled = found[0].result.readout is not None
    further = [*(["information"] if informed else []), *(["readout"] if labelled else [])]
    rows = [[*header, *further, "forwards", "seconds"]]
    for rank, (name, result, _, cached) in enumerate(found, 1):
        error = result.standard_error(threshold=threshold)
        score = f"{result.score(threshold=threshold):.3f}" + ("" if error is None else f" ± {error:.3f}")
        task, worst = result.worst(threshold=threshold)
        robust = [f"{result.score(epsilon=epsilon, threshold=threshold):.3f}" for epsilon in epsilons]
        breadth = f"{result.effective_rank:.1f} of {result.feature_dim}"
        seconds = "cached" if cached else f"{result.seconds:.1f}"
        told = [f"{result.information:.2f} ± {result.information_error:.2f}"] if informed else []
        told += [f"{result.readout:.3f} ± {result.readout_error:.3f}"] if labelled else []
        cells = [score, *robust, f"{worst:.3f} {task}", breadth, *told, f"{result.num_forwards:,}", seconds]
        rows.append([str(rank), name, *cells])
    lines = aligned(rows, left={1})
    first = found[0].result
    lines += [
        "",
        f"Score of the task {first.tasks[0]} at threshold {threshold:g}; ± one standard error over the noise.",
    ]
    if informed:
        kind = {"noise": "with white noise", "views": "in random views", "pairs": "in the views that were given"}
        shown = kind[first.information_kind or "noise"]
        lines.append(f"Information about the inputs {shown}, in nats: compare checkpoints of one architecture with it.")
    if labelled:
        lines.append("Readout: the share of the labels' variance that a ridge regression tells of left-out inputs.")
    for one in found:
        lines += _layers_as_text(one)
    if len({(one.result.inputs, one.result.labels) for one in found}) > 1:
        lines.append("The encoders were shown different inputs or labels: information and readout do not compare.")
    if len({one.input_shape for one in found}) > 1:
        lines.append("The encoders have inputs of different shapes: their tasks are not the same.")
    if len(found) > 1 and first.standard_errors is None:
        lines.append("The official protocol has no standard errors: small differences may be noise.")
    lines += [f"Cannot be told apart: {one} and {other}." for one, other in indistinguishable(found, threshold)]
    return lines
