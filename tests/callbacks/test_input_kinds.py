"""Encoders and inputs of unusual kinds: scripted modules, complex features, inputs of another kind of number."""

import re

import pytest
import torch
from torch import nn

from tests.callbacks.runs import probing, steps, trainer
from tests.integration.modules import Plain


class Scripted(Plain):
    def __init__(self):
        super().__init__()
        self.encoder = torch.jit.script(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8)))


class ComplexLinear(nn.Linear):
    def __init__(self):
        super().__init__(12, 8, dtype=torch.complex64)

    def forward(self, x):
        return super().forward(x.to(torch.complex64))


class ComplexFeatures(Plain):
    def __init__(self):
        super().__init__()
        self.encoder = ComplexLinear()

    def loss(self, x):
        return nn.functional.mse_loss(self.head(self.encoder(x).abs()), x)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_scripted_encoder_is_found_and_probed_with_the_runs_own_examples(caplog):
    callback = probing(inputs="auto")
    caplog.set_level("INFO")
    trainer(callback, max_steps=10).fit(Scripted())
    assert steps(callback) == [0, 5, 10]
    assert all(result.feature_dim == 8 and result.information is not None for result in callback.history)
    assert not [text for text in caplog.messages if "cannot be read again" in text]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_the_calls_of_a_scripted_encoder_are_its_own_after_the_first_step():
    model = Scripted()
    x = torch.randn(4, 12)
    before = type(model.encoder).__call__
    trainer(probing(), max_steps=2).fit(model)
    assert type(model.encoder).__call__ is before
    assert vars(model.encoder).get("_compiled_call_impl") is None
    assert model.encoder(x).shape == (4, 8)


def test_features_that_are_complex_count_as_real_and_imaginary_parts(recwarn):
    callback = probing()
    trainer(callback, max_steps=2).fit(ComplexFeatures())
    assert [result.feature_dim for result in callback.history] == [16, 16]
    assert not [warning for warning in recwarn if "imaginary" in str(warning.message)]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.randint(0, 256, (64, 12), dtype=torch.uint8), "torch.uint8, but .* 'encoder' .* torch.float32.*/ 255"),
        (torch.randint(0, 9, (64, 12)), r"torch.int64, but .* torch.float32: convert them as training does"),
        (torch.randn(64, 12, dtype=torch.complex64), r"torch.complex64, but .* torch.float32: convert .* does\."),
    ],
)
def test_inputs_of_another_kind_of_number_than_in_training_are_refused_by_name(inputs, message):
    callback = probing(inputs=inputs, views=lambda x: x)
    with pytest.raises(ValueError, match=f"^`inputs` are of {message}"):
        trainer(callback, max_steps=2).fit(Plain())


def test_a_long_list_is_described_by_its_first_parts():
    callback = probing(inputs=[torch.randn(12) for _ in range(64)])
    with pytest.raises(ValueError, match=re.escape("float32(12,), ... 58 more] need `views`")):
        trainer(callback, max_steps=2).fit(Plain())
