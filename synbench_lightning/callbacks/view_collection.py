"""Views of the run's own examples: which source of them is used, and what is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from synbench_lightning.callbacks.reread_views import READ_SECONDS, ReadingPlan, ReadViews, read_views
from synbench_lightning.callbacks.step_views import StepViews
from synbench_lightning.probe.chunked_views import ChunkedViews
from synbench_lightning.probe.text_views import MOST_TEXTS, is_text, viewed_texts
from synbench_lightning.probe.view_sampling import FEWEST_INPUTS
from synbench_lightning.probe.views import ViewedInputs, viewed_inputs
from synbench_lightning.runtime.encoder_call import EncoderCall
from synbench_lightning.runtime.example_reading import ExpensiveError
from synbench_lightning.runtime.input_leaf import input_leaf
from synbench_lightning.runtime.lightning_packages import LightningModule, Trainer
from synbench_lightning.runtime.structures import Arguments, at, is_plain, tensors_in

KEPT_BYTES = 2**25
"""Views that were read are in checkpoints up to this size; larger ones are read again in a resumed run."""
LEAST_SECONDS = 1.0
GIVE = "Give `inputs` and `views`, your augmentations."
ONE_LENGTH = (
    "Texts are encoded in four parts each, which are shorter than training's rows: where the encoder takes one length "
    "only, let its `forward` pad them."
)


class ViewCollection:
    """What information is measured on with ``inputs="auto"``: the best knowledge of nuisance that the run itself has.

    In this order: training examples that are read several times; two views that a training step gives the encoder;
    one view of each example, to which noise is added. The first process decides, and all have the same.

    Args:
        seed: of the examples, and of all that is random.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.inputs: ViewedInputs | None = None
        """What is given to a probe; ``None`` before it is complete, and where there is nothing."""
        self.sentence = ""
        """What it is, in the log; why there is none."""
        self.deferred = False
        self.least_seconds = LEAST_SECONDS
        """Where less is allowed, examples are not read yet."""
        self._steps: StepViews | None = None
        self._reason = ""
        self._kept: dict[str, Any] | None = None
        self._restored: dict[str, Any] | None = None
        self._device = torch.device("cpu")
        self._parts = False

    @property
    def collecting(self) -> bool:
        """Whether views are still to come."""
        return self.deferred or self._steps is not None

    def release(self) -> None:
        """See nothing further."""
        if self._steps is not None:
            self._steps.abandon()
        self._steps, self.deferred = None, False

    def discard(self, reason: str) -> str:
        """Measure nothing on what was found, for a reason; the reason, with what can be done where texts are cut."""
        if self._parts:
            reason = f"{reason.removesuffix('.')}. {ONE_LENGTH}"
        self.inputs, self._kept, self.sentence = None, None, f"it is not measured: {reason}"
        return reason

    def begin(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        call: EncoderCall | None,
        shape: Sequence[int] | None,
        seconds: float | None = READ_SECONDS,
    ) -> None:
        """Read examples, or begin to collect what steps give the encoder, where nothing was found yet in this run.

        Args:
            trainer: in a fit.
            pl_module: that it trains.
            call: the encoder's; ``None`` where it was not observed.
            shape: of one input.
            seconds: that reading may take; ``None`` to begin later.
        """
        self._device = trainer.strategy.root_device
        if self._restored is not None and "views" in self._restored:
            self._keep(_views_of(self._restored), self._restored["kind"])
            self._restored = None
        if self.inputs is not None or self._steps is not None:
            return
        self.deferred = seconds is None
        if seconds is None:
            return
        restored, self._restored = self._restored, None
        plan = None if restored is None else ReadingPlan(*restored["plan"])
        try:
            own = None if shape is None else tuple(shape)
            read = read_views(trainer, pl_module, call, own, self.seed, seconds, plan)
            self._reason = "nothing is random on the way that training reads an example"
            several = call is not None and (call.calls > 1 or (call.input is not None and call.input.listed))
            if len(read.views) > 1 or not several:
                self._keep(read, "views" if len(read.views) > 1 else "noise")
                return
        except ExpensiveError as error:
            if seconds < READ_SECONDS:  # more is allowed later
                self.deferred, self._restored, self.least_seconds = True, restored, 2 * seconds
                return
            self._reason = f"examples cannot be read again: {error}"
        except Exception as error:  # whatever the user's data and steps may raise: it ends no run
            self._reason = f"examples cannot be read again: {error}"
        if call is not None:
            self._steps = StepViews(call, self.seed)
        else:
            self.sentence = f"it is not measured: {self._reason}. {GIVE}"

    def begin_step(self, pl_module: LightningModule) -> None:
        """A training step begins."""
        if self._steps is not None:
            self._steps.begin(pl_module)

    def end_step(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> bool:
        """A training step has ended; whether something was decided. Every process makes this call."""
        if self._steps is None:
            return False
        enough: bool = trainer.strategy.broadcast(self._steps.end(trainer, pl_module, batch))
        return enough and self.end(trainer)

    def end(self, trainer: Trainer) -> bool:
        """Fall back to what was found so far; whether something was decided."""
        if self._steps is None:
            return False
        read = self._steps.found(trainer)
        self._steps.abandon()
        self._steps = None
        self._keep(read, "pairs" if len(read.views) > 1 else "noise")
        return True

    def state(self) -> dict[str, Any] | None:
        """What is kept in checkpoints, in tensors and plain types."""
        return self._kept or self._restored

    def restore(self, state: Any) -> None:
        """Go on with the views of an earlier run.

        Raises:
            ValueError: if it is not what :meth:`state` gives.
        """
        try:
            self._reason = str(state["reason"])
            if "views" in state:
                _views_of(state)
            else:
                ReadingPlan(*state["plan"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"its 'views' cannot be read ({type(error).__name__}: {error})") from error
        self._restored = dict(state)

    def _keep(self, read: ReadViews, kind: str) -> None:
        number, views = read.examples, len(read.views)
        if number < FEWEST_INPUTS and all(input_leaf(chunk) is not None for chunk in read.views[0]):
            self.sentence = f"it is not measured: {number} examples were found, at least {FEWEST_INPUTS} are needed"
            self.sentence += f" ({self._reason})" if self._reason else ""
            return
        # Masked, deleted or shuffled tokens leave others in both views, and information under them falls while a
        # representation of texts improves: see `examples/text_study.py`.
        texts = (kind == "noise" or read.random_in != "") and is_text(read.views[0][0])
        try:
            self._parts = texts
            if texts:
                read = read._replace(views=read.views[:1])
                self.inputs = viewed_texts(read.views[0])
            elif kind == "noise":
                self.inputs = self._with_noise(read)
            else:
                self.inputs = ChunkedViews("views" if kind == "views" else "pairs", read.views)
        except ValueError as error:
            self.sentence = f"it is not measured on {number} training examples: {error}"
            return
        if self.inputs is None:
            self.sentence = f"it is not measured: {self._reason}, and no noise can be added to such inputs. {GIVE}"
            return
        how = f", each read {views} times (random in {read.random_in})"
        if texts:
            number, how = self.inputs.num_inputs, f" in {self.inputs.draws} parts each, which share no token"
            how += " (a row is taken for one text)"
            how += f", since {self._reason}" if kind == "noise" else ""
            how += f". Fewer than {MOST_TEXTS} texts are too few to rely on it" if number < MOST_TEXTS else ""
        elif kind == "pairs":
            how = f" in {views} views each, as training gave them to the encoder ({self._reason})"
        elif kind == "noise":
            how = (
                f" with white noise, since {self._reason}. Noise approximates nuisance variation; it misleads where "
                f"labels are not about what mostly varies. {GIVE}"
            )
        self.sentence = f"{number} training examples{how}"
        self._write(read, kind)

    def _with_noise(self, read: ReadViews) -> ViewedInputs | None:
        """Inputs to which noise is added; ``None`` where it cannot be."""
        if len(read.views[0]) != 1 or (leaf := input_leaf(read.views[0][0])) is None or leaf.listed:
            return None
        value: Tensor = at(read.views[0][0], leaf.path)
        if not (value.is_floating_point() or value.ndim > 2) or value.is_complex():
            return None
        value = value.float() if value.is_floating_point() else value
        return viewed_inputs(value, None, leaf.shape, self.seed, self._device)

    def _write(self, read: ReadViews, kind: str) -> None:
        parts = [[(chunk.args, chunk.kwargs, chunk.whole) for chunk in view] for view in read.views]
        size = sum(tensor.nbytes for tensor in tensors_in(parts))
        own = {"kind": kind, "examples": read.examples, "random_in": read.random_in, "reason": self._reason}
        if is_plain(parts) and (size <= KEPT_BYTES or kind == "pairs" or read.plan is None):
            self._kept = {**own, "views": parts}
        elif read.plan is not None and is_plain(list(read.plan)):
            self._kept = {**own, "plan": list(read.plan)}


def _views_of(state: Mapping[str, Any]) -> ReadViews:
    views = [[Arguments(tuple(args), dict(kwargs), *whole) for args, kwargs, *whole in view] for view in state["views"]]
    return ReadViews(views, int(state["examples"]), str(state["random_in"]))
