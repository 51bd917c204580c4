"""Save and load inputs and views: one fixed set of views for all runs of a sweep."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from synbench_lightning.checks import check_integer, shown
from synbench_lightning.probe.chunked_views import ChunkedViews
from synbench_lightning.probe.view_sampling import Views, check_dense_inputs
from synbench_lightning.probe.views import SampledViews, ViewedInputs, viewed_inputs
from synbench_lightning.runtime.structures import Arguments, leaves

SUFFIXES = (".pt", ".pth", ".npy")


def save_views(path: str | PathLike[str], inputs: Tensor, views: Views, seed: int = 0) -> Tensor:
    """Sample views of inputs as a probe does, and save them for other probes.

    Pass the file to all runs of a sweep, whatever each trains with: ``SynBenchCallback(views="views.pt")``,
    ``synbench evaluate --views views.pt``. Their information is then comparable, see :func:`rank`.

    Args:
        path: path of the file, readable by ``torch.load``.
        inputs: ``(N, *input_shape)`` as the encoder takes them, at least 32, of which the first 128 are used.
        views: a function from a batch of inputs to a random view of each; it must be label-preserving.
        seed: seed of the views.

    Returns:
        The saved tensor ``(N, V, *input_shape)``: V views of each input.

    Raises:
        ValueError: for inputs or views that a probe would refuse.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "views.pt")
        >>> save_views(path, torch.randn(200, 8), lambda batch: batch + torch.randn_like(batch)).shape
        torch.Size([128, 16, 8])
    """
    if not callable(views):
        raise ValueError(f"`views` must be a function from a batch of inputs to views of them, got {shown(views)}.")
    if not isinstance(path, (str, PathLike)):
        raise ValueError(f"`path` must be the name of a file, got {shown(path)}.")
    if not isinstance(inputs, Tensor) or inputs.ndim < 2:
        raise ValueError(f"`inputs` must be a tensor (N, *input_shape), got {shown(inputs)}.")
    seed = check_integer("seed", seed, 0)
    sampled = viewed_inputs(inputs, views, inputs.shape[1:], seed, torch.device("cpu"))
    assert sampled is not None
    return write_views(path, sampled)


def write_views(path: str | PathLike[str], viewed: ViewedInputs) -> Tensor:
    """Save views as one tensor.

    Raises:
        ValueError: if they are not tensors of one shape.
    """
    if isinstance(viewed, SampledViews):
        found = torch.stack([viewed.drawn(draw) for draw in range(viewed.draws)], 1)
    elif isinstance(viewed, ChunkedViews):
        found = torch.stack([torch.cat([_tensor_of(chunk) for chunk in view]) for view in viewed.views], 1)
    else:
        raise ValueError(f"These inputs have no views to save: they are encoded with {viewed.kind}.")
    try:
        torch.save(found, path)
    except (OSError, RuntimeError, ValueError) as error:  # torch raises each of them for a path
        raise ValueError(f"`path`: {path!r} could not be written: {error}") from error
    return found


def _tensor_of(chunk: Any) -> Tensor:
    """The only tensor in the encoder's arguments."""
    tensors = [leaf for _, leaf in leaves(chunk)]
    if len(tensors) != 1 or (isinstance(chunk, Arguments) and chunk.whole):
        raise ValueError(
            f"views can be saved only if the encoder takes one tensor, and this one takes {len(tensors)}: pass "
            "`inputs` and `views` to each run."
        )
    return tensors[0].detach().cpu()


def is_file_name(value: Any) -> bool:
    """Whether a value names a file of tensors."""
    return isinstance(value, (str, PathLike)) and Path(value).suffix in SUFFIXES


def load_tensor(name: str, path: str | PathLike[str]) -> Tensor:
    """Load the tensor in a ``.pt`` or ``.npy`` file.

    Args:
        name: name of the argument, for errors.
        path: path of the file.

    Raises:
        ValueError: if the file cannot be read or contains something else.
    """
    try:
        if Path(path).suffix == ".npy":
            found: Any = torch.from_numpy(np.load(path))
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"`{name}`: {path} could not be read: {type(error).__name__}: {error}") from error
    if not isinstance(found, Tensor):
        raise ValueError(f"`{name}`: {path} must contain a tensor, got a {type(found).__name__}")
    return found


def from_files(inputs: Any, views: Any) -> tuple[Any, Any]:
    """Load inputs and views that are file names; a tensor of views is returned as inputs with several views of each.

    Args:
        inputs: ``None``, ``"auto"``, a tensor or structure, or the name of a file.
        views: ``None``, a function, a tensor ``(N, V, *input_shape)``, or the name of a file that contains one.

    Raises:
        ValueError: for a file that cannot be read; for a tensor of views together with inputs.
    """
    if is_file_name(inputs):
        inputs = load_tensor("inputs", inputs)
    if is_file_name(views):
        views = load_tensor("views", views)
    check_dense_inputs("inputs", inputs)
    check_dense_inputs("views", views)
    if not isinstance(views, Tensor):
        return inputs, views
    if inputs is not None and not (isinstance(inputs, str) and inputs == "auto"):
        raise ValueError(
            f"`views` of shape {tuple(views.shape)} already contain the inputs: omit `inputs`, or pass a function as "
            "`views`."
        )
    if views.ndim < 3 or views.shape[1] < 2:
        raise ValueError(
            f"`views` must be a tensor (N, V, *input_shape) with at least two views of each input, got {shown(views)}."
        )
    return views, None
