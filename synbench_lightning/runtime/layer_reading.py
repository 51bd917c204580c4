"""Read pooled features of several layers in one forward of an encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from synbench_lightning.runtime.collectives import Processes
from synbench_lightning.runtime.encoder_call import Head
from synbench_lightning.runtime.features import FeatureReader, reader_of_layer
from synbench_lightning.runtime.heads import heads_to_show, is_within, needed_heads, run_heads
from synbench_lightning.runtime.input_shape import tensors_in
from synbench_lightning.runtime.layer_selection import CalledModule, select_layers
from synbench_lightning.runtime.sharding import has_shards
from synbench_lightning.runtime.token_masks import masked

LayerSpec = str | Sequence[str] | None
"""``"auto"``: the stages or blocks of the encoder · dotted names · ``None``: none."""
OUTPUT = "output"
"""Name of the encoder's output if the encoder has no name."""
WRAPPERS = {"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"}
"""Names that wrappers put into the path of a module."""


def check_layers(layers: Any) -> LayerSpec:
    """Check the argument ``layers``; names are returned as a tuple.

    Raises:
        ValueError: for any other value.
    """
    if layers is None or (isinstance(layers, str) and layers == "auto"):
        return layers
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        raise ValueError(
            "`layers` must be 'auto', dotted names of modules such as ('backbone.layer2', 'backbone.layer4'), or None, "
            f"got {layers!r}."
        )
    names = tuple(layers)
    if not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise ValueError(f"`layers` must be distinct names, got {list(names)}.")
    return names


class Layer(NamedTuple):
    """A layer that is read: its name, its module, and how its output becomes features."""

    name: str
    module: nn.Module
    read: FeatureReader


class LayerReader:
    """Selects layers of an encoder in one forward and reads their features in later ones.

    Args:
        root: the module that names start from.
        layers: the argument; see :data:`LayerSpec`.
        output: name of the encoder's own output, ``""`` if it has none.
        heads: modules outside of the encoder that are applied to its output.
        precision: context in which heads are run.
    """

    def __init__(
        self,
        root: nn.Module,
        layers: LayerSpec,
        output: str = "",
        heads: Sequence[Head] = (),
        precision: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.root, self.layers, self.output = root, check_layers(layers), output or OUTPUT
        self._heads, self._precision = tuple(heads), precision
        self._chosen: list[Layer] | None = None
        self._repeats_output = False  # the last layer is what the encoder returns

    @property
    def automatic(self) -> bool:
        """Whether the layers are selected automatically."""
        return isinstance(self.layers, str)

    @property
    def chosen(self) -> bool:
        """Whether the layers have been selected."""
        return self._chosen is not None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the encoder's layers in the order of their calls, of those in heads, and of the encoder's output."""
        names = [layer.name for layer in self._chosen or ()]
        output = names.pop(self._inner - 1) if self._repeats_output else self.output
        return (*names, output)

    @property
    def in_heads(self) -> int:
        """Number of layers in heads."""
        return len(self._chosen or ()) - self._inner

    @property
    def _inner(self) -> int:
        """Number of layers in the encoder."""
        return sum(not any(is_within(layer.name, head.path) for head in self._heads) for layer in self._chosen or ())

    def choose(
        self,
        forward: Callable[[], Any],
        read: FeatureReader,
        size: int,
        input_shape: Sequence[int],
        processes: Processes,
    ) -> None:
        """Select the layers by two forwards of the same few examples. Every process must make this call.

        Args:
            forward: runs one forward.
            read: reader of the encoder's own output.
            size: number of examples.
            input_shape: shape of one example.
            processes: processes that share the probe; the first one decides.

        Raises:
            ValueError: for the name of no module, or of one that is not called or returns no features.
        """
        failure: Exception | None = None
        names: tuple[str, ...] = ()
        try:
            outputs: dict[str, Any] = {}
            with _hooks(self.root, outputs):
                output = forward()
            behind = self._called_in_heads(output)
            calls = [self._called(path, output, size) for path, output in outputs.items()]
            names = self._selected(calls, [self._called(path, output, size) for path, output in behind.items()])
        except Exception as error:  # all processes must learn of it before any of them raises
            failure = error
        if processes.any(failure is not None):
            raise failure or RuntimeError("Another process failed; its log has the reason.")
        modules = {name: self.root.get_submodule(name) for name in processes.broadcast(names)}
        self._chosen = [Layer(name, module, reader_of_layer(module, self.root)) for name, module in modules.items()]
        self._heads = needed_heads(self._heads, modules)
        with self.attached(read, input_shape, size) as layered:
            *layers, own = layered.split(layered(forward(), size, input_shape))
        last = layers[self._inner - 1] if self._inner else None
        same = last is not None and last.shape == own.shape and torch.allclose(last, own, rtol=1e-4)
        self._repeats_output = processes.broadcast(same)

    @contextmanager
    def attached(
        self, read: FeatureReader, input_shape: Sequence[int] = (), size: int | None = None
    ) -> Iterator[LayeredFeatures]:
        """Read the layers in each forward inside the context.

        Args:
            read: reader of the encoder's own output.
            input_shape: shape of one example, if known.
            size: number of examples of each forward, if it is the same for all: of several outputs of a layer, the
                first call uses the one with as many rows, and later calls the same one.
        """
        repeated = self._inner - 1 if self._repeats_output else None
        found = LayeredFeatures(read, self._chosen or [], repeated, input_shape, self._run_heads, size)
        with ExitStack() as stack:
            for index, layer in enumerate(self._chosen or ()):
                handle = layer.module.register_forward_hook(partial(found.see, index))
                stack.callback(handle.remove)
            yield found

    def _run_heads(self, output: Any) -> None:
        with self._precision():
            run_heads(self.root, self._heads, output)

    def _called_in_heads(self, output: Any) -> dict[str, Any]:
        """Outputs of the modules in heads, by path; none if a head fails and the layers are selected automatically."""
        found: dict[str, Any] = {}
        try:
            with _hooks(self.root, found):
                self._run_heads(output)
        except Exception:
            if not self.automatic:
                raise
            self._heads, found = (), {}
        return found

    def _selected(self, calls: Sequence[CalledModule], behind: Sequence[CalledModule]) -> tuple[str, ...]:
        """Names of the layers without the encoder's own output; those in heads last."""
        if self.automatic:
            paths = [call.path for call in calls]  # without what comes after an inner layer that is the encoder
            until = paths.index(self.output) + 1 if self.output in paths else None
            inner = [name for name in select_layers(calls[:until]) if name != self.output]
            return (*inner, *heads_to_show(self._heads)) if inner else ()
        calls = [*calls, *behind]
        usable = list(dict.fromkeys(call.path for call in calls if call.shape is not None))
        self._check_named([call.path for call in calls], usable)
        return tuple(path for path in usable if path in (self.layers or ()) and path != self.output)

    def _called(self, path: str, output: Any, size: int) -> CalledModule:
        module = self.root.get_submodule(path)
        found = [x for x in tensors_in(output) if x.is_floating_point() and 2 <= x.ndim <= 5 and len(x) == size]
        flattened = has_shards(module)  # by the first version of FSDP
        weights = sum(p.numel() for p in module.parameters() if p.ndim > 1 or flattened)
        return CalledModule(path, type(module).__name__, weights, tuple(found[0].shape) if found else None)

    def _check_named(self, called: Sequence[str], usable: Sequence[str]) -> None:
        for name in self.layers or ():
            if name in usable or name == self.output:
                continue
            if name in called:
                why = "returns no features (N, ...) of the encoder's input examples"
            elif any(path == name for path, _ in self.root.named_modules()):
                why = "is not called by the encoder, nor by a head that training applies directly to its output"
            else:
                why = f"is not the name of a module of {type(self.root).__name__}"
            known = ", ".join(map(repr, usable[:20])) or "none"
            raise ValueError(f"`layers`: {name!r} {why}. Available names: {known}.")


class LayeredFeatures:
    """Concatenates the features of layers and of the encoder's output to ``(N, D)``.

    Args:
        read: reader of the encoder's output.
        layers: the layers, in the order of the indices of :meth:`see`.
        repeated: index of the layer that equals the output, if any.
        input_shape: shape of one example, if known.
        run_heads: runs the heads on the output.
        size: number of examples of each forward, if known.
    """

    def __init__(
        self,
        read: FeatureReader,
        layers: Sequence[Layer],
        repeated: int | None,
        input_shape: Sequence[int] = (),
        run_heads: Callable[[Any], None] = lambda output: None,
        size: int | None = None,
    ) -> None:
        self._read, self._repeated, self._run_heads = read, repeated, run_heads
        self._layers, self._input_shape, self._size = layers, input_shape, size
        self._seen: dict[int, Tensor] = {}
        self.widths: tuple[int, ...] = ()
        """Widths of the layers and, last, of the encoder's output; known after the first batch."""

    def see(self, index: int, _module: nn.Module, _args: Any, output: Any) -> None:
        """Forward hook of a layer; its last call in a forward is used."""
        self._seen[index] = self._layers[index].read(masked(output), self._size, self._input_shape)

    def __call__(self, output: Any, batch_size: int | None, input_shape: Sequence[int] = ()) -> Tensor:
        """Concatenated features ``(N, D)`` of a batch."""
        self._run_heads(output)
        seen, self._seen = self._seen, {}
        for index, layer in enumerate(self._layers):
            if index not in seen or batch_size not in (None, len(seen[index])):
                raise ValueError(
                    f"The layer {layer.name!r} was not called with the {batch_size} examples of a batch, although it "
                    "was in the first probe: remove it from `layers`."
                )
        parts = [*(seen[index] for index in range(len(self._layers))), self._read(output, batch_size, input_shape)]
        self.widths = tuple(part.shape[1] for part in parts)
        return torch.cat([part.to(parts[-1].device) for part in parts], 1)

    def split(self, features: Tensor) -> list[Tensor]:
        """Split concatenated features into those ``(..., D)`` of each layer; the encoder's output is last."""
        *layers, output = features.split(self.widths, -1)
        return [*(layer for index, layer in enumerate(layers) if index != self._repeated), output]


@contextmanager
def _hooks(root: nn.Module, outputs: dict[str, Any]) -> Iterator[None]:
    """Record the outputs of all modules by path inside the context, in the order in which their last calls end."""

    def see(path: str, _module: nn.Module, _args: Any, output: Any) -> None:
        outputs.pop(path, None)
        outputs[path] = output

    with ExitStack() as stack:
        for path, module in root.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):
                name = ".".join(part for part in path.split(".") if part not in WRAPPERS)
                stack.callback(module.register_forward_hook(partial(see, name)).remove)
        yield
