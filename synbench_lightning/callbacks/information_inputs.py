"""The inputs that a run's information is measured on: given ones, or views of its own training examples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from synbench_lightning.callbacks.reread_views import READ_SECONDS
from synbench_lightning.callbacks.time_budget import TimeBudget
from synbench_lightning.callbacks.view_collection import ViewCollection
from synbench_lightning.checks import shown
from synbench_lightning.probe.probe import Probe
from synbench_lightning.runtime.encoder_call import EncoderCall
from synbench_lightning.runtime.input_leaf import num_examples
from synbench_lightning.runtime.lightning_packages import LightningModule, Trainer, rank_zero_info, rank_zero_warn


class InformationInputs:
    """Gives a probe the inputs for its information, now or once they are collected, and logs what they are.

    Args:
        given: the callback's argument ``inputs``.
        seed: of examples and views.
        prefix: of the logged keys.
        budget: counts the time of reading.
    """

    def __init__(self, given: Any, seed: int, prefix: str, budget: TimeBudget) -> None:
        self.given, self.prefix = given, prefix
        self.collection = ViewCollection(seed)
        self._budget = budget

    @property
    def collected(self) -> bool:
        """Whether they are collected from the run."""
        return isinstance(self.given, str)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restore the collected views from the state of an earlier run."""
        if self.collected and state.get("views") is not None:
            self.collection.restore(state["views"])

    def begin(
        self, trainer: Trainer, pl_module: LightningModule, call: EncoderCall | None, shape: tuple[int, ...] | None
    ) -> Any:
        """The inputs, the same on every process; ``None`` if there are none yet.

        Raises:
            ValueError: if given ones are of another kind of number than the encoder's input in training.
        """
        if not self.collected:
            _check_dtype(self.given, call)
            return self.given
        seconds = READ_SECONDS if self._budget.limit is None else None
        with self._budget.counted():
            self.collection.begin(trainer, pl_module, call, shape, seconds)
        return self.collection.inputs

    def read_deferred(
        self, trainer: Trainer, pl_module: LightningModule, call: EncoderCall | None, probe: Probe | None
    ) -> None:
        """Read views, whose reading `max_overhead` has deferred, once they take no more than what is allowed by now."""
        if not self.collection.deferred or (left := self._budget.left) is None:
            return
        allowed = trainer.strategy.broadcast(left)
        if allowed < self.collection.least_seconds:
            return
        shape = None if probe is None else probe.given_shape
        with self._budget.counted():
            self.collection.begin(trainer, pl_module, call, shape, min(allowed, READ_SECONDS))
        self.use(probe)

    def attach(self, probe: Probe) -> None:
        """Log what a new probe measures information on, and give it collected views once they are complete."""
        if self.collected:
            self.use(probe)
        elif probe.shown is not None:
            self._log(probe)
        elif self.given is None:
            rank_zero_info(
                "SynBench: the tasks do not depend on your data. `inputs='auto'`, or `labels=` of a few held-out "
                "inputs, rank checkpoints better."
            )

    def use(self, probe: Probe | None) -> None:
        """Measure information on the views that were collected, from the next probe on."""
        found = self.collection.inputs
        if probe is None or self.collection.collecting:
            return
        probe.shown = found
        if found is not None:
            self._log(probe)
        elif self.collection.sentence:
            rank_zero_info(f"SynBench: `{self.prefix}/information`: {self.collection.sentence.removesuffix('.')}.")

    def discard(self, probe: Probe, error: Exception) -> str:
        """Measure no information on collected views, since the encoder does not accept them; returns a warning."""
        reason = self.collection.discard(str(error))
        probe.shown = None
        if not probe.num_forwards:
            raise error
        return f"`{self.prefix}/information` is not measured on training examples: {reason}"

    def _log(self, probe: Probe) -> None:
        """Log what information is measured on, and where that may mislead."""
        used = probe.shown
        assert used is not None
        what = self.collection.sentence
        if not self.collected:
            what = {
                "views": f"{used.num_inputs} inputs in {used.draws} random views each, from `views`",
                "pairs": f"{used.num_inputs} inputs in {used.draws} views each, which were given",
                "noise": f"{used.num_inputs} inputs with white noise in {used.draws} draws each. Noise approximates "
                "nuisance variation; it misleads where labels are not about what mostly varies: give `views`, your "
                "augmentations",
            }[used.kind]
        rank_zero_info(f"SynBench: `{self.prefix}/information` is measured on {what.removesuffix('.')}.")
        for warning in probe.warnings:
            rank_zero_warn(warning)


def _check_dtype(inputs: Any, call: EncoderCall | None) -> None:
    if not isinstance(inputs, Tensor) or call is None or call.input is None or call.input.listed:
        return
    dtype = call.input.dtype
    if (inputs.is_floating_point(), inputs.is_complex()) == (dtype.is_floating_point, dtype.is_complex):
        return
    convert = "as training does"
    if dtype.is_floating_point and not inputs.is_complex():
        convert += " (for pictures of bytes, mostly `inputs.float() / 255` and a normalization)"
    raise ValueError(
        f"`inputs` are of {inputs.dtype}, but training gives the encoder {call.name!r} an input of {dtype}: convert "
        f"them {convert}."
    )


def check_inputs(inputs: Any, views: Any) -> None:
    """Check the arguments `inputs` and `views`, as far as that is possible before the encoder is known.

    Raises:
        ValueError: if they are invalid.
    """
    if isinstance(inputs, str) and inputs != "auto":
        raise ValueError(
            f"`inputs` must be 'auto', inputs as the encoder takes them, or None, got {inputs!r}"
            f"{': ' + repr('auto') + ' takes views from training steps too' if inputs == 'first_batch' else ''}."
        )
    usable = inputs is None or isinstance(inputs, (str, Tensor)) or num_examples(inputs) is not None
    if not usable and not (isinstance(inputs, (list, tuple)) and inputs):
        raise ValueError(
            f"`inputs` must be 'auto', a tensor (N, *input_shape), a structure of tensors, or None, got "
            f"{shown(inputs)}: `torch.as_tensor` makes a tensor of an array."
        )
    if views is not None and (inputs is None or isinstance(inputs, str) or not callable(views)):
        needed = "needs `inputs` of which views are drawn, a tensor or a structure of tensors"
        kind = (
            "must be a function from a batch of inputs to views of them, a tensor (N, V, *input_shape), a .pt or .npy "
            f"file of one, or None, got {shown(views)}"
        )
        raise ValueError(f"`views` {needed if callable(views) else kind}.")
