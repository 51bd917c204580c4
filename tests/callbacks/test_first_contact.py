"""No argument given: the encoder and what it takes are those of the first training step."""

import pytest
import torch
from lightning.pytorch import seed_everything

from tests.callbacks.runs import probing, steps, trainer
from tests.contract import foreign
from tests.contract.test_training_unchanged import assert_identical

quiet = pytest.mark.filterwarnings("ignore:torch.utils.checkpoint:UserWarning", "ignore:.*[Ll]azy")


def fit(make, *callbacks, **arguments):
    seed_everything(0, verbose=False)
    model = make()
    run = trainer(*callbacks, **{"max_steps": 6, **arguments})
    run.fit(model)
    return model, run


@quiet
@pytest.mark.parametrize("make", foreign.KINDS, ids=lambda make: make.__name__)
def test_a_run_without_arguments_takes_what_training_takes_and_changes_nothing(make, caplog):
    plain, its_run = fit(make)
    callback = probing(every=4, tasks="dc")
    with caplog.at_level("INFO"):
        probed, run = fit(make, callback)
    assert steps(callback)[0] == 0
    assert {result.input_shape for result in callback.history} == {make.shape}
    said = next(record.message for record in caplog.records if "SynBench probes" in record.message)
    name = f"`{make.path}`, a " if make.path else "the `forward` of "
    assert said.startswith(f"SynBench probes {name}")
    assert_identical(plain.state_dict(), probed.state_dict())
    assert_identical([o.state_dict() for o in its_run.optimizers], [o.state_dict() for o in run.optimizers])
    assert getattr(plain, "graphs", 0) == getattr(probed, "graphs", 0)
    assert not any(part._forward_hooks for part in probed.modules())
