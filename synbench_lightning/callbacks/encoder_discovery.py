"""Find the encoder, and what it is given, by a look at the first training step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from torch import nn

from synbench_lightning.runtime.batchnorm_statistics import RunningStatistics
from synbench_lightning.runtime.call_recorder import Call, CallRecorder
from synbench_lightning.runtime.encoder import Encoder, EncoderSpec, find_encoder, walk
from synbench_lightning.runtime.encoder_ranking import rank_encoders
from synbench_lightning.runtime.lightning_packages import LightningModule, Strategy, rank_zero_info, rank_zero_warn
from synbench_lightning.runtime.sharding import is_sharded

MOST_NAMES = 4
"""Other modules that a message names."""


class EncoderDiscovery:
    """How training calls the encoder: seen in a run's first step on the first process, and then kept.

    Args:
        named: the callback's argument ``encoder``.
    """

    def __init__(self, named: EncoderSpec) -> None:
        self.named = named
        self.call: Call | None = None
        self.batch: Any = None
        """The first batch, while the step is made."""
        self._observation: CallRecorder | None = None
        self._before: RunningStatistics | None = None

    def __bool__(self) -> bool:
        """Whether a step is being looked at."""
        return self._observation is not None

    def possible(self, strategy: Strategy, pl_module: LightningModule) -> bool:
        """Whether the first step can be looked at, and a probe be made before it is carried out.

        Not where it is compiled as a whole, as by `fit(torch.compile(module))`, and not where weights are sharded: a
        forward between backward and step would spoil the gradients.
        """
        compiled = hasattr(pl_module.training_step, "_torchdynamo_orig_callable")
        return not (callable(self.named) or compiled or is_sharded(strategy, pl_module))

    def begin(self, pl_module: LightningModule, batch: Any) -> None:
        """Look at the step that begins."""
        self._observation, self.batch = CallRecorder(pl_module), batch
        self._before = RunningStatistics(pl_module)

    def end(self, strategy: Strategy, pl_module: LightningModule) -> Any:
        """Take what was seen, and return the batch. Every process makes this call."""
        assert self._observation is not None
        calls, batch, paths = self._observation.end(), self.batch, self._observation.paths
        self._observation = self.batch = None
        if isinstance(self.named, str):
            seen = _named(pl_module, self.named, calls, paths)
            plausible = [] if seen is None else [seen]
        else:
            plausible = rank_encoders(calls, pl_module)
        found = plausible[0] if plausible else None
        if self.call is None:  # else it was probed before the step
            self.call = strategy.broadcast(found)
            self._say(pl_module, calls, paths, [call.name for call in plausible[1:]])
        return batch

    @contextmanager
    def as_before_the_step(self) -> Iterator[None]:
        """The step's forward has changed the statistics of BatchNorm: have those from before it, once."""
        before, self._before = self._before, None
        with nullcontext() if before is None else before.in_place():
            yield

    def abandon(self) -> None:
        """Leave no hook on the module."""
        if self._observation is not None:
            self._observation.end()
        self._observation = self._before = self.batch = None

    def encoder(self, pl_module: LightningModule) -> Encoder | None:
        """The encoder, called as training does; ``None`` where that is not known (any more)."""
        if self.call is None:
            return None
        if self.named not in (None, self.call.path) or not _has(pl_module, self.call.path):
            self.call = None
            return None
        if self.call.missing:
            raise ValueError(
                f"The encoder, {self.call.name}, needs {', '.join(map(repr, self.call.missing))} beside its input, and "
                "a probe has none: pass a callable that gives it, `encoder=lambda pl_module, x: "
                f"pl_module.{self.call.path or 'forward'}(x, ...)`, or the name of another module."
            )
        if self.call.path == "":
            return Encoder(f"the `forward` of {type(pl_module).__name__}", partial(self.call, pl_module), ())
        found = find_encoder(pl_module, self.call.path)
        return found._replace(forward=partial(self.call, found.forward))

    def state(self) -> dict[str, Any] | None:
        """How training calls the encoder, as plain types."""
        return None if self.call is None else asdict(self.call)

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go on with what an earlier run saw."""
        self.call = None if state is None else Call(**state)

    def _say(
        self, pl_module: LightningModule, calls: Mapping[str, Call], paths: Mapping[int, str], others: list[str]
    ) -> None:
        if self.call is not None:
            if others:
                rank_zero_info(
                    f"Beside {self.call.name}, training calls {', '.join(others[:MOST_NAMES])}: `encoder=` names "
                    "another to probe."
                )
            return
        called = [call.name for call in rank_encoders(calls, pl_module)]
        if called and isinstance(self.named, str) and _seen_as(pl_module, self.named, paths):
            rank_zero_warn(
                f"The first training step did not call `encoder={self.named!r}`. It called "
                f"{', '.join(called[:MOST_NAMES])}: name what is trained, or give the `input_shape`."
            )


def _seen_as(pl_module: LightningModule, path: str, paths: Mapping[int, str]) -> str | None:
    """The path under which a named module, or the owner of a named method, was looked at; ``None`` if it was not."""
    *_, owner, found = walk(pl_module, path)
    module = found if isinstance(found, nn.Module) else owner
    return paths.get(id(module)) or None


def _named(pl_module: LightningModule, path: str, calls: Mapping[str, Call], paths: Mapping[int, str]) -> Call | None:
    """How training calls a module that was named, or the owner of a method."""
    seen = _seen_as(pl_module, path, paths)
    if seen is None:
        return None
    if seen in calls and isinstance(walk(pl_module, path)[-1], nn.Module):
        return replace(calls[seen], path=path)
    first = next((call for called, call in calls.items() if f"{called}.".startswith(f"{seen}.")), None)
    return None if first is None else Call(path, first.shape, direct=False)


def _has(pl_module: LightningModule, path: str) -> bool:
    try:
        find_encoder(pl_module, path) if path else None
    except ValueError:
        return False
    return True
