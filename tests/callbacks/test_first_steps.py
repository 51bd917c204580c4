"""What the first step of a run is recorded for, and when a run gives up probing."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from synbench_lightning.callbacks.view_collection import ViewCollection
from synbench_lightning.runtime.structures import Arguments
from tests.callbacks.runs import probing, steps, trainer
from tests.callbacks.test_view_sources import ReadViews
from tests.encoders import Autoencoder


class Recorded(Autoencoder):
    """Keeps whether each of its steps is recorded, and whether its backward pass is taken for one."""

    def __init__(self, callback, checkpointed=False):
        super().__init__()
        self.callback, self.found, self.backward_found, self.checkpointed = callback, [], [], checkpointed

    def _note(self, kept):
        recorder = self.callback._discovery._recorder
        kept.append(None if recorder is None else recorder.in_backward)

    def training_step(self, batch, batch_idx):
        self._note(self.found)
        x = batch[0].requires_grad_()
        x.register_hook(lambda _: self._note(self.backward_found))
        features = checkpoint(self.encoder, x, use_reentrant=False) if self.checkpointed else self.encoder(x)
        return self.decoder(features).square().mean()


@pytest.mark.parametrize("accumulated", [1, 2])
def test_the_first_step_is_recorded_and_a_resumed_run_records_none(accumulated):
    callback = probing()
    model = Recorded(callback)
    run = trainer(callback, max_steps=3, accumulate_grad_batches=accumulated)
    run.fit(model)
    assert model.found == [False] + [None] * (3 * accumulated - 1)
    assert model.backward_found == [True] + [None] * (3 * accumulated - 1)
    run.save_checkpoint("run.ckpt")
    resumed = probing()
    again = Recorded(resumed)
    trainer(resumed, max_steps=6).fit(again, ckpt_path="run.ckpt")
    assert again.found == [None] * len(again.found) != []


def test_what_is_run_again_in_the_backward_pass_is_no_call_of_its_own():
    callback = probing()
    trainer(callback, max_steps=2).fit(Recorded(callback, checkpointed=True))
    assert callback._discovery.call.calls == 1


@pytest.mark.filterwarnings("ignore:.*(is skipped|no more are made)")
@pytest.mark.parametrize("good", [(), (15, 30)])
def test_after_three_failures_in_a_row_nothing_is_tried_in_this_run(good):
    tried = []

    def encoder(module, x):
        step = module.trainer.global_step
        tried.append(step)
        if step and step not in good:
            raise RuntimeError("broken")
        return module.encoder(x)

    callback = probing(encoder=encoder, input_shape=(1, 8, 8))
    trainer(callback, max_steps=60).fit(Autoencoder())
    assert sorted(set(tried)) == ([0, 5, 10, 15, 20, 25, 30, 35, 40, 45] if good else [0, 5, 10, 15])
    assert steps(callback) == [0, *good]
    tried.clear()
    trainer(callback, max_steps=20).fit(Autoencoder())
    assert sorted(set(tried)) == [0, 5, 10, 15] if not good else [0, 5, 10, 15, 20]


@pytest.mark.parametrize(("shape", "noise"), [((40, 6), False), ((40, 6, 5), True), ((40, 3, 6, 5), True)])
def test_integers_are_pictures_where_an_example_has_two_axes(shape, noise):
    own = ViewCollection(0)
    x = torch.randint(0, 255, shape, generator=torch.Generator().manual_seed(0))
    own._keep(ReadViews([[Arguments((x,), {})]], 40, ""), "noise")
    assert (own.inputs is not None) == noise


@pytest.mark.filterwarnings("ignore:`Looking.on_train_batch_start` reads", "ignore:`Looking.training_step` reads")
def test_a_resumed_run_starts_with_the_values_of_its_last_probe():
    first = probing()
    run = trainer(first, max_steps=10)
    run.fit(Autoencoder())
    run.save_checkpoint("run.ckpt")
    seen = {}

    class Looking(Autoencoder):
        def training_step(self, batch, batch_idx):
            seen.setdefault("score", self.trainer.callback_metrics["synbench/score"].item())
            return super().training_step(batch, batch_idx)

    trainer(probing(), max_steps=12).fit(Looking(), ckpt_path="run.ckpt")
    assert seen["score"] == pytest.approx(first.history[-1].score())
    assert first.history[-1].score() != first.history[1].score()
