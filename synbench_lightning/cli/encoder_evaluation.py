"""`synbench evaluate`: probe encoders and rank them."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm

from synbench_lightning.cli.cache import cache_key, cached_result, default_folder, keep_result
from synbench_lightning.cli.encoder_sources import Candidate, Source, candidates, imported
from synbench_lightning.cli.errors import CommandError, UsageError, in_one_line
from synbench_lightning.cli.run_ranking import as_json, as_text, rankings
from synbench_lightning.cli.tables import aligned, wrapped
from synbench_lightning.functional.gaussian.discriminant import check_epsilons
from synbench_lightning.functional.gaussian.score import check_thresholds
from synbench_lightning.functional.representation.information import WIDTH_RATIO, comparable_widths
from synbench_lightning.probe.evaluate import evaluate
from synbench_lightning.probe.labelled_inputs import check_labels
from synbench_lightning.probe.layers import output_layer
from synbench_lightning.probe.plan import ProbePlan
from synbench_lightning.probe.probe import OFFICIAL_THRESHOLDS
from synbench_lightning.probe.proxy_samples import Normalize
from synbench_lightning.probe.ranking import Ranking
from synbench_lightning.probe.result import ProbeResult
from synbench_lightning.probe.view_files import from_files, is_file_name, load_tensor
from synbench_lightning.probe.view_sampling import Views
from synbench_lightning.probe.views import SampledViews
from synbench_lightning.runtime.devices import default_device
from synbench_lightning.runtime.layer_encoder import layer_or_encoder
from synbench_lightning.runtime.structures import checksum


class Evaluated(NamedTuple):
    """The name of an encoder, its result, the shape of its inputs, and whether the result came from the cache."""

    name: str
    result: ProbeResult
    input_shape: tuple[int, ...]
    cached: bool


def evaluate_command(given: Namespace) -> int:
    """Probe the given encoders, rank them, and print the results.

    Raises:
        UsageError: for arguments that are wrong or missing.
    """
    if not given.sources:
        raise UsageError("at least one --encoder or --module is needed")
    plan, normalize, about = _plan(given), _normalize(given), _about(given)
    listed = [one for source in given.sources for one in candidates(source, given.weights_only == "true")]
    names = [candidate.name for candidate in listed]
    found, failed = list[Evaluated](), False
    for place, candidate in enumerate(listed):
        name = candidate.name
        if names.count(name) > 1:
            name += f" #{names[:place].count(name) + 1}"
        try:
            with redirect_stdout(sys.stderr):  # keeps the output of encoders out of the table and the JSON
                found.append(_evaluated(candidate._replace(name=name), given, plan, normalize, about))
        except UsageError:
            raise
        except (CommandError, ValueError, TypeError, RuntimeError, NotImplementedError) as error:
            if given.debug:
                raise
            words = in_one_line(error)
            print(f"synbench evaluate: error: {words if name in words else f'{name}: {words}'}", file=sys.stderr)
            failed = True
    if not given.json:
        found = _with_short_names(found)
    ranked = rankings({one.name: one.result for one in found}, given.threshold)
    order = [one.name for ranking in ranked for one in ranking.ranked]
    found.sort(key=lambda one: order.index(one.name) if one.name in order else len(order))
    if given.json:
        print(json.dumps(_as_json(found, ranked, given.threshold), indent=2))
    elif found:
        print("\n".join(_as_text(found, ranked, given.threshold)))
    return int(failed)


def _plan(given: Namespace) -> ProbePlan:
    if given.forwards is not None and given.plan == "official":
        raise UsageError("argument --forwards: the official plan has a fixed number of forwards; omit this argument")
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
        raise UsageError("argument --epsilons: must include 0, the epsilon of the score that is ranked")
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
    """The inputs on which information and readout are measured, and what identifies them."""

    inputs: torch.Tensor | None
    views: Views | None
    labels: torch.Tensor | None
    identity: tuple[object, ...]


def _about(given: Namespace) -> About:
    views: Any = given.views
    if views is not None and not is_file_name(views):
        views = imported(Source("views", views))
    identity: tuple[object, ...] = ()
    try:
        labels = None if given.labels is None else load_tensor("labels", given.labels)
        inputs = None if given.inputs is None else load_tensor("inputs", given.inputs)
        inputs, views = from_files(inputs, views)
        for option, value in (("layers", given.layers), ("views", views), ("labels", labels)):
            if inputs is None and value is not None:
                raise UsageError(f"argument --{option}: needs --inputs, {NEEDED[option]}")
        if inputs is not None:
            identity = (inputs.shape, checksum(inputs))
        if inputs is not None and views is not None:  # the same sampled views are the same `views`
            identity += (SampledViews(inputs, views, inputs.shape[1:], given.seed, torch.device("cpu")).identity,)
        if labels is not None:
            check_labels(labels, inputs)
            identity += (checksum(labels),)
    except ValueError as error:
        words = in_one_line(error)
        for name in ("inputs", "views", "labels"):
            if words.startswith(f"`{name}`"):
                words = f"argument --{name}: {words.removeprefix(f'`{name}`').lstrip(': ')}"
        raise UsageError(words) from error
    return About(inputs, views, labels, identity)


NEEDED = {
    "layers": "on which layers are compared", "views": "which they transform", "labels": "which they belong to",
}  # fmt: skip
"""Why an option needs inputs, as the end of a sentence."""


def _evaluated(
    candidate: Candidate, given: Namespace, plan: ProbePlan, normalize: Normalize | None, about: About
) -> Evaluated:
    name, loaded = candidate.name, candidate.load()
    shape = loaded.input_shape if given.input_shape is None else tuple(given.input_shape)
    if shape is None:
        raise UsageError(f"--input-shape is needed for {name}: the shape of one example, as in --input-shape 3 224 224")
    device = torch.device(_device(given.device))
    thresholds = tuple(sorted({given.threshold, *OFFICIAL_THRESHOLDS}))
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
        example = torch.zeros(2, *shape, device=device)  # mutants: any number of examples does
        encoder = layer_or_encoder(loaded.module, loaded.attribute, example)
    with tqdm(
        desc=name, unit=" examples", disable=None,
        leave=False, dynamic_ncols=True,  # mutants: how a terminal looks
    ) as bar:  # fmt: skip

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
        torch.tensor([], device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"argument --device: {chosen!r} is not available here, {in_one_line(error)}") from error
    return chosen


def _as_json(found: Sequence[Evaluated], ranked: Sequence[Ranking], threshold: float) -> dict[str, object]:
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
        "rankings": as_json(ranked),
    }


def _layers_as_text(found: Evaluated) -> list[str]:
    """A table of the layers of one encoder."""
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
        elif not comparable_widths(layer.width, output_layer(result.layers).width):
            mark = f"not ranked: more than {WIDTH_RATIO} times as wide or narrow as the output"
        rows.append([layer.name, str(layer.width), f"{layer.value(key):.3f} ± {error:.3f}", mark])
    return ["", f"Layers of {found.name}:", *aligned(rows, left={0, 3})]


def _as_text(found: Sequence[Evaluated], ranked: Sequence[Ranking], threshold: float) -> list[str]:
    first = found[0].result
    epsilons = [epsilon for epsilon in first.epsilons if epsilon]
    known = [key for key in ("information", "readout") if any(getattr(one.result, key) is not None for one in found)]
    shown = [key for key in known if len(found) == 1 or key != ranked[0].key]  # the ranking shows the others
    rows = [
        [
            "encoder",
            *shown,
            "score",
            *(f"eps {epsilon:g}" for epsilon in epsilons),
            "worst task",
            "eff. rank",
            "seconds",
        ]
    ]
    for name, result, _, cached in found:
        task, worst = result.worst(threshold=threshold)
        rows.append(
            [
                name,
                *(_with_error(getattr(result, key), getattr(result, f"{key}_error"), DIGITS[key]) for key in shown),
                _with_error(result.score(threshold=threshold), result.standard_error(threshold=threshold), 3),
                *(f"{result.score(epsilon=epsilon, threshold=threshold):.3f}" for epsilon in epsilons),
                f"{worst:.3f} {task}",
                f"{result.effective_rank:.1f} of {result.feature_dim}",
                "cached" if cached else f"{result.seconds:.1f}",
            ]
        )
    if len(found) > 1:
        lines = [*as_text(ranked)[1:], "", *aligned(rows, left={0}), ""]
    else:
        lines = [found[0].name, "", *aligned([row[1:] for row in rows]), ""]
    for sentence in _sentences(found, known, threshold):
        lines += wrapped(sentence)
    for one in found:
        lines += _layers_as_text(one)
    return lines


def _with_short_names(found: Sequence[Evaluated]) -> list[Evaluated]:
    """Paths of checkpoints relative to their common folder."""
    folders = [Path(one.name).parent for one in found]
    if len(found) < 2 or not all(folder.parts for folder in folders) or len({folder.anchor for folder in folders}) > 1:
        return list(found)
    common = f"{os.path.commonpath(folders)}/"
    return [one._replace(name=one.name.removeprefix(common)) for one in found]


DIGITS = {"information": 2, "readout": 3}


def _with_error(value: float | None, error: float | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value:.{digits}f}" + ("" if error is None else f" ± {error:.{digits}f}")


def _sentences(found: Sequence[Evaluated], known: Sequence[str], threshold: float) -> Iterator[str]:
    """Explanations below the table."""
    first = found[0].result
    forwards = " to ".join(f"{number:,}" for number in sorted({one.result.num_forwards for one in found}))
    yield f"± one standard error. Score: on the task {first.tasks[0]} at threshold {threshold:g}. Forwards: {forwards}."
    if "information" in known:
        kinds = {one.result.information_kind for one in found} - {None}
        what = " or ".join(KINDS[kind] for kind in KINDS if kind in kinds)
        yield f"Information: mutual information between features and the identity of the input, {what}, in nats."
    if "readout" in known:
        yield "Readout: leave-one-out R² of a ridge regression of the labels on the features."
    if len({one.input_shape for one in found}) > 1:
        yield "The encoders have inputs of different shapes, so that their tasks differ."
    if len(found) > 1 and first.standard_errors is None:
        yield "The official protocol has no standard errors: small differences may be noise."


KINDS = {"views": "in random views", "pairs": "in the views that were given", "noise": "with white noise"}
"""How views of an input are made, by kind."""
