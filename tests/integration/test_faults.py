"""What goes wrong in a probe costs that probe; faults are made in the encoder."""

from contextlib import suppress

import pytest
import torch

from synbench_lightning import SynBenchEarlyStopping, evaluate
from tests.callbacks.runs import SMALL, probing, steps, trainer
from tests.encoders import Autoencoder


def at(step, fault):
    """An encoder in which a fault happens in the probe after a step."""

    def encoder(module, x):
        features = module.encoder(x)
        return fault(features) if module.trainer.global_step == step else features

    return encoder


def out_of_memory(limit, calls):
    def encoder(module, x):
        calls.append(len(x))
        if len(x) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return module.encoder(x)

    return encoder


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_features_that_are_not_finite_cost_that_probe(value):
    callback = probing(encoder=at(10, lambda features: features * value))
    with pytest.warns(UserWarning, match=r"probe after step 10 failed.*features are NaN or infinite for 768 of 768"):
        trainer(callback, max_steps=20).fit(Autoencoder())
    assert steps(callback) == [0, 5, 15, 20]


def test_a_collapsed_encoder_is_a_result_and_said_once():
    def collapsed(module, x):
        return module.encoder(x) * (module.trainer.global_step < 10) + 1.0

    callback = probing(encoder=collapsed)
    with pytest.warns(UserWarning, match="representation has collapsed") as told:
        trainer(callback, max_steps=20).fit(Autoencoder())
    assert steps(callback) == [0, 5, 10, 15, 20]
    assert [result.score() for result in callback.history[2:]] == [0, 0, 0]
    assert sum("collapsed" in str(warning.message) for warning in told) == 1


@pytest.mark.filterwarnings("default")
def test_three_failures_in_a_row_end_the_probing_and_not_the_run():
    def encoder(module, x):
        if module.trainer.global_step >= 10:
            raise RuntimeError("broken")
        return module.encoder(x)

    callback = probing(encoder=encoder)
    run = trainer(callback, SynBenchEarlyStopping(patience=2, min_delta=1.0), max_steps=60)
    with pytest.warns(UserWarning, match="3 consecutive SynBench probes failed: no more are made") as told:
        run.fit(Autoencoder())
    assert steps(callback) == [0, 5]
    assert sum("is skipped" in str(warning.message) for warning in told) == 3
    assert run.global_step == 60


def test_failures_that_are_not_in_a_row_do_not_end_it():
    def encoder(module, x):
        if module.trainer.global_step in (5, 10, 20, 25, 35):
            raise RuntimeError("flaky")
        return module.encoder(x)

    callback = probing(encoder=encoder)
    with pytest.warns(UserWarning, match="is skipped"):
        trainer(callback, max_steps=40).fit(Autoencoder())
    assert steps(callback) == [0, 15, 30, 40]


@pytest.mark.parametrize("limit", [100, 1])
def test_out_of_memory_halves_the_batch_and_keeps_the_size(limit):
    calls = []
    callback = probing(every=10, encoder=out_of_memory(limit, calls))
    with pytest.warns(UserWarning, match="The probe ran out of memory: its batch size is now"):
        trainer(callback, max_steps=10).fit(Autoencoder())
    assert steps(callback) == [0, 10]
    too_large = [size for size in calls if size > limit]
    assert len(too_large) == len(set(too_large))  # each size is tried once, in the first probe
    assert max(calls[len(calls) // 2 :]) <= limit


def test_less_memory_gives_the_same_result():
    model = Autoencoder()
    plain = evaluate(model.encoder, (1, 8, 8), plan=SMALL)
    encoder = out_of_memory(50, [])

    class Holder:
        pass

    holder = Holder()
    holder.encoder = model.eval().encoder
    with pytest.warns(UserWarning, match="ran out of memory"), torch.no_grad():
        halved = evaluate(lambda x: encoder(holder, x), (1, 8, 8), plan=SMALL)
    torch.testing.assert_close(torch.tensor(halved.scores), torch.tensor(plain.scores), rtol=0, atol=1e-5)


def test_memory_that_does_not_suffice_for_one_example_is_an_error():
    with (
        pytest.raises(RuntimeError, match=r"failed on a batch of shape \(1, 1, 8, 8\): OutOfMemoryError"),
        pytest.warns(),
    ):
        trainer(probing(encoder=out_of_memory(0, []))).fit(Autoencoder())


def test_ctrl_c_in_a_probe_ends_like_anywhere_in_lightning():
    def encoder(module, x):
        if module.trainer.global_step == 10:
            raise KeyboardInterrupt
        return module.encoder(x)

    callback = probing(encoder=encoder)
    run = trainer(callback, max_steps=20)
    with suppress(SystemExit):  # which it raises since Lightning 2.5
        run.fit(Autoencoder())
    assert run.interrupted
    assert steps(callback) == [0, 5]
