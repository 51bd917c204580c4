"""How training calls a module, a method or an inner layer that the user has named."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from synbench_lightning.runtime.call_recorder import Call, Key
from synbench_lightning.runtime.call_tree import CallTree
from synbench_lightning.runtime.encoder import walk
from synbench_lightning.runtime.lightning_packages import LightningModule


def calls_of_name(
    pl_module: LightningModule,
    path: str,
    calls: Mapping[Key, Call],
    paths: Mapping[int, str],
    input_shape: tuple[int, ...] | None,
) -> tuple[list[Call], str]:
    """The recorded calls to repeat for a named module or method, and the part to read if it is an inner layer.

    Args:
        pl_module: the module in training.
        path: the name.
        calls: that were recorded.
        paths: of the recorded modules by ``id``.
        input_shape: of one example, if given by the user: a layer with that input shape is called directly.
    """
    if found := _named(pl_module, path, calls, paths):
        return _outer(found, CallTree(calls, pl_module), input_shape)
    return _compiled(pl_module, path, calls, paths)


def recorded_path(pl_module: LightningModule, path: str, paths: Mapping[int, str]) -> str | None:
    """The path under which a named module, or the owner of a named method, was recorded; ``None`` if it was not."""
    *_, owner, found = walk(pl_module, path)
    module = found if isinstance(found, nn.Module) else owner
    return paths.get(id(module)) or None


def _named(pl_module: LightningModule, path: str, calls: Mapping[Key, Call], paths: Mapping[int, str]) -> list[Call]:
    """How training calls a named method, or a named module: directly or through its methods."""
    seen = recorded_path(pl_module, path, paths)
    if seen is None:
        return []
    is_module = isinstance(walk(pl_module, path)[-1], nn.Module)
    method = "" if is_module else path.rpartition(".")[-1]
    own = [call for (where, name), call in calls.items() if where == seen and (name == method or is_module)]
    return [call for call in own if call.features]


def _outer(named: list[Call], tree: CallTree, input_shape: tuple[int, ...] | None) -> tuple[list[Call], str]:
    """The calls to repeat for a named module, and the part to read if it is an inner layer of the called module."""
    if named[0].input is not None and named[0].input.shape == input_shape:
        return named, ""
    outer = tree.outer(named[0])
    return ([outer], named[0].path.removeprefix(f"{outer.path}.")) if outer is not named[0] else (named, "")


def _compiled(
    pl_module: LightningModule, path: str, calls: Mapping[Key, Call], paths: Mapping[int, str]
) -> tuple[list[Call], str]:
    """The calls to repeat, and the part to read, for a layer of a compiled module, which hides inner calls."""
    names, layer = path.split("."), walk(pl_module, path)[-1]
    if not isinstance(layer, nn.Module) or id(layer) in paths:
        return [], ""
    for depth in range(len(names), 0, -1):
        if own := _named(pl_module, ".".join(names[:depth]), calls, paths):
            return own, ".".join(names[depth:])
    return [], ""
