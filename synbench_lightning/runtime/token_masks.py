"""The mask of valid tokens of an encoder's call, and outputs that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from torch import Tensor

from synbench_lightning.runtime.structures import Arguments, Path, leaves


class Masked(NamedTuple):
    """An output of tokens ``(N, T, D)`` with a mask ``(N, T)`` that is true for valid tokens."""

    output: Any
    mask: Tensor


_tokens_that_count: ContextVar[Tensor | None] = ContextVar("tokens_that_count", default=None)


@contextmanager
def counting_tokens(mask: Tensor | None) -> Iterator[Tensor | None]:
    """Set the mask of valid tokens for the context; :func:`masked` attaches it to the outputs of layers."""
    token = _tokens_that_count.set(mask)
    try:
        yield mask
    finally:
        _tokens_that_count.reset(token)


def masked(output: Any) -> Any:
    """Attach the current token mask to the output of a layer, if there is one."""
    mask = _tokens_that_count.get()
    return output if mask is None else Masked(output, mask)


def token_mask(arguments: Arguments) -> Tensor | None:
    """Find the mask ``(N, T)`` of valid tokens among arguments by its name; ``None`` without one.

    ``attention_mask`` is true for valid tokens, as in transformers; ``..._padding_mask`` for padding, as in torch.
    """
    for path, leaf in leaves(arguments, within_objects=False):
        name = str(path[-1]).lower()
        if leaf.ndim == 2 and name in ("attention_mask", "pad_mask"):
            return leaf != 0
        if leaf.ndim == 2 and name.endswith("padding_mask"):
            return leaf == 0
    return None


def marks_padding(path: Path) -> bool:
    """Whether an argument is nonzero for padding, by its name."""
    return "padding" in str(path[-1]).lower()
