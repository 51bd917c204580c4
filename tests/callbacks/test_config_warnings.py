from tests.callbacks.runs import probing, trainer
from tests.encoders import Autoencoder


def test_a_score_that_falls_while_the_loss_improves_is_told_once(caplog):
    def shrinking(module, x):  # one feature after the other is lost
        features = x.flatten(1)
        return features[:, : max(1, 64 - 3 * module.trainer.global_step)]

    with caplog.at_level("INFO"):
        trainer(probing(encoder=shrinking), max_steps=20).fit(Autoencoder())
    told = [record.message for record in caplog.records if "the score has fallen from" in record.message]
    assert len(told) == 1
    assert "while the training loss went from" in told[0]


def test_a_task_that_the_encoder_cannot_see_is_named_at_the_first_probe(caplog):
    def standardising(module, x):
        return x.flatten(1) - x.mean((1, 2, 3))[:, None]

    with caplog.at_level("INFO"):
        trainer(probing(encoder=standardising), max_steps=5).fit(Autoencoder())
    told = [record.message for record in caplog.records if "is 0: the encoder does not show" in record.message]
    assert len(told) == 1
    assert "the score of dc is 0" in told[0]
