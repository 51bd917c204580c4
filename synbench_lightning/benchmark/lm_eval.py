"""Tasks of the Language Model Evaluation Harness: YAML files that describe prompts for a local file."""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from synbench_lightning.benchmark.prompts import Prompts
from synbench_lightning.checks import check_name, shown

READ = {
    "task", "dataset_path", "dataset_name", "dataset_kwargs", "test_split", "validation_split", "output_type",
    "doc_to_text", "doc_to_choice", "doc_to_target", "target_delimiter", "description", "num_fewshot",
}  # fmt: skip
"""Fields that are read, because they determine what is evaluated."""

WITHOUT_EFFECT = {
    "task_alias", "tag", "group", "metadata", "metric_list", "training_split", "fewshot_split", "fewshot_delimiter",
    "fewshot_config", "should_decontaminate", "doc_to_decontamination_query", "repeats",
}  # fmt: skip
"""Fields that are ignored, because they do not affect zero-shot log-likelihoods."""


def harness_task(file: str | Path, prompts: Prompts, data: str | Path | None = None) -> dict[str, DataLoader[Any]]:
    """Read a multiple-choice task of the Language Model Evaluation Harness, with a local data file.

    It uses ``doc_to_text``, ``doc_to_choice`` and ``doc_to_target`` (names of fields or jinja2 templates; choices also
    as a list), ``description``, ``target_delimiter`` and the file in ``dataset_kwargs: {data_files: ...}``. Nothing is
    downloaded, no Python code of the task is run, and prompts are zero-shot.

    Source: Gao et al., A framework for few-shot language model evaluation (EleutherAI/lm-evaluation-harness).

    Args:
        file: the YAML file.
        prompts: tokenizer and kind of the model.
        data: a file of examples, in place of the one that the YAML names: ``.json``, ``.jsonl`` or ``.csv``.

    Returns:
        The task by its name, for the ``tasks`` of :class:`BenchmarkCallback`.

    Raises:
        ValueError: for a field that is not supported, or an example that does not match the templates.
        ImportError: if jinja2 or PyYAML is missing (extra ``text``).

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> _ = (folder / "films.jsonl").write_text('{"review": "fine film", "label": 1}')
        >>> _ = (folder / "films.yaml").write_text('''
        ... task: films
        ... dataset_kwargs: {data_files: films.jsonl}
        ... doc_to_text: "{{review}}. It was"
        ... doc_to_choice: ["bad", "good"]
        ... doc_to_target: label
        ... ''')
        >>> prompts = Prompts(lambda text: [ord(letter) for letter in text], "causal")
        >>> {name: len(task.dataset) for name, task in harness_task(folder / "films.yaml", prompts).items()}
        {'films': 1}
    """
    path = Path(file)
    config = _read_config(path)
    name = check_name("task", config.get("task"))
    docs = _documents(_data_file(path, config) if data is None else Path(data))
    delimiter = config.get("target_delimiter", " ")
    items = []
    for index, doc in enumerate(docs):
        try:
            choices = _choices(config["doc_to_choice"], doc)
            right = _target(config["doc_to_target"], doc, choices)
            text = _rendered(config.get("description") or "", doc) + str(_value(config["doc_to_text"], doc))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path.name}: example {index} does not match the task. {error}") from error
        items.append(prompts.item(text, "", [f"{delimiter}{choice}" for choice in choices], right))
    if not items:
        raise ValueError(f"{path.name}: its data has no examples.")
    return {name: prompts.collated(items)}


def _read_config(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise ImportError("Tasks in YAML need PyYAML: pip install 'synbench-lightning[text]'") from error

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        """Reads Python functions as names, without running them."""

    Loader.add_constructor("!function", lambda _, node: _Function(node.value))
    found = yaml.load(path.read_text(encoding="utf-8"), Loader)
    if not isinstance(found, dict):
        raise ValueError(f"`file`: {path.name} must be a mapping of fields, got {shown(found)}.")
    code = [field for field, value in found.items() if isinstance(value, _Function)]
    unknown = sorted(map(str, found.keys() - READ - WITHOUT_EFFECT))
    for what, names in (("calls Python code in", code), ("has fields that are not supported:", unknown)):
        if names:
            raise ValueError(
                f"`file`: {path.name} {what} {', '.join(names)}. Supported are {', '.join(sorted(READ))}. For other "
                "fields, make the prompts with `Prompts.task`."
            )
    missing = [field for field in ("task", "doc_to_text", "doc_to_choice", "doc_to_target") if field not in found]
    if missing:
        raise ValueError(f"`file`: {path.name} has no {', '.join(missing)}.")
    if found.get("output_type", "multiple_choice") != "multiple_choice":
        raise ValueError(f"`file`: {path.name} has the output_type {found['output_type']!r}, not multiple_choice.")
    if found.get("num_fewshot"):
        raise ValueError(f"`file`: {path.name} has num_fewshot {found['num_fewshot']}; only 0 is supported.")
    return found


class _Function(str):
    """The name of a Python function in a task."""


def _data_file(path: Path, config: Mapping[str, Any]) -> Path:
    files: Any = (config.get("dataset_kwargs") or {}).get("data_files")
    split = config.get("test_split") or config.get("validation_split") or "train"
    if isinstance(files, Mapping):
        files = files.get(split)
    files = files[0] if isinstance(files, list) and len(files) == 1 else files
    if not isinstance(files, str):
        raise ValueError(
            f"`data`: {path.name} names no local file for the split {split!r} in dataset_kwargs: {{data_files: ...}}. "
            "Nothing is downloaded: pass the file, `data='examples.jsonl'`."
        )
    return path.parent / files


def _documents(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        raise ValueError(f"`data`: there is no file {str(path)!r}.")
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as lines:
            return list(csv.DictReader(lines))
    if path.suffix not in (".json", ".jsonl"):
        raise ValueError(f"`data` must be a .json, .jsonl or .csv file, got {path.name!r}.")
    text = path.read_text(encoding="utf-8")
    try:
        listed = text.lstrip().startswith("[")
        found = json.loads(text) if listed else [json.loads(line) for line in text.splitlines() if line.strip()]
    except json.JSONDecodeError as error:
        raise ValueError(f"`data`: {path.name} is neither a JSON list nor JSON lines: {error}.") from None
    if not all(isinstance(doc, dict) for doc in found):
        raise ValueError(f"`data`: {path.name} must contain one object with fields per example.")
    return list(found)


def _rendered(template: str, doc: Mapping[str, Any]) -> str:
    try:
        import jinja2
    except ImportError as error:
        raise ImportError("Templates need jinja2: pip install 'synbench-lightning[text]'") from error
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    try:
        return environment.from_string(template).render(**doc)
    except jinja2.TemplateError as error:
        raise ValueError(f"The template {template!r}: {error}.") from None


def _value(field: Any, doc: Mapping[str, Any]) -> Any:
    """A field of the example, or a template filled with its fields."""
    if not isinstance(field, str):
        return field
    return doc[field] if field in doc else _rendered(field, doc)


def _choices(field: Any, doc: Mapping[str, Any]) -> list[str]:
    found = _value(field, doc)
    if isinstance(found, str):
        try:
            found = ast.literal_eval(found)
        except (SyntaxError, ValueError):
            raise ValueError(f"doc_to_choice must give a list, got {shown(found)}.") from None
    found = list(found.values()) if isinstance(found, Mapping) else found
    if not isinstance(found, (list, tuple)) or len(found) < 2:
        raise ValueError(f"doc_to_choice must give a list of at least two choices, got {shown(found)}.")
    return [str(choice) for choice in found]


def _target(field: Any, doc: Mapping[str, Any], choices: list[str]) -> int:
    found = _value(field, doc)
    if found in choices:
        return choices.index(found)
    place = int(found) if isinstance(found, (int, str)) and str(found).strip().isdigit() else -1  # mutants: below 0
    if not 0 <= place < len(choices):
        raise ValueError(f"doc_to_target must give one of the choices {choices} or its index, got {shown(found)}.")
    return place
