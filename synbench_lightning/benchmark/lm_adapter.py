"""Adapt language models with different ``forward`` signatures to one function from ids to logits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from synbench_lightning.runtime.encoder import walk
from synbench_lightning.runtime.lightning_packages import lacks_forward

Forward = str | Callable[[Any, Tensor, Tensor], Any] | None
"""``None``: the module · ``"model"``: a dotted attribute of it · a callable ``(module, ids, attention_mask)``."""


class Logits:
    """Calls a language model with ids and attention mask ``(S, T)`` for logits ``(S, T, vocabulary)``.

    Args:
        module: the model, or a module that contains it.
        forward: how to call it, see :data:`Forward`.

    Raises:
        ValueError: if there is nothing to call.
    """

    takes_mask: bool
    """Whether the model takes an attention mask."""

    def __init__(self, module: Any, forward: Forward) -> None:
        self._module, self._names = module, frozenset[str]()
        self._target: Any = forward
        self.takes_mask = True
        if forward is None or isinstance(forward, str):
            self._target = _named(module, forward)
            original = getattr(self._target, "_orig_mod", self._target)  # of a compiled module
            signature = inspect.signature(original.forward if isinstance(original, nn.Module) else original)
            kinds = {parameter.kind for parameter in signature.parameters.values()}
            self._names = frozenset(signature.parameters)
            self.takes_mask = "attention_mask" in self._names or inspect.Parameter.VAR_KEYWORD in kinds
            self._module = None

    def __call__(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        try:
            output = self._called(ids, attention_mask)
        except (IndexError, RuntimeError) as error:
            raise RuntimeError(
                f"The language model cannot read ids up to {int(ids.max())} of shape {tuple(ids.shape)}: does "
                "the `tokenizer` belong to the model, and is the length within its limit (`max_tokens`)? "
                f"{type(error).__name__}: {error}"
            ) from error
        logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
        if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != ids.shape:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(output).__name__}"
            raise ValueError(
                f"`forward` must return logits {(*ids.shape, 'vocabulary')} for ids {tuple(ids.shape)}, or an object "
                f"with such `logits`, got {shape}. Pass a callable (module, ids, attention_mask) -> logits."
            )
        return logits

    def _called(self, ids: Tensor, attention_mask: Tensor) -> Any:
        if self._module is not None:
            return self._target(self._module, ids, attention_mask)
        mask = {"attention_mask": attention_mask} if self.takes_mask else {}
        return self._target(input_ids=ids, **mask) if "input_ids" in self._names else self._target(ids, **mask)


def _named(module: Any, forward: str | None) -> Callable[..., Any]:
    names = [repr(name) for name, _ in module.named_children()] if isinstance(module, nn.Module) else []
    children = f"Its children are {', '.join(names) or 'none'}."
    if forward is not None:
        parts = walk(module, forward)
        if len(parts) <= forward.count(".") + 1 or not callable(parts[-1]):
            raise ValueError(
                f"`forward={forward!r}` is not a callable attribute of {type(module).__name__}. {children}"
            )
        return parts[-1]  # type: ignore[no-any-return]
    if lacks_forward(module):
        raise ValueError(
            f"{type(module).__name__} has no `forward` of its own. In `forward`, name the attribute that returns "
            f"logits, or pass a callable (module, ids, attention_mask) -> logits. {children}"
        )
    return module  # type: ignore[no-any-return]
