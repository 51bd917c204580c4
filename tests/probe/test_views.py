"""Random views of inputs in the place of noise, and views that are there already."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from synbench_lightning import evaluate
from synbench_lightning.probe import views as views_module
from synbench_lightning.probe.views import INPUT_NOISE, SampledViews
from tests.probe.test_noisy_inputs import CPU, SMALL, images


def noise(batch):
    return batch + INPUT_NOISE * images().std() * torch.randn_like(batch)


def roll(batch):
    """Draws once for the whole batch."""
    return batch.roll(int(torch.randint(1, 6, ())), -1)


def test_views_that_add_white_noise_tell_what_noise_tells():
    x = images()
    with_noise = evaluate(nn.Flatten(), (1, 6, 6), plan=SMALL, inputs=x)
    with_views = evaluate(nn.Flatten(), (1, 6, 6), plan=SMALL, inputs=x, views=noise)
    assert with_views.information == pytest.approx(with_noise.information, rel=0.03)
    assert with_views.num_forwards == with_noise.num_forwards
    assert not with_views.compares(with_noise)
    assert (with_noise.information_kind, with_views.information_kind) == ("noise", "views")


def test_an_encoder_that_does_not_see_what_views_change_tells_more():
    x = images()
    spectrum = lambda x: torch.fft.rfft(x, dim=-1).abs().flatten(1)  # noqa: E731
    seeing, invariant = (
        evaluate(encoder, (1, 6, 6), plan=SMALL, inputs=x, views=roll) for encoder in (nn.Flatten(), spectrum)
    )
    assert invariant.information > 2 * seeing.information


def test_given_pairs_tell_what_drawn_views_tell():
    torch.manual_seed(0)
    x = images(128)
    pairs = torch.stack([noise(x), noise(x)], 1)
    given = evaluate(nn.Flatten(), (1, 6, 6), plan=SMALL, inputs=pairs)
    drawn = evaluate(nn.Flatten(), (1, 6, 6), plan=SMALL, inputs=x, views=noise)
    assert given.information_kind == "pairs"
    assert given.information == pytest.approx(drawn.information, abs=3 * given.information_error)


def test_views_leave_no_trace_in_generators_and_are_the_same_in_each_draw(monkeypatch):
    class Transform:
        def __init__(self):
            self.own, self.numpy, self.calls = torch.Generator(), np.random.default_rng(1), 0

        def __call__(self, batch):
            self.calls += 1
            shift = torch.randn(batch.shape, generator=self.own) + self.numpy.normal() + random.random()
            return batch + shift + np.random.rand() + torch.randn(())

    transform = Transform()
    states = transform.own.get_state(), transform.numpy.bit_generator.state, random.getstate(), torch.get_rng_state()
    kept = SampledViews(images(), transform, (1, 6, 6), 0, CPU)
    monkeypatch.setattr(views_module, "VIEWS_BUDGET_BYTES", 0)
    drawn_again = SampledViews(images(), transform, (1, 6, 6), 0, CPU)
    for draw in (3, 0, 3):
        assert torch.equal(kept.drawn(draw), drawn_again.drawn(draw))
    assert not torch.equal(kept.drawn(0), kept.drawn(1))
    assert drawn_again.identity == kept.identity != SampledViews(images(), transform, (1, 6, 6), 1, CPU).identity
    assert torch.equal(states[0], transform.own.get_state())
    assert states[1] == transform.numpy.bit_generator.state
    assert states[2] == random.getstate()
    assert torch.equal(states[3], torch.get_rng_state())
    assert transform.calls == 0


def test_views_next_to_nothing_are_told():
    with pytest.warns(UserWarning, match="differ by only") as told:
        evaluate(nn.Flatten(), (1, 6, 6), plan=SMALL, inputs=images(), views=lambda x: x + 1e-3 * torch.randn_like(x))
    assert told[0].filename == __file__


def test_views_that_destroy_what_labels_are_about_are_told():
    x = images()
    labels = (x.mean((1, 2, 3)) > 0).long()
    with pytest.warns(UserWarning, match="the views do not seem to be label-preserving"):
        evaluate(
            nn.Flatten(), (1, 6, 6), plan=SMALL, inputs=x, labels=labels,
            views=lambda batch: batch - batch.mean((1, 2, 3), keepdim=True) + torch.randn(len(batch), 1, 1, 1),
        )  # fmt: skip
    evaluate(nn.Flatten(), (1, 6, 6), plan=SMALL, inputs=x, labels=labels, views=roll)  # warnings are errors


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (lambda x: x, "`views` returned the same view 16 times"),
        (lambda x: [x, x], r"must return a floating-point tensor .*\(128, 1, 6, 6\), got a list, 2 of them"),
        (lambda x: x[:, :, 1:], r"got a Tensor \(torch.float32\) of shape \(128, 1, 5, 6\)"),
        (lambda x: x.numpy(), r"got a ndarray"),
        (lambda x: x / 0, "NaN or infinity in 128 of 128 views"),
        (lambda x: x[0, 0, 0, 9], r"`views` failed on a batch of shape \(128, 1, 6, 6\): IndexError.*torch.stack"),
    ],
)
def test_what_are_no_views_is_refused(views, message):
    with pytest.raises(ValueError, match=message):
        evaluate(nn.Flatten(), (1, 6, 6), plan=SMALL, inputs=images(), views=views)
