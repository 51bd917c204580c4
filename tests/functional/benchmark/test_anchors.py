import numpy as np
import pytest
import torch

from synbench_lightning.functional.benchmark.anchors import anchor_estimate, anchor_predictions


def test_points_that_move_with_an_anchor_are_predicted_exactly():
    steps = torch.linspace(0, 1, 8)
    first, second = steps**2, torch.sin(5 * steps)
    curves = torch.stack([first, second, 3 * first + 1, -0.5 * second, torch.full_like(steps, 0.7)], 1)
    later = torch.stack([torch.tensor(2.0), torch.tensor(-3.0)])
    found = anchor_predictions(curves[:, [0, 1, 2, 4]], torch.tensor([0, 1]), later)
    np.testing.assert_allclose(found.numpy(), [2.0, -3.0, 7.0, 0.7], rtol=1e-6)
    opposite = anchor_predictions(curves[:, [1, 3]], torch.tensor([0]), later[1:])
    assert opposite[1].item() == pytest.approx(1.5)  # its only anchor moves the other way


def test_an_anchor_that_never_moved_leaves_the_others_at_their_means():
    curves = torch.tensor([[0.7, 1.0, 0.0], [0.7, 2.0, 0.0], [0.7, 6.0, 3.0]])
    found = anchor_predictions(curves, torch.tensor([0]), torch.tensor([5.0]))
    assert found.tolist() == pytest.approx([0.7, 3.0, 1.0])


def test_the_error_of_anchors_is_that_of_predicting_the_second_half_from_the_first():
    curves = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)).double().cumsum(0)
    anchors = torch.tensor([3, 7, 11])
    found = anchor_estimate(curves, anchors, curves[-1, anchors])
    wrong = [
        (anchor_predictions(curves[:10], anchors, curves[t, anchors]) - curves[t]).mean().item() for t in range(10, 20)
    ]
    assert found.standard_error.item() == pytest.approx(np.sqrt(np.mean(np.square(wrong))))
    assert found.degrees_of_freedom == 10
    assert torch.isfinite(anchor_estimate(curves[:4], anchors, curves[-1, anchors]).standard_error)
    assert torch.isinf(anchor_estimate(curves[:3], anchors, curves[-1, anchors]).standard_error)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: anchor_predictions(torch.ones(3, 4), torch.tensor([0]), torch.ones(2)),
            "`anchors` must be",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
