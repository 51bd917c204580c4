"""The loss in a LightningModule: resumed, accumulated, in half precision, and logged beside the score."""

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from synbench_lightning import TaskRobustLoss
from tests.callbacks.runs import curves, probing, trainer
from tests.encoders import Autoencoder

MODES = ["softmax", "exponentiated_gradient"]


class Robust(Autoencoder):
    """The columns of the input are four tasks, the last of which is the hardest."""

    def __init__(self, mode="softmax"):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 16))
        self.decoder = nn.Linear(16, 64)
        self.robust = TaskRobustLoss(4, mode, step_size=0.2)

    def training_step(self, batch, batch_idx):
        x = batch[0].flatten(1)
        x = x + x.roll(1, 1) * torch.tensor([0.0, 0.5, 1.0, 2.0]).repeat(16)
        error = (self.decoder(self.encoder(x)) - x).square()
        loss = self.robust(error.unflatten(1, (16, 4)).mean((0, 1)))
        self.log_dict(self.robust.metrics())
        return loss

    def validation_step(self, batch, batch_idx):
        self.training_step(batch, batch_idx)

    def train_dataloader(self):
        loader = super().train_dataloader()
        return torch.utils.data.DataLoader(loader.dataset, batch_size=8)

    val_dataloader = train_dataloader


@pytest.mark.parametrize("mode", MODES)
def test_a_resumed_run_goes_on_with_the_same_weights_and_losses(mode):
    whole, first, second = Robust(mode), Robust(mode), Robust(mode)
    trainer(max_steps=30).fit(whole)
    run = trainer(max_steps=20)
    run.fit(first)
    run.save_checkpoint("half.ckpt")
    trainer(max_steps=30).fit(second, ckpt_path="half.ckpt")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=0, atol=0, equal_nan=True, msg=name)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
@pytest.mark.parametrize("mode", MODES)
def test_the_state_is_in_float32_and_near_that_of_full_precision_in_a_run_in_half(mode, precision):
    full, half = Robust(mode), Robust(mode)
    trainer(max_steps=20).fit(full)
    trainer(max_steps=20, precision=precision).fit(half)
    assert half.robust.weights.dtype == half.robust.running_losses.dtype == torch.float32
    torch.testing.assert_close(half.robust.running_losses, full.robust.running_losses, rtol=0.05, atol=0)


def test_validation_leaves_the_state_as_it_was():
    plain, validated = Robust(), Robust()
    trainer(max_steps=20, limit_val_batches=0).fit(plain)
    trainer(max_steps=20, val_check_interval=3).fit(validated)
    assert torch.equal(plain.robust.running_losses, validated.robust.running_losses)


def test_weights_and_the_worst_loss_are_logged_beside_the_score():
    logger = TensorBoardLogger("runs")
    model = Robust()
    trainer(probing(every=10), max_steps=20, logger=logger, log_every_n_steps=10, limit_val_batches=0).fit(model)
    found = curves(logger)
    assert len(found["synbench/score"]) == 3
    assert len(found["robust/worst_loss"]) == 2
    assert found["robust/weight/3"][-1][1] == pytest.approx(model.robust.weights[3].item())
    assert found["robust/worst_task"][-1][1] == model.robust.worst_task
