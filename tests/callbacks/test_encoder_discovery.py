"""No argument given: the encoder and what it takes are those of the first training step."""

import pytest
import torch
from lightning.pytorch import seed_everything
from torch.utils.data import DataLoader

from synbench_lightning import evaluate
from tests.callbacks.runs import SMALL, probing, steps, trainer
from tests.integration import user_inputs, user_modules, user_pipelines, user_wrappers
from tests.integration.test_training_unchanged import assert_identical

KINDS = [*user_modules.KINDS, *user_wrappers.KINDS, *user_pipelines.KINDS, *user_inputs.KINDS]
quiet = pytest.mark.filterwarnings("ignore:torch.utils.checkpoint:UserWarning", "ignore:.*[Ll]azy")


def fit(make, *callbacks, **arguments):
    seed_everything(0)
    model = make()
    run = trainer(*callbacks, **{"max_steps": 6, **arguments})
    run.fit(model)
    return model, run


@quiet
@pytest.mark.parametrize("make", KINDS, ids=lambda make: make.__name__)
def test_a_run_without_arguments_takes_what_training_takes_and_changes_nothing(make, caplog):
    plain, its_run = fit(make)
    callback = probing(every=4, tasks="dc", inputs="auto")
    with caplog.at_level("INFO"):
        probed, run = fit(make, callback)
    assert steps(callback)[0] == 0
    assert {result.input_shape for result in callback.history} == {make.shape}
    said = next(record.message for record in caplog.records if "SynBench probes" in record.message)
    name = f"`{make.path}`, a" if make.path else "the `forward` of "
    assert said.startswith(f"SynBench probes {name}")
    assert make.inside in said
    assert make.inside or " its head " not in said
    assert_identical(plain.state_dict(), probed.state_dict())
    assert_identical([o.state_dict() for o in its_run.optimizers], [o.state_dict() for o in run.optimizers])
    assert getattr(plain, "graphs", 0) == getattr(probed, "graphs", 0)
    hooks = [[len(part._forward_hooks) for part in model.modules()] for model in (plain, probed)]
    assert hooks[0] == hooks[1]


def test_the_probe_of_step_0_is_that_of_the_weights_and_statistics_before_the_first_step():
    seed_everything(0)
    before = evaluate(user_modules.Net().net, (1, 8, 8), plan=SMALL)
    for arguments in ({}, {"accumulate_grad_batches": 3}):
        callback = probing(tasks="dc")
        fit(user_modules.Net, callback, **arguments)
        assert callback.history[0].accuracy == before.accuracy


def test_the_others_that_training_calls_are_named(caplog):
    with caplog.at_level("INFO"):
        fit(user_modules.BYOL, probing())
    [said] = [record.message for record in caplog.records if "training also calls" in record.message]
    assert said.startswith("SynBench: training also calls `target_encoder`. To probe another module")


def test_where_two_parts_of_a_model_may_be_the_representation_both_are_named(caplog):
    with caplog.at_level("INFO"):
        fit(user_wrappers.UNet, probing())
    [said] = [record.message for record in caplog.records if "training also calls" in record.message]
    assert "`unet` (all outputs), `unet.up`, `unet.down`. To probe another module" in said


def test_an_encoder_without_gradients_is_told(caplog):
    with caplog.at_level("INFO"):
        fit(user_pipelines.MethodOfACompiledInPlace, probing())
    assert "`backbone` receives no gradients in training, and neither does any other candidate" in caplog.text


@pytest.mark.parametrize("make", [user_pipelines.ReplacedBeforeTheStep, user_pipelines.WrappedInTheStep])
def test_where_the_first_step_replaces_modules_the_second_is_looked_at(make, caplog):
    plain, _ = fit(make)
    callback = probing(every=2, tasks="dc")
    with caplog.at_level("INFO"):
        probed, _ = fit(make, callback)
    assert steps(callback) == [1, 2, 4, 6]
    assert f"SynBench probes `{make.path}`, a Sequential" in caplog.text
    assert_identical(plain.state_dict(), probed.state_dict())


class Lengths(user_modules.Foreign):
    """Sequences of any length."""

    length = 6

    def __init__(self):
        super().__init__()
        self.encoder = user_modules.transformer()

    def training_step(self, batch, batch_idx):
        return self.encoder(batch).square().mean()

    def train_dataloader(self):
        return DataLoader(torch.rand(64, self.length, 16), batch_size=8)


class Longer(Lengths):
    length = 9


def test_a_resumed_run_goes_on_with_the_shape_of_the_first():
    _, run = fit(Lengths, probing(every=2))
    run.save_checkpoint("run.ckpt")
    resumed = probing(every=2)
    trainer(resumed, max_steps=10).fit(Longer(), ckpt_path="run.ckpt")  # warnings are errors
    assert steps(resumed) == [0, 2, 4, 6, 8, 10]
    assert {result.input_shape for result in resumed.history} == {(6, 16)}
    other = probing(every=2, input_shape=(9, 16))
    with pytest.warns(UserWarning, match=r"other arguments.*shape \(6, 16\).*shape \(9, 16\)"):
        trainer(other, max_steps=10).fit(Longer(), ckpt_path="run.ckpt")


def test_a_step_that_fails_leaves_no_hook():
    class Failing(user_modules.Crops):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            raise KeyError("a bug")

    model = Failing()
    with pytest.raises(KeyError):
        trainer(probing()).fit(model)
    assert not any(part._forward_hooks for part in model.modules())
