"""Evaluate an encoder outside training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from synbench_lightning.checks import check_device, shown
from synbench_lightning.probe.families import Task
from synbench_lightning.probe.labelled_inputs import Labels
from synbench_lightning.probe.plan import ProbePlan
from synbench_lightning.probe.probe import OFFICIAL_THRESHOLDS, Probe
from synbench_lightning.probe.proxy_samples import Normalize
from synbench_lightning.probe.result import ProbeResult
from synbench_lightning.probe.view_files import from_files
from synbench_lightning.probe.view_sampling import Views
from synbench_lightning.runtime.call_check import call_of_inputs
from synbench_lightning.runtime.collectives import Progress
from synbench_lightning.runtime.encoder_call import plain_call
from synbench_lightning.runtime.features import module_behind
from synbench_lightning.runtime.input_leaf import num_examples
from synbench_lightning.runtime.isolation import isolated
from synbench_lightning.runtime.layer_reading import LayerReader, LayerSpec, check_layers
from synbench_lightning.runtime.placements import Proxy
from synbench_lightning.runtime.seeded_calls import modules_reached
from synbench_lightning.runtime.structures import mapped, moved, taken


def evaluate(
    encoder: Callable[[Tensor], Any],
    input_shape: Sequence[int] | None = None,
    *,
    tasks: str | Sequence[Task] = "dc",
    plan: ProbePlan | str = "fast",
    epsilons: Sequence[float] = (0.0, 0.2),
    thresholds: Sequence[float] = OFFICIAL_THRESHOLDS,
    batch_size: int = 256,  # mutants: memory and time alone
    normalize: Normalize | None = None,
    inputs: Any = None,
    views: Views | Tensor | str | None = None,
    labels: Labels | None = None,
    layers: LayerSpec = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> ProbeResult:
    """Compute the SynBench score of an encoder, and its information and readout, outside training.

    A module, also one that a function calls, is run in evaluation mode without gradients, and its state is restored
    afterwards.

    Args:
        encoder: a module or callable from ``(N, *input_shape)`` to features: ``(N, D)``, tokens ``(N, T, D)``, maps
            ``(N, C, ...)``, or an object, dict or list of these. Another channel axis, as in ``(N, H, W, C)``, is
            inferred from the module's layers and the shapes; ambiguous cases are logged.
        input_shape: shape of one example, without the batch dimension. ``None``: that of ``inputs``; if these are
            token ids, that of the output of the first embedding, which the Gaussian examples then replace.
        tasks: ``"dc"`` (the paper's task), ``"default"`` or another family (:func:`task_family`), or a sequence of
            :class:`GaussianTask` and :class:`LabelledTask`.
        plan: ``"fast"``, ``"official"`` or a :class:`ProbePlan`.
        epsilons: strengths of the shift that the discriminant is robust to, each in [0, 1), relative to half the
            distance of the class means in the representation.
        thresholds: threshold accuracies for :attr:`ProbeResult.scores`, each in [0.5, 1).
        batch_size: examples per forward.
        normalize: mean and standard deviation, numbers or one per channel (the first dimension of an input): the
            encoder then receives ``(x + 0.5 - mean) / std``, as in the paper.
        inputs: ``(N, *input_shape)`` unlabeled inputs as the encoder takes them, at least 32, of which the first 128
            are encoded with noise for :attr:`ProbeResult.information`; or ``(N, V, *input_shape)``, V views of each,
            of which as many are encoded as 2,048 forwards allow.
        views: a function from a batch of inputs ``(N, *input_shape)``, on the CPU, to a random view of each, such as
            the pretraining augmentations. It replaces the noise and is called 16 times or more, each time with its own
            seed; it may sample once per batch or once per example. For a transform of single examples:
            ``lambda batch: torch.stack([transform(x) for x in batch])``. Or a tensor ``(N, V, *input_shape)`` of V
            views of each input, or a ``.pt`` or ``.npy`` file that contains one (:func:`save_views`): compare encoders
            with one set of views, whatever each was trained with.
        labels: a few labels for :attr:`ProbeResult.readout`: integers ``(N,)``, those of ``inputs``, or a pair
            (x, y) of labeled inputs and their labels; at least 20, of which the first 512 are encoded. They must be of
            examples that the encoder was not trained on, and may be as noisy as the training labels.
        layers: ``"auto"`` (the stages or blocks of the encoder, at most twelve) or dotted names of its modules, which
            are measured in the same forwards, see :attr:`ProbeResult.layers`. Needs ``inputs`` or ``labels``.
        seed: seed of noise and views; with the same seed, every encoder is given the same examples.
        device: where to sample the examples; ``None`` for the device of the module's parameters.
        progress: called from time to time with the number of finished examples and their total.

    Returns:
        The result for all tasks, epsilons and scales.

    Raises:
        ValueError: for an argument outside its range, or features that are NaN or infinite.
        TypeError: for an encoder that returns something other than features.
        RuntimeError: if the encoder raises.

    Example:
        >>> result = evaluate(torch.nn.Flatten(), (1, 4, 4))  # lossless
        >>> 0.97 < result.score() < 1.03
        True
    """
    inputs, random_views = from_files(inputs, views)
    if not callable(encoder) or isinstance(encoder, type):
        raise ValueError(f"`encoder` must be a module or a function from a batch to features, got {shown(encoder)}.")
    module = module_behind(encoder)
    parameter = None if module is None else next((p for p in module.parameters() if p.is_floating_point()), None)
    home = torch.device("cpu") if parameter is None else parameter.device
    chosen = home if device is None else check_device(device)
    if progress is not None and not callable(progress):
        raise ValueError(f"`progress` must be a function of two numbers or None, got {shown(progress)}.")
    if parameter is not None and chosen.type != home.type:
        raise ValueError(
            f"`device` is {chosen}, but the encoder's parameters are on {home}: move it with `.to()` first."
        )
    reader = None
    if check_layers(layers) is not None:
        if module is None:
            raise ValueError("`layers` needs an encoder that is a module or a method of one, got a function.")
        if inputs is None and labels is None:
            raise ValueError(
                "`layers` needs `inputs` (with `views`, if there are any) or `labels` to compare layers by."
            )
        reader = LayerReader(module, layers)
    dtype = torch.float32 if parameter is None else parameter.dtype
    call = None
    if inputs is not None and input_shape is None:
        with isolated(module, modules_reached(encoder)):
            call = call_of_inputs(encoder, module, moved(_first_batch(inputs, batch_size), chosen))
        input_shape = None if call.placement is None else call.placement.shape
    elif input_shape is None:
        raise ValueError(
            "`input_shape` must be the shape of one example, such as (3, 224, 224), if no `inputs` are given."
        )
    probe = Probe(
        tasks, plan, input_shape, epsilons=epsilons, thresholds=thresholds, batch_size=batch_size, normalize=normalize,
        inputs=inputs, views=random_views, labels=labels, seed=seed, device=chosen, module=module, call=call,
        layers=reader,
    )  # fmt: skip

    def forward(x: Any) -> Any:
        x = x._replace(values=x.values.to(dtype)) if isinstance(x, Proxy) else _in_precision(x, dtype)
        return plain_call(encoder, x) if call is None else call(encoder, module, x)

    for warning in probe.warnings:
        warnings.warn(warning, stacklevel=2)
    with isolated(module, modules_reached(encoder)):
        return probe(forward, progress=progress)


def _first_batch(inputs: Any, batch_size: int) -> Any:
    """Some of the inputs, to find out how the encoder takes them."""
    rows = num_examples(inputs)
    if rows is None:
        return inputs[0] if isinstance(inputs, (list, tuple)) and inputs else inputs
    return taken(inputs, torch.arange(min(rows, batch_size, 32)), rows)


def _in_precision(x: Any, dtype: torch.dtype) -> Any:
    return mapped(x, lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf)
