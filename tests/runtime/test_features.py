import logging
from collections import OrderedDict, namedtuple
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from synbench_lightning import ProbePlan, SynBenchCallback, evaluate
from synbench_lightning.runtime.features import FeatureReader, module_behind
from synbench_lightning.runtime.token_masks import Masked
from tests.encoders import Autoencoder

VECTORS = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
MAPS = VECTORS[:, :, None, None].expand(4, 5, 2, 2)
TOKENS = VECTORS[:, None].expand(4, 7, 5)
Hidden = namedtuple("Hidden", ["hidden", "cell"])


def read(output, batch_size=4, module=None, input_shape=()):
    return FeatureReader(module)(output, batch_size, input_shape)


@pytest.fixture
def told(caplog):
    """What the log has been told, as one text."""
    caplog.set_level(logging.INFO)
    return lambda: " ".join(caplog.messages)


@pytest.mark.parametrize(
    "output",
    [
        VECTORS,
        TOKENS,
        MAPS,
        {"pooler_output": VECTORS, "last_hidden_state": torch.zeros(4, 7, 5)},
        {"pooler_output": None, "last_hidden_state": TOKENS},
        {"pooler_output": VECTORS[:, :, None, None]},
        SimpleNamespace(last_hidden_state=VECTORS[:, None]),
        {"x_norm_clstoken": VECTORS, "x_norm_patchtokens": torch.zeros(4, 9, 5), "masks": None},
        SimpleNamespace(logits_per_image=torch.zeros(4, 4), image_embeds=VECTORS),
        {"logits": VECTORS, "loss": torch.tensor(1.0)},
        (MAPS,),
        (TOKENS, torch.zeros(4, 7).long(), torch.tensor(1.0)),
        (TOKENS, (torch.zeros(2, 4, 5), torch.zeros(2, 4, 5))),
        ((MAPS, None),),
        Hidden(VECTORS, None),
        [torch.zeros(4, 3, 16, 16), torch.zeros(4, 4, 8, 8), MAPS],
        [torch.zeros(4, 2, 4, 4), MAPS],
        (torch.zeros(4), VECTORS),
        OrderedDict(deep=MAPS, shallow=torch.zeros(4, 3, 8, 8)),
        SimpleNamespace(feature_maps=(torch.zeros(4, 3, 8, 8), MAPS)),
        OrderedDict(out=MAPS, aux=torch.zeros(4, 5, 2, 2)),
        (TOKENS * 0, TOKENS * 0, TOKENS),
        (VECTORS, torch.zeros(4, 128)),
        torch.distributions.Normal(VECTORS, torch.ones(4, 5)),
        SimpleNamespace(latent_dist=SimpleNamespace(logvar=torch.zeros(4, 5, 2, 2), mean=MAPS)),
        SimpleNamespace(features=TOKENS),
    ],
)
def test_every_supported_output_becomes_one_vector_for_each_example(output):
    torch.testing.assert_close(read(output), VECTORS)


def test_the_mean_of_tokens_is_over_those_that_a_mask_leaves():
    tokens = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0]]).bool()
    expected = [own[kept].mean(0) for own, kept in zip(tokens[:3], mask, strict=False)] + [torch.zeros(5)]
    torch.testing.assert_close(read(Masked(tokens, mask)), torch.stack(expected))


def test_a_complex_feature_is_two_features():
    maps = torch.randn(4, 5, 2, 2, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    found, mean = read(maps), maps.mean((2, 3))
    assert found.shape == (4, 10)
    torch.testing.assert_close(found[:, ::2], mean.real)
    torch.testing.assert_close(found[:, 1::2], mean.imag)
    for same in (mean, mean[:, None].expand(4, 7, 5)):  # vectors, tokens
        torch.testing.assert_close(read(same), found)


def test_the_deepest_map_is_found_for_one_example():
    found = read([torch.zeros(1, 3, 8, 8), MAPS[:1]], batch_size=1)
    torch.testing.assert_close(found, VECTORS[:1])


def swin_block():
    return nn.Sequential(nn.Conv2d(3, 96, 4, 4), nn.LayerNorm(96))


def with_format(declared):
    module = nn.Conv2d(3, 8, 1)
    module.output_fmt = declared
    return module


@pytest.mark.parametrize(
    ("shape", "axis", "module", "input_shape"),
    [
        ((7, 7, 96), 3, None, ()),  # equal sizes are space
        ((96, 7, 7), 1, None, ()),
        ((1, 1, 96), 3, None, ()),  # pooled, dimensions kept
        ((96, 1, 1), 1, None, ()),
        ((96, 1), 1, None, ()),
        ((1, 96), 2, None, ()),
        ((8, 12, 16), 3, None, (3, 32, 48)),  # the aspect of the input is that of its map
        ((16, 8, 12), 1, None, (3, 32, 48)),
        ((24, 36, 16), 3, None, (96, 144, 3)),
        ((7, 7, 5), 3, with_format("NHWC"), ()),  # what the module declares
        ((7, 8, 8), 3, nn.Sequential(with_format("NHWC")), ()),
        ((96, 5, 5), 1, with_format("NCHW"), ()),
        ((3, 12, 128), 3, nn.LayerNorm(128), (3, 96)),  # tokens per channel
        ((3, 128, 12), 2, nn.Linear(16, 128), (3, 96)),
        ((3, 12, 128), 3, None, (3, 96)),
        ((64, 125), 1, nn.Conv1d(1, 64, 5), (1, 2000)),  # maps over time
        ((125, 64), 2, nn.TransformerEncoderLayer(64, 4), (1, 2000)),
        ((49, 32), 2, nn.LSTM(8, 32, batch_first=True), (49, 8)),
        ((49, 64), 2, nn.GRU(8, 32, batch_first=True, bidirectional=True), (49, 8)),
        ((32, 16), 2, nn.LSTM(8, 32, proj_size=16, batch_first=True), ()),
        ((16, 32), 2, nn.LSTM(8, 16, bidirectional=True, batch_first=True), ()),
        ((32, 16), 2, nn.LSTM(8, 16, batch_first=True), ()),
        ((32, 16), 2, nn.LayerNorm(16), ()),
        ((32, 16), 1, nn.BatchNorm1d(32), ()),
        ((65, 48), 2, nn.Sequential(nn.Linear(48, 65), nn.Linear(65, 48)), (3, 32, 32)),  # mixes tokens and channels
        ((196, 64), 2, nn.Sequential(nn.Linear(9, 64), nn.Linear(64, 196)), (3, 224, 224)),  # 14 x 14 patches
        ((96, 4, 7, 7), 1, None, ()),  # videos
        ((4, 7, 7, 96), 4, None, ()),
        ((7, 7, 96), 3, swin_block(), (3, 28, 28)),
        ((20, 3, 100), 3, nn.Linear(5, 100), ()),
        ((3, 16, 16), 3, None, (3, 128)),
        ((8, 64, 7, 7), 2, None, (8, 3, 112, 112)),  # maps of each frame
        ((3, 16, 16), 1, None, (3, 32, 32)),
    ],
)
def test_the_mean_is_taken_over_everything_but_the_channels(shape, axis, module, input_shape):
    output = torch.randn(4, *shape, generator=torch.Generator().manual_seed(0))
    expected = output.mean([other for other in range(1, output.ndim) if other != axis])
    torch.testing.assert_close(read(output, module=module, input_shape=input_shape), expected)


def test_what_is_ambiguous_is_told_once_with_both_readings_and_the_way_to_the_other(told):
    reader = FeatureReader(None)
    for _ in range(3):
        reader(torch.ones(4, 7, 7, 96), 4)
    assert told().count("of shape") == 1
    assert "(N, 7, 7, 96) is read as 96 channels along axis 3" in told()
    assert "If it is 7 channels along axis 1, pass `lambda pl_module, x: pl_module.encoder(x).mean((2, 3))`" in told()


def test_one_of_several_outputs_is_told(told):
    read([torch.zeros(4, 3, 8, 8), MAPS])
    assert "a list of Tensor(4, 3, 8, 8), Tensor(4, 5, 2, 2): 1 is used as the representation" in told()


@pytest.mark.parametrize(
    ("output", "module"),
    [
        (VECTORS, None),
        (MAPS, None),
        (VECTORS[:, None], None),
        (TOKENS, nn.Linear(3, 5)),
        (torch.ones(4, 7, 7, 8), with_format("NHWC")),
        ((MAPS,), None),
        ({"pooler_output": VECTORS, "last_hidden_state": TOKENS}, None),
    ],
)
def test_nothing_is_told_where_there_is_no_doubt(output, module, told):
    read(output, module=module)
    assert not told()


def test_a_run_keeps_its_first_reading_though_another_batch_looks_otherwise():
    reader = FeatureReader(None)
    assert reader(torch.ones(4, 7, 7, 96), 4).shape == (4, 96)
    assert reader(torch.ones(2, 96, 7, 96), 2).shape == (2, 96)
    last = FeatureReader(None)
    assert last([torch.ones(4, 3, 8, 8), MAPS], 4).shape == (4, 5)
    assert last([torch.ones(4, 3, 1, 1), MAPS], 4).shape == (4, 5)
    with pytest.raises(TypeError, match=r"a list of Tensor.*, unlike in earlier calls"):
        last([MAPS], 4)


def test_one_or_two_features_of_a_wide_encoder_are_warned_of():
    wide = nn.Sequential(nn.Conv2d(3, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 2))
    with pytest.warns(UserWarning, match="layers of up to 64 channels, but its output .* is read as 2 features: does"):
        read(wide(torch.ones(4, 3, 8, 8)), module=wide)
    with pytest.warns(UserWarning, match="is read as 1 feature:"):
        read(torch.ones(4, 1), module=nn.Sequential(nn.Linear(3, 16), nn.Linear(16, 1)))
    read(torch.ones(4, 3), module=wide)
    read(torch.ones(4, 2), module=nn.Sequential(nn.Linear(3, 15), nn.Linear(15, 2)))  # has never had many more


def test_the_module_is_found_behind_a_method_and_behind_a_first_argument():
    module = nn.Linear(2, 2)
    assert module_behind(module) is module_behind(module.forward) is module_behind(partial(print, module)) is module
    assert module_behind(print) is None


class Swin(nn.Module):
    """Linear patches, channels last; the information of the input is all there."""

    def __init__(self, last):
        super().__init__()
        self.patches, self.last = nn.Conv2d(1, 16, 4, 4), last

    def forward(self, x):
        maps = self.patches(x)
        return maps.permute(0, 2, 3, 1) if self.last else maps


def test_channels_last_and_first_have_the_same_score():
    torch.manual_seed(0)
    last, first = Swin(True), Swin(False)
    first.load_state_dict(last.state_dict())
    found = [evaluate(encoder, (1, 8, 8)) for encoder in (last, first)]
    assert found[0].feature_dim == 16
    assert found[0].scores == found[1].scores


def test_a_run_is_told_its_reading_once(told):
    class Model(Autoencoder):
        def __init__(self):
            super().__init__()
            self.encoder = Swin(last=True)

        def training_step(self, batch, batch_idx):
            return self.encoder(batch[0]).square().mean()

    synbench = SynBenchCallback(plan=ProbePlan(forwards=512), every_n_train_steps=2)
    Trainer(
        max_steps=4, callbacks=[synbench], logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    ).fit(Model())  # fmt: skip
    assert [result.feature_dim for result in synbench.history] == [16, 16, 16]
    assert told().count("(N, 2, 2, 16) is read as 16 channels along axis 3") == 1


def test_half_precision_becomes_float32_and_double_stays():
    assert read(VECTORS.half()).dtype == torch.float32
    assert read(VECTORS.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        ((VECTORS[:3], 3), TypeError, r"a tuple of Tensor\(3, 5\), int"),
        ({"names": ["a"]}, TypeError, r"a dict of 'names': list"),
        (None, TypeError, "a NoneType"),
        (VECTORS[:, 0], ValueError, r"a tensor of shape \(4,\)"),
        (VECTORS[:3], ValueError, r"shape \(3, 5\) for 4 examples"),
        (VECTORS[:, :0], ValueError, r"shape \(4, 0\)"),
        (VECTORS[:, :, None, None, None, None], ValueError, r"shape \(4, 5, 1, 1, 1, 1\)"),
        (VECTORS.argmax(1, keepdim=True), ValueError, "a tensor of torch.int64"),
        (VECTORS.to_sparse(), ValueError, "a tensor of layout torch.sparse_coo: make it dense"),
        (torch.nested.nested_tensor([*TOKENS], layout=torch.jagged), ValueError, "a nested tensor: pad it"),
    ],
)
def test_any_other_output_is_refused_with_its_shape_and_the_way_out(output, error, message):
    with pytest.raises(error, match=rf"{message}.*pass a callable"):
        read(output)
