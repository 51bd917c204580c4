import pytest
import torch

from tests.callbacks.runs import probing, trainer
from tests.encoders import Autoencoder

INPUTS = torch.randn(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))
FALLS = {
    "score": {},
    "information": {"inputs": INPUTS, "views": lambda x: x + 0.3 * torch.randn_like(x)},
    "readout": {"labels": (INPUTS, (INPUTS.flatten(1)[:, 63] > 0).long())},
}


@pytest.mark.parametrize("key", FALLS)
def test_what_has_fallen_while_the_loss_improves_is_told_once_by_its_name(key, caplog):
    def shrinking(module, x):  # one feature after the other is lost
        features = x.flatten(1)
        return features[:, -max(1, 64 - 3 * module.trainer.global_step) :]

    def dropping(module, x):  # the one with the label is lost
        return x.flatten(1)[:, : 64 if module.trainer.global_step < 10 else 32]

    with caplog.at_level("INFO"):
        encoder = dropping if key == "readout" else shrinking
        trainer(probing(encoder=encoder, **FALLS[key]), max_steps=20).fit(Autoencoder())
    told = [record.message for record in caplog.records if "has fallen from" in record.message]
    assert len(told) == 1
    assert f"the {key} has fallen from" in told[0]
    assert "while the training loss went from" in told[0]
    assert ("proxy" in told[0]) == (key == "score")
    assert ("inputs" in told[0]) == (key == "information")
    assert ("labels" in told[0]) == (key == "readout")


def test_a_task_that_the_encoder_cannot_see_is_named_at_the_first_probe(caplog):
    def standardising(module, x):
        return x.flatten(1) - x.mean((1, 2, 3))[:, None]

    with caplog.at_level("INFO"):
        trainer(probing(encoder=standardising), max_steps=5).fit(Autoencoder())
    told = [record.message for record in caplog.records if "is 0: the encoder is insensitive" in record.message]
    assert len(told) == 1
    assert "the score of dc is 0" in told[0]
