"""With and without the callback, from one seed: the same weights, optimizer state and data order, to the bit."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import callbacks as lightning_callbacks
from lightning.pytorch import seed_everything

from tests.callbacks.runs import probing, steps, trainer
from tests.integration import modules

STEPS = 60


def outcome(make: type[modules.Plain], callbacks: list[Any], **arguments: Any) -> dict[str, Any]:
    """Everything that training left behind."""
    seed_everything(0)
    model = make()
    run = trainer(*callbacks, max_steps=STEPS, **arguments)
    run.fit(model)
    return {
        "weights": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in run.optimizers],
        "data": model.seen,
        "modes": [module.training for module in model.modules()],
        "graphs": getattr(model, "graphs", 0),
        "random": (random.random(), float(np.random.rand()), float(torch.rand(()))),
    }


def assert_identical(one: Any, other: Any) -> None:
    if isinstance(one, torch.Tensor):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_identical(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_identical(left, right)
    else:
        assert one == other


def ema() -> list[Any]:
    return [lightning_callbacks.EMAWeightAveraging(decay=0.9)]


ROWS: dict[str, tuple[type[modules.Plain], dict[str, Any]]] = {
    "dropout and BatchNorm": (modules.Plain, {}),
    "frozen BatchNorm and layers": (modules.FrozenParts, {}),
    "shuffling with workers": (modules.Workers, {}),
    "augmentation in the step": (modules.RandomAugmentation, {}),
    "state in containers": (modules.Containers, {}),
    "parameters that a forward writes": (modules.Written, {}),
    "gradient accumulation": (modules.Plain, {"accumulate_grad_batches": 3}),
    "two optimizers by hand": (modules.TwoOptimizers, {}),
    "EMA teacher": (modules.Teacher, {}),
    "WeightAveraging": (modules.Plain, {"averaging": True}),
    "bf16-mixed": (modules.Plain, {"precision": "bf16-mixed"}),
    "bf16-true": (modules.Plain, {"precision": "bf16-true"}),
    "64-true": (modules.Plain, {"precision": "64-true"}),
    "compiled encoder": (modules.Compiled, {}),
    "gradient checkpointing": (modules.Checkpointed, {}),
    "forward hooks": (modules.Hooked, {}),
    "lazy modules": (modules.Lazy, {}),
    "queue in a buffer": (modules.Queue, {}),
    "state that is no buffer": (modules.PlainState, {}),
    "pruning": (modules.Pruned, {}),
    "gradient clipping": (modules.Plain, {"gradient_clip_val": 0.1}),
}


@pytest.mark.filterwarnings("ignore:Probes measure the weights in training")
@pytest.mark.parametrize("row", ROWS)
def test_training_is_the_same_to_the_bit(row):
    make, arguments = ROWS[row]
    if arguments.get("averaging") and not hasattr(lightning_callbacks, "EMAWeightAveraging"):
        pytest.skip("since Lightning 2.6")
    averaging = ema if arguments.get("averaging") else list
    rest = {key: value for key, value in arguments.items() if key != "averaging"}
    callback = probing(every=7, inputs="auto")
    plain, probed = outcome(make, averaging(), **rest), outcome(make, [*averaging(), callback], **rest)
    assert steps(callback)[:2] in ([0, 7], [0, 8])  # two optimizers pass seven at eight
    assert_identical(plain, probed)


@pytest.mark.filterwarnings("ignore:No optimizer step was counted")
def test_training_is_the_same_to_the_bit_where_the_first_probe_is_made_in_a_backward_pass():
    callback = probing(every=7)
    plain, probed = (outcome(modules.InBackward, one, max_epochs=5) for one in ([], [callback]))
    assert steps(callback) == [0, 50, 56, 60]
    assert_identical(plain, probed)


INPUTS = torch.randn(40, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:Probes measure the weights in training")
@pytest.mark.parametrize("row", ROWS)
def test_training_is_the_same_to_the_bit_where_layers_are_read(row):
    make, arguments = ROWS[row]
    averaging = ema if arguments.get("averaging") else list
    rest = {key: value for key, value in arguments.items() if key != "averaging"}
    callback = probing(every=7, inputs=INPUTS, views=lambda x: x + torch.randn_like(x))
    plain, probed = outcome(make, averaging(), **rest), outcome(make, [*averaging(), callback], **rest)
    assert all(len(result.layers) > 1 for result in callback.history)
    assert_identical(plain, probed)


@pytest.mark.parametrize("where", ["encoder", "features"])
def test_training_is_the_same_to_the_bit_also_where_probes_fail(where):
    def failing(module, x):
        torch.rand(3), np.random.rand(), random.random()
        module.encoder(x)
        if module.trainer.global_step in (14, 28) and where == "encoder":
            raise RuntimeError("out of luck")
        return module.encoder(x) * (float("nan") if module.trainer.global_step in (14, 28) else 1.0)

    callback = probing(every=7, encoder=failing)
    plain = outcome(modules.Hooked, [])
    with pytest.warns(UserWarning, match="is skipped"):
        probed = outcome(modules.Hooked, [callback])
    assert steps(callback) == [0, 7, 21, 35, 42, 49, 56, 60]
    assert_identical(plain, probed)


def test_two_probing_callbacks_and_several_batch_sizes_change_nothing():
    plain = outcome(modules.RandomAugmentation, [])
    both = [probing(every=5, batch_size=100), probing(every=9, prefix="other", tasks="dc")]
    assert_identical(plain, outcome(modules.RandomAugmentation, both))
