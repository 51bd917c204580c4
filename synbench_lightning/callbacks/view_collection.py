"""Collect views of the run's own examples: select their source, and save them in checkpoints."""

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

KEPT_BYTES = 2**25  # mutants: memory and time alone
"""Checkpoints contain views up to this size; larger ones are read again in a resumed run."""
LEAST_SECONDS = 1.0  # mutants: memory and time alone
GIVE = "Give `inputs` and `views`, your augmentations."
ONE_LENGTH = (
    "Each text is encoded in four parts, which are shorter than the rows in training. If the encoder requires a fixed "
    "length, pad them in its `forward`."
)


class ViewCollection:
    """Views for measuring information with ``inputs="auto"``: the most realistic nuisance that the run itself offers.

    In this order of preference: training examples that are read several times; two views that a training step feeds to
    the encoder; one view of each example, to which noise is added. The first process decides, and all use the same.

    Args:
        seed: of the examples and all randomness.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.inputs: ViewedInputs | None = None
        """The inputs of a probe; ``None`` until they are complete, and if there are none."""
        self.sentence = ""
        """A description of them for the log, or the reason why there are none."""
        self.deferred = False
        self.least_seconds = LEAST_SECONDS
        """Seconds: if less is allowed, reading is deferred."""
        self._steps: StepViews | None = None
        self._reason = ""
        self._kept: dict[str, Any] | None = None
        self._restored: dict[str, Any] | None = None
        self._device = torch.device("cpu")
        self._parts = False

    @property
    def collecting(self) -> bool:
        """Whether collection is still in progress or deferred."""
        return self.deferred or self._steps is not None

    def release(self) -> None:
        """Stop collecting."""
        if self._steps is not None:
            self._steps.abandon()
        self._steps, self.deferred = None, False

    def discard(self, reason: str) -> str:
        """Discard the views for a reason; return the reason, with advice if texts were split."""
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
        """Read examples, or start collecting the encoder's inputs in training steps, unless this run has views already.

        Args:
            trainer: in a fit.
            pl_module: that it trains.
            call: the encoder's; ``None`` where it was not observed.
            shape: of one input.
            seconds: time limit for reading; ``None`` to defer it.
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
            self._reason = "training reads an example without any randomness"
            several = call is not None and (call.calls > 1 or (call.input is not None and call.input.listed))
            if len(read.views) > 1 or not several:
                self._keep(read, "views" if len(read.views) > 1 else "noise")
                return
        except ExpensiveError as error:
            if seconds < READ_SECONDS:  # more is allowed later
                self.deferred, self._restored, self.least_seconds = True, restored, 2 * seconds
                return
            self._reason = f"examples cannot be read again: {error}"
        except Exception as error:  # anything that the user's data and steps may raise: it must not end the run
            self._reason = f"examples cannot be read again: {error}"
        if call is not None:
            self._steps = StepViews(call, self.seed)
        else:
            self.sentence = f"it is not measured: {self._reason}. {GIVE}"

    def begin_step(self, pl_module: LightningModule) -> None:
        """Start a training step."""
        if self._steps is not None:
            self._steps.begin(pl_module)

    def end_step(self, trainer: Trainer, pl_module: LightningModule, batch: Any) -> bool:
        """End a training step; return whether collection was completed. Every process makes this call."""
        if self._steps is None:
            return False
        enough: bool = trainer.strategy.broadcast(self._steps.end(trainer, pl_module, batch))
        return enough and self.end(trainer)

    def end(self, trainer: Trainer) -> bool:
        """Use the views collected so far; return whether collection was completed."""
        if self._steps is None:
            return False
        read = self._steps.found(trainer)
        self._steps.abandon()
        self._steps = None
        self._keep(read, "pairs" if len(read.views) > 1 else "noise")
        return True

    def state(self) -> dict[str, Any] | None:
        """The state for checkpoints, in tensors and plain types."""
        return self._kept or self._restored

    def restore(self, state: Any) -> None:
        """Restore the views of an earlier run.

        Raises:
            ValueError: if the state is invalid.
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
        # With masked, deleted or shuffled tokens, both views share the remaining ones, and information decreases while
        # a text representation improves: see `examples/text_study.py`.
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
            how += " (assuming one text per row)"
            how += f", since {self._reason}" if kind == "noise" else ""
            how += f". With fewer than {MOST_TEXTS} texts the estimate is unreliable" if number < MOST_TEXTS else ""
        elif kind == "pairs":
            how = f" in {views} views each, as training fed them to the encoder ({self._reason})"
        elif kind == "noise":
            how = (
                f" with white noise, since {self._reason}. Noise only approximates nuisance variation; "
                f"information misleads if the labels do not depend on the main variation of the inputs. {GIVE}"
            )
        self.sentence = f"{number} training examples{how}"
        self._write(read, kind)

    def _with_noise(self, read: ReadViews) -> ViewedInputs | None:
        """Inputs with noise added; ``None`` for inputs that cannot have any."""
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
