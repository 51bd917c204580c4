"""Views of the run's own examples: which source of them is used, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from synbench_lightning.callbacks.reread_views import READ_SECONDS, ReadViews, read_views
from synbench_lightning.callbacks.step_views import StepViews
from synbench_lightning.probe.chunked_views import ChunkedViews
from synbench_lightning.probe.view_sampling import FEWEST_INPUTS
from synbench_lightning.runtime.encoder_call import EncoderCall
from synbench_lightning.runtime.example_reading import UnreadableError
from synbench_lightning.runtime.input_leaf import input_leaf
from synbench_lightning.runtime.lightning_packages import LightningModule, Trainer
from synbench_lightning.runtime.step_replay import NotReachedError
from synbench_lightning.runtime.structures import Arguments, at, is_plain, tensors_in

KEPT_BYTES = 2**25
"""Views that were read are in checkpoints up to this size; larger ones are read again in a resumed run."""


class ViewCollection:
    """What information is measured on with ``inputs="auto"``: the best knowledge of nuisance that the run itself has.

    In this order: training examples that are read several times; two views that a training step gives the encoder;
    one view of each example, to which noise is added. The first process decides, and all have the same.
    """

    def __init__(self) -> None:
        self.inputs: Tensor | ChunkedViews | None = None
        """What is given to a probe; ``None`` before it is complete, and where there is nothing."""
        self.sentence = ""
        """What it is, in the log."""
        self.deferred = False
        self._steps: StepViews | None = None
        self._reason = ""
        self._kept: dict[str, Any] | None = None

    @property
    def collecting(self) -> bool:
        """Whether views are still to come."""
        return self.deferred or self._steps is not None

    def release(self) -> None:
        """See nothing further."""
        if self._steps is not None:
            self._steps.abandon()
        self._steps, self.deferred = None, False

    def begin(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        call: EncoderCall | None,
        shape: Sequence[int] | None,
        seed: int,
        seconds: float | None = READ_SECONDS,
    ) -> None:
        """Read examples, or begin to collect what steps give the encoder, where nothing was found yet in this run.

        Args:
            trainer: in a fit.
            pl_module: that it trains.
            call: the encoder's; ``None`` where it was not observed.
            shape: of one input.
            seed: of the examples and of all that is random.
            seconds: that reading may take; ``None`` to begin later.
        """
        if self.inputs is not None or self._steps is not None:
            return
        self.deferred = seconds is None
        if seconds is None:
            return
        try:
            own = None if shape is None else tuple(shape)
            read = read_views(trainer, pl_module, call, own, seed, seconds)
            self._reason = "nothing is random on the way that training reads an example"
            several = call is not None and (call.calls > 1 or (call.input is not None and call.input.listed))
            if len(read.views) > 1 or not several:
                self._keep(read, "views" if len(read.views) > 1 else "noise")
                return
        except (UnreadableError, NotReachedError, ValueError) as error:
            self._reason = f"examples cannot be read again: {error}"
        if call is not None:
            self._steps = StepViews(call)

    def begin_step(self, pl_module: LightningModule) -> None:
        """A training step begins."""
        if self._steps is not None:
            self._steps.begin(pl_module)

    def end_step(self, trainer: Trainer) -> bool:
        """A training step has ended; whether there are views now. Every process makes this call."""
        return self._steps is not None and trainer.strategy.broadcast(self._steps.end()) and self.end(trainer)

    def end(self, trainer: Trainer) -> bool:
        """Fall back to what was found so far; whether that is enough."""
        if self._steps is None:
            return False
        read = self._steps.found(trainer)
        self._steps.abandon()
        self._steps = None
        self._keep(read, "pairs" if len(read.views) > 1 else "noise")
        return self.inputs is not None

    def state(self) -> dict[str, Any] | None:
        """What is kept in checkpoints, in tensors and plain types."""
        return self._kept

    def restore(self, state: Any) -> None:
        """Go on with the views of an earlier run.

        Raises:
            ValueError: if it is not what :meth:`state` gives.
        """
        if not isinstance(state, Mapping):
            raise ValueError(f"its 'views' must be a mapping, got a {type(state).__name__}")
        views = [
            [Arguments(tuple(args), dict(kwargs), *whole) for args, kwargs, *whole in view] for view in state["views"]
        ]
        self._reason = str(state["reason"])
        self._keep(ReadViews(views, int(state["examples"]), str(state["random_in"])), state["kind"])

    def _keep(self, read: ReadViews, kind: str) -> None:
        number, views = read.examples, len(read.views)
        if number < FEWEST_INPUTS and all(input_leaf(chunk) is not None for chunk in read.views[0]):
            self.sentence = f"it is not measured: {number} examples were found, at least {FEWEST_INPUTS} are needed"
            self.sentence += f" ({self._reason})" if self._reason else ""
            return
        if kind == "noise":
            leaf = None if not read.views[0] else input_leaf(read.views[0][0])
            value = None if leaf is None or leaf.listed else at(read.views[0][0], leaf.path)
            if value is None or not (value.is_floating_point() or value.ndim > 2):
                self.sentence = f"it is not measured: {self._reason}, and no noise can be added to such inputs. {GIVE}"
                return
            self.inputs = value.float() if value.is_floating_point() else value
            self.sentence = (
                f"{number} training examples with white noise, since {self._reason}. Noise approximates nuisance "
                f"variation; it misleads where labels are not about what mostly varies. {GIVE}"
            )
        else:
            self.inputs = ChunkedViews("views" if kind == "views" else "pairs", read.views)
            how = f"each read {views} times (random in {read.random_in})"
            if kind == "pairs":
                how = f"in {views} views each, as training gave them to the encoder ({self._reason})"
            self.sentence = f"{number} training examples, {how}"
        self._write(read, kind)

    def _write(self, read: ReadViews, kind: str) -> None:
        parts = [[(chunk.args, chunk.kwargs, chunk.whole) for chunk in view] for view in read.views]
        size = sum(tensor.nbytes for tensor in tensors_in(parts))
        if is_plain(parts) and (size <= KEPT_BYTES or kind == "pairs"):
            self._kept = {
                "kind": kind, "views": parts, "examples": read.examples, "random_in": read.random_in,
                "reason": self._reason,
            }  # fmt: skip


GIVE = "Give `inputs` and `views`, your augmentations."
