import math

import pytest
import torch
from torch import nn

from synbench_lightning import ProbePlan, ProbeResult, SynBenchCallback, evaluate
from synbench_lightning.probe.probe import Probe
from synbench_lightning.probe.views import INPUT_NOISE, NoisyViews, viewed_inputs

SMALL = ProbePlan(forwards=768)
CPU = torch.device("cpu")


def images(number=128, seed=0):
    """Smooth images ``(N, 1, 6, 6)``: few directions hold most of the variance."""
    coarse = torch.randn(number, 1, 3, 3, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(coarse, size=6, mode="bilinear")


def test_raw_inputs_tell_what_a_gaussian_channel_tells_of_them():
    x = images()
    found = evaluate(nn.Flatten(), (1, 6, 6), plan=SMALL, inputs=x)
    signal = torch.cov(x.flatten(1).T.double())
    noise = (INPUT_NOISE * x.std().double()) ** 2
    floor = 0.01 * (signal.diagonal().mean() + noise)
    expected = torch.log1p(torch.linalg.eigvalsh(signal).clamp_min(0) / (noise + floor)).sum() / 2
    assert found.information == pytest.approx(expected.item(), rel=0.03)
    assert 0 < found.information_error < 0.03 * found.information


def test_no_encoder_tells_more_and_one_that_drops_directions_tells_less():
    x, turn = images(), torch.randn(36, 36, generator=torch.Generator().manual_seed(1))
    orthogonal = torch.linalg.qr(turn).Q

    def information(encoder):
        return evaluate(encoder, (1, 6, 6), plan=SMALL, inputs=x).information

    whole = information(nn.Flatten())
    assert information(lambda x: x.flatten(1) @ orthogonal) == pytest.approx(whole, rel=1e-4)
    assert information(lambda x: (x.flatten(1) @ orthogonal)[:, :4]) < 0.8 * whole
    assert information(lambda x: torch.ones(len(x), 3)) == 0


def test_batch_size_does_not_matter_and_noise_is_the_same_in_each_probe():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(36, 20), nn.Tanh())
    found = [evaluate(encoder, (1, 6, 6), plan=SMALL, inputs=images(), batch_size=size) for size in (256, 17, 256)]
    assert found[0].information == found[2].information
    assert found[1].information == pytest.approx(found[0].information, rel=1e-5)


@pytest.mark.parametrize(("number", "draws"), [(32, 64), (33, 32), (64, 32), (100, 16), (128, 16), (500, 16)])
def test_every_input_is_shown_as_often_with_other_noise(number, draws):
    x = images(number)
    noisy = NoisyViews(x, (1, 6, 6), 0, CPU)
    examples = noisy.examples
    out = torch.full((examples.rows, 1, 6, 6), float("nan"))
    for block in examples.blocks:
        examples.write(block, out[block.row : block.row + block.vectors])
    shown = min(number, 128)
    assert examples.rows == shown * draws <= 2048
    noise = out.unflatten(0, (shown, draws)) - x[:shown, None]
    assert noise.std().item() == pytest.approx(0.7 * x[:shown].std().item(), rel=0.02)
    assert len(noise.flatten(0, 1).flatten(1).unique(dim=0)) == shown * draws


def test_the_score_does_not_depend_on_inputs_and_the_result_says_which_they_were():
    plain = evaluate(nn.Flatten(), (1, 6, 6), plan=SMALL)
    found = evaluate(nn.Flatten(), (1, 6, 6), plan=SMALL, inputs=images())
    other = evaluate(nn.Flatten(), (1, 6, 6), plan=SMALL, inputs=images(seed=1))
    assert (plain.information, plain.information_error, plain.inputs) == (None, None, None)
    assert found.scores == plain.scores
    assert found.num_forwards == plain.num_forwards + 2048
    assert len({result.settings for result in (plain, found, other)}) == 3
    assert ProbeResult.from_dict(found.to_dict()) == found


def test_more_features_than_examples_are_no_obstacle():
    wide = torch.randn(36, 3000, generator=torch.Generator().manual_seed(0)) / 6
    x = images(32)
    narrow = evaluate(nn.Flatten(), (1, 6, 6), plan=SMALL, inputs=x).information
    found = evaluate(lambda x: x.flatten(1) @ wide, (1, 6, 6), plan=SMALL, inputs=x).information
    # The same 36 directions; the floor is a share of the mean variance over more dimensions, so that it is lower.
    assert narrow < found < 1.5 * narrow
    assert math.isfinite(found)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.randn(31, 1, 6, 6), "`inputs` must contain at least 32 examples, got 31"),
        (torch.randn(64, 3, 6, 6), r"`inputs` must be a floating-point tensor \(N, 1, 6, 6\).*\(64, 3, 6, 6\)"),
        ([1, 2], r"`inputs` \[1, 2\] need `views`"),
        (torch.ones(64, 1, 6, 6), "`inputs` must be finite and vary; their standard deviation is 0"),
        (torch.full((64, 1, 6, 6), float("nan")), "`inputs` must be finite and vary"),
        (torch.randn(1, 1, 6, 6).expand(64, -1, -1, -1), "`inputs` must be finite and vary; .* 0"),
        (torch.rand(64, 1, 6, 6) > 0.5, r"`inputs` bool\(64, 1, 6, 6\) need `views`"),
        (list(torch.randn(64, 1, 6, 6)), r"`inputs` \[.*\] need `views`.*`torch.stack\(inputs\)`"),
        (torch.randn(64, 1, 6, 6).numpy(), r"`inputs` must be a tensor.*of shape \(64, 1, 6, 6\): `torch.as_tensor`"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_is_run(inputs, message):
    with pytest.raises(ValueError, match=message):
        Probe(
            "dc", SMALL, (1, 6, 6), epsilons=(0.0,), thresholds=(0.7,), batch_size=8, normalize=None, inputs=inputs,
            seed=0, device=CPU,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (torch.Tensor.to_sparse, "a tensor of the layout torch.sparse_coo: .*to_dense"),
        (lambda x: x.to("meta"), 'a tensor of the device "meta"'),
        (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8), "a quantized tensor"),
        (lambda x: torch.nested.nested_tensor(list(x)), "a nested tensor"),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.quantize", "ignore:The PyTorch API of nested tensors")
def test_tensors_without_values_in_memory_are_refused_by_the_name_of_the_argument(change, message):
    x = change(images(64))
    with pytest.raises(ValueError, match=f"`inputs` must be dense, got {message}"):
        evaluate(nn.Flatten(), (1, 6, 6), plan=SMALL, inputs=x)
    with pytest.raises(ValueError, match="`inputs` must be dense"):
        SynBenchCallback(inputs={"pixels": x}, views=lambda batch: batch)
    with pytest.raises(ValueError, match=r"`labels\[0\]` must be dense"):
        evaluate(nn.Flatten(), (1, 6, 6), plan=SMALL, labels=(x, torch.arange(64) % 2))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_an_encoder_of_real_numbers_that_gets_integers_is_told_to_convert_them(dtype):
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    with pytest.raises(RuntimeError, match=rf"These inputs are of {dtype}: .*`inputs.float\(\) / 255`"):
        evaluate(encoder, (1, 6, 6), plan=SMALL, inputs=(100 * images(64).abs()).to(dtype))


def test_without_the_shape_of_an_input_the_second_dimension_is_of_the_input_and_no_number_of_views():
    found = viewed_inputs(torch.randn(40, 5, 6), None, None, 0, CPU)
    assert (found.kind, found.num_inputs) == ("noise", 40)
