"""Load encoders: from factories, checkpoints of LightningModules, timm and transformers by name."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn

from synbench_lightning.cli.errors import CommandError, UsageError, in_one_line
from synbench_lightning.probe.proxy_samples import Normalize
from synbench_lightning.runtime.encoder import find_encoder
from synbench_lightning.runtime.input_shape import example_shape
from synbench_lightning.runtime.lightning_packages import lightning_classes


@dataclass
class Source:
    """One `--encoder` or `--module`, and the options that belong to it."""

    kind: str
    spec: str
    arguments: list[str] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)
    attribute: str | None = None

    @property
    def option(self) -> str:
        """The option as it was given."""
        return f"--{self.kind} {self.spec}"


class Loaded(NamedTuple):
    """An encoder that is ready to be evaluated, the module with its weights, and the inputs that it declares.

    ``attribute`` is the dotted name of the encoder in the module, where it was given.
    """

    encoder: Callable[[Tensor], Any]
    module: nn.Module | None
    input_shape: tuple[int, ...] | None = None
    normalize: Normalize | None = None
    attribute: str | None = None


class Candidate(NamedTuple):
    """An encoder to be loaded: its name, what identifies it in addition to its weights, and the function that loads it.

    That function raises :class:`CommandError` if loading fails.
    """

    name: str
    identity: str
    load: Callable[[], Loaded]


def candidates(source: Source, weights_only: bool) -> Iterator[Candidate]:
    """The encoders of a source: one, or one for each checkpoint.

    Raises:
        UsageError: if the source is incomplete.
    """
    package, _, attribute = source.spec.partition(":")
    if not package or not attribute:
        known = " timm:NAME, transformers:NAME or" if source.kind == "encoder" else ""
        raise UsageError(f"{source.option}: must be{known} package.module:name")
    if source.kind == "module" and not source.checkpoints:
        raise UsageError(f"{source.option}: needs its weights, --ckpt FILE [FILE ...]")
    name = source.spec + (f"({', '.join(source.arguments)})" if source.arguments else "")
    load = {"timm": _timm, "transformers": _transformers}.get(package, _from_factory)
    if source.kind == "module":
        load = _from_checkpoint
    for checkpoint in (*source.checkpoints,) or (None,):
        shown = name if checkpoint is None else checkpoint if source.kind == "module" else f"{name} {checkpoint}"
        yield Candidate(shown, f"{name} {source.attribute}", partial(load, source, checkpoint, weights_only))


def _from_factory(source: Source, checkpoint: str | None, weights_only: bool) -> Loaded:
    factory = imported(source)
    if isinstance(factory, nn.Module):
        encoder: Any = factory
    elif callable(factory):
        arguments = _typed_arguments(source, factory, needed=True)
        encoder = _called(source.option, lambda: factory(**arguments))
    else:
        raise CommandError(f"{source.option}: must be a function, a class or a module, is {factory!r:.80}")
    if not callable(encoder):
        raise CommandError(f"{source.option}: returned {encoder!r:.80}, which is neither a module nor a function")
    module = encoder if isinstance(encoder, nn.Module) else None
    if checkpoint is not None:
        if module is None:
            raise CommandError(f"{source.option}: has no weights that --ckpt {checkpoint} could be loaded into")
        _load_weights(module, checkpoint, weights_only)
    return Loaded(encoder, module)


def _from_checkpoint(source: Source, checkpoint: str | None, weights_only: bool) -> Loaded:
    assert checkpoint is not None
    kind: Any = imported(source)
    is_module = inspect.isclass(kind) and issubclass(kind, lightning_classes("LightningModule"))
    if not is_module:
        raise CommandError(f"{source.option}: must be a LightningModule class, is {kind!r}")
    _read(checkpoint, weights_only)
    arguments = _typed_arguments(source, kind, needed=False)
    if "weights_only" in inspect.signature(kind.load_from_checkpoint).parameters:  # since Lightning 2.6
        arguments["weights_only"] = weights_only
    module = _called(
        f"{source.option} --ckpt {checkpoint}",
        lambda: kind.load_from_checkpoint(checkpoint, map_location="cpu", **arguments),
    )
    try:
        found = find_encoder(module, source.attribute)
    except ValueError as error:
        words = in_one_line(error).replace("`encoder=", "`--attribute=").replace("`encoder=`", "`--attribute`")
        raise CommandError(f"{source.option}: {words}") from error
    shape = None
    if module.example_input_array is not None:
        shape = example_shape(module.example_input_array, "`example_input_array`")
    return Loaded(found.forward, module, shape, attribute=source.attribute)


def _timm(source: Source, checkpoint: str | None, weights_only: bool) -> Loaded:
    timm = _package("timm")
    given = {"pretrained": checkpoint is None, "num_classes": 0, **_untyped_arguments(source)}
    model = _called(source.option, lambda: timm.create_model(source.spec.partition(":")[2], **given))
    if checkpoint is not None:
        _load_weights(model, checkpoint, weights_only)
    inputs = timm.data.resolve_model_data_config(model)
    return Loaded(model, model, tuple(inputs["input_size"]), (tuple(inputs["mean"]), tuple(inputs["std"])))


TOKENS, SECOND = 32, 16_000
"""Inputs of a text encoder, in embeddings, and of an audio encoder, in values: one second at 16 kHz."""


def _transformers(source: Source, checkpoint: str | None, weights_only: bool) -> Loaded:
    transformers = _package("transformers")
    name = source.spec.partition(":")[2]
    model = _called(source.option, lambda: transformers.AutoModel.from_pretrained(name, **_untyped_arguments(source)))
    if checkpoint is not None:
        _load_weights(model, checkpoint, weights_only)
    inputs = model.main_input_name
    if inputs == "pixel_values":
        processor = _called(source.option, lambda: transformers.AutoImageProcessor.from_pretrained(name))
        size = getattr(processor, "crop_size", None) or processor.size
        height, width = (size.get(side) or size["shortest_edge"] for side in ("height", "width"))
        normalize = tuple(processor.image_mean), tuple(processor.image_std)
        return Loaded(lambda x: model(pixel_values=x), model, (len(processor.image_mean), height, width), normalize)
    if inputs == "input_values":  # waveforms, which its processor scales to mean 0 and variance 1, like the examples
        return Loaded(lambda x: model(input_values=x), model, (SECOND,))
    if inputs == "input_ids":
        encoder = model.get_encoder() if model.config.is_encoder_decoder else model
        table = model.get_input_embeddings().weight.detach()
        std, mean = torch.std_mean(table.float(), 0)

        def embedded(x: Tensor) -> Any:  # examples with the mean and variance of the token embeddings
            return encoder(inputs_embeds=x * std.to(x) + mean.to(x))

        return Loaded(embedded, model, (TOKENS, table.shape[1]))
    raise CommandError(
        f"{source.option}: takes `{inputs}`, which is not supported; write a factory that returns a function from "
        "standard normal inputs to features, and pass it as --encoder package.module:factory"
    )


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CommandError(f"{name} is not installed: pip install {name}") from error


def imported(source: Source) -> Any:
    """The object that a source names as ``module:name``."""
    package, _, attribute = source.spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        found: Any = importlib.import_module(package)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{package}.".startswith(f"{error.name}."):
            raise CommandError(
                f"{source.option}: there is no module {error.name!r}, neither installed nor in this folder"
            ) from error
        raise CommandError(f"{source.option}: importing {package} raised {_typed(error)}") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            close = get_close_matches(name, [known for known in dir(found) if not known.startswith("_")])
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise CommandError(f"{source.option}: {package} has no {name!r}{hint}")
        found = getattr(found, name)
    return found


def _typed_arguments(source: Source, factory: Callable[..., Any], needed: bool) -> dict[str, Any]:
    """The arguments given for a factory, converted to the types in its signature.

    Args:
        source: with arguments as "width=8".
        factory: a function or class.
        needed: whether those without a default must be given.
    """
    if not source.arguments:
        return {}
    try:
        import jsonargparse
    except ImportError as error:
        raise CommandError("arguments of a factory need jsonargparse: pip install 'synbench-lightning[cli]'") from error
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    names = {argument.partition("=")[0].split(".")[0] for argument in source.arguments}
    skip: set[str | int] = {name for name in inspect.signature(factory).parameters if not needed and name not in names}
    add = parser.add_class_arguments if inspect.isclass(factory) else parser.add_function_arguments
    try:
        add(factory, source.kind, skip=skip, fail_untyped=False)
        parsed = parser.parse_args([f"--{source.kind}.{argument}" for argument in source.arguments])
        return dict(vars(parser.instantiate_classes(parsed)[source.kind]))
    except Exception as error:
        raise UsageError(f"{source.option}: {in_one_line(error)}") from error


def _untyped_arguments(source: Source) -> dict[str, Any]:
    pairs = (argument.partition("=") for argument in source.arguments)
    return {name: yaml.safe_load(value) for name, _, value in pairs}


def _called(what: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        raise CommandError(f"{what}: {_typed(error)}") from error


def _load_weights(module: nn.Module, checkpoint: str, weights_only: bool) -> None:
    saved = _read(checkpoint, weights_only)
    weights = saved.get("state_dict", saved) if isinstance(saved, dict) else saved
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise CommandError(f"--ckpt {checkpoint}: must contain a state dict, contains a {_kind_of(saved)}")
    expected, given = set(module.state_dict()), set(weights)
    missing, unexpected = sorted(expected - given), sorted(given - expected)
    if missing or unexpected:
        raise CommandError(
            f"--ckpt {checkpoint}: does not match the encoder; missing keys: {_some(missing)}; unexpected keys: "
            f"{_some(unexpected)}. For the checkpoint of a LightningModule use --module"
        )
    _called(f"--ckpt {checkpoint}", lambda: module.load_state_dict(weights))


def _read(checkpoint: str, weights_only: bool) -> Any:
    if not Path(checkpoint).is_file():
        raise CommandError(f"--ckpt {checkpoint}: no such file")
    try:
        return torch.load(checkpoint, map_location="cpu", weights_only=weights_only, mmap=True)
    except Exception as error:
        if weights_only and "weights_only" in str(error).replace("Weights only", "weights_only"):
            raise CommandError(
                f"--ckpt {checkpoint}: contains more than weights and plain values, and loading that can run code. If "
                "you trust its origin, add --weights-only false"
            ) from error
        raise CommandError(f"--ckpt {checkpoint}: cannot be read, {_typed(error)}") from error


def _typed(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _kind_of(saved: Any) -> str:
    held = f" with {_some(list(map(str, saved)))}" if isinstance(saved, dict) else ""
    return type(saved).__name__ + held


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "none"
