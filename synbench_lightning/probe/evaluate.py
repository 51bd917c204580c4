"""The score of an encoder outside training."""

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
from synbench_lightning.runtime.encoder_call import Proxy, plain_call
from synbench_lightning.runtime.features import module_behind
from synbench_lightning.runtime.input_leaf import num_examples
from synbench_lightning.runtime.isolation import isolated
from synbench_lightning.runtime.layer_reading import LayerReader, LayerSpec, check_layers
from synbench_lightning.runtime.structures import mapped, moved, taken


def evaluate(
    encoder: Callable[[Tensor], Any],
    input_shape: Sequence[int] | None = None,
    *,
    tasks: str | Sequence[Task] = "dc",
    plan: ProbePlan | str = "fast",
    epsilons: Sequence[float] = (0.0, 0.2),
    thresholds: Sequence[float] = OFFICIAL_THRESHOLDS,
    batch_size: int = 256,
    normalize: Normalize | None = None,
    inputs: Any = None,
    views: Views | Tensor | str | None = None,
    labels: Labels | None = None,
    layers: LayerSpec = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> ProbeResult:
    """The SynBench score of an encoder, outside training.

    A module is run in evaluation mode and without gradients, and left as it was.

    Args:
        encoder: a module or callable from ``(N, *input_shape)`` to features: ``(N, D)``, tokens ``(N, T, D)``, maps
            ``(N, C, ...)``, or an object, dict or list of these. Channels that are elsewhere, as in ``(N, H, W, C)``,
            are found from the module's layers and the shapes; the log says where another reading is possible.
        input_shape: shape of one example, without the batch dimension. ``None``: that of ``inputs``, and where these
            are token ids, that of what the first embedding makes of them, in whose place the Gaussian examples are put.
        tasks: ``"dc"`` (the paper's task), ``"default"`` or another family (:func:`task_family`), or a sequence of
            :class:`GaussianTask` and :class:`LabelledTask`.
        plan: ``"fast"``, ``"official"`` or a :class:`ProbePlan`.
        epsilons: strengths of the shift that the discriminant is robust to, each in [0, 1), relative to half the
            distance of the class means in the representation.
        thresholds: threshold accuracies for :attr:`ProbeResult.scores`, each in [0.5, 1).
        batch_size: examples in one forward.
        normalize: mean and standard deviation, numbers or one per channel (the first dimension of an input): the
            encoder then sees ``(x + 0.5 - mean) / std``, as in the paper.
        inputs: ``(N, *input_shape)`` unlabelled inputs as the encoder takes them, at least 32, of which the first 128
            are shown with noise for :attr:`ProbeResult.information`; or ``(N, V, *input_shape)``, V views of each, of
            which as many are shown as 2,048 forwards allow.
        views: a function from a batch of inputs ``(N, *input_shape)``, on the CPU, to a random view of each, such as
            the augmentations of the pretraining. It takes the place of noise, and is called once for each of 16 draws
            or more with a seed of its own: whether it draws for a batch or for each example does not matter. For a
            transform of single examples: ``lambda batch: torch.stack([transform(x) for x in batch])``. Or a tensor
            ``(N, V, *input_shape)`` of V views of each input, or a ``.pt`` or ``.npy`` file that holds one
            (:func:`save_views`): encoders are compared with one set of views, whatever each was trained with.
        labels: a few labels for :attr:`ProbeResult.readout`: integers ``(N,)``, those of ``inputs``, or a pair
            (x, y) of labelled inputs and their labels; at least 20, of which the first 512 are shown. They must be of
            examples that the encoder was not trained on, and may be wrong as often as those of the training.
        layers: ``"auto"`` (the stages or blocks of the encoder, at most twelve) or dotted names of its modules: what
            the same forwards find in each of them goes to :attr:`ProbeResult.layers`. Needs ``inputs`` or ``labels``.
        seed: of noise and views; the same seed shows every encoder the same examples.
        device: where to draw the examples; ``None`` for where the module's parameters are.
        progress: called now and then with the number of examples done and their total.

    Returns:
        The result for all tasks, epsilons and scales.

    Raises:
        ValueError: for an argument outside its range, or features that are NaN or infinite.
        TypeError: for an encoder that returns something else than features.
        RuntimeError: if the encoder raises.

    Example:
        >>> result = evaluate(torch.nn.Flatten(), (1, 4, 4))  # nothing is lost
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
                "`layers` needs `inputs`, with `views` where there are any, or `labels` to compare them by."
            )
        reader = LayerReader(module, layers)
    dtype = torch.float32 if parameter is None else parameter.dtype
    call = None
    if inputs is not None and input_shape is None:
        with isolated(module):
            call = call_of_inputs(encoder, module, moved(_first_batch(inputs, batch_size), chosen))
        input_shape = None if call.placement is None else call.placement.shape
    elif input_shape is None:
        raise ValueError(
            "`input_shape` must be the shape of one example, as (3, 224, 224), where no `inputs` are given."
        )
    probe = Probe(
        tasks, plan, input_shape, epsilons=epsilons, thresholds=thresholds, batch_size=batch_size, normalize=normalize,
        inputs=inputs, views=random_views, labels=labels, seed=seed, device=chosen, module=module, call=call,
        layers=reader,
    )  # fmt: skip

    def forward(x: Any) -> Any:
        x = x._replace(values=x.values.to(dtype)) if isinstance(x, Proxy) else _in_precision(x, dtype)
        return plain_call(encoder, x) if call is None else call(encoder, module, x)

    if not probe.num_forwards:
        raise ValueError(
            "The encoder has no place for the real vectors of Gaussian tasks, so it has no score: give `inputs` with "
            "`views`, or `labels`."
        )
    for warning in probe.warnings:
        warnings.warn(warning, stacklevel=2)
    with isolated(module):
        return probe(forward, progress=progress)


def _first_batch(inputs: Any, batch_size: int) -> Any:
    """Some of the inputs, to see how the encoder takes them."""
    rows = num_examples(inputs)
    if rows is None:
        return inputs[0] if isinstance(inputs, (list, tuple)) and inputs else inputs
    return taken(inputs, torch.arange(min(rows, batch_size, 32)), rows)


def _in_precision(x: Any, dtype: torch.dtype) -> Any:
    return mapped(x, lambda leaf: leaf.to(dtype) if leaf.is_floating_point() else leaf)
