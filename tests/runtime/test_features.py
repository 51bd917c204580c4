from types import SimpleNamespace

import pytest
import torch

from synbench_lightning.runtime.features import feature_matrix

VECTORS = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "output",
    [
        VECTORS,
        VECTORS[:, None].expand(4, 7, 5),
        VECTORS[:, :, None, None].expand(4, 5, 2, 3),
        {"pooler_output": VECTORS, "last_hidden_state": torch.zeros(4, 7, 5)},
        {"pooler_output": None, "last_hidden_state": VECTORS[:, None].expand(4, 7, 5)},
        SimpleNamespace(last_hidden_state=VECTORS[:, None]),
    ],
    ids=["vectors", "tokens", "maps", "pooled", "hidden", "object"],
)
def test_every_supported_output_becomes_one_vector_for_each_example(output):
    torch.testing.assert_close(feature_matrix(output, 4), VECTORS)


def test_half_precision_becomes_float32_and_double_stays():
    assert feature_matrix(VECTORS.half(), 4).dtype == torch.float32
    assert feature_matrix(VECTORS.double(), 4).dtype == torch.float64


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        ((VECTORS, VECTORS), TypeError, r"a tuple of Tensor\(4, 5\), Tensor\(4, 5\)"),
        ([VECTORS], TypeError, r"a list of Tensor\(4, 5\)"),
        ({"logits": VECTORS}, TypeError, r"a dict of 'logits': Tensor\(4, 5\)"),
        (None, TypeError, "a NoneType"),
        (VECTORS[:, 0], ValueError, r"a tensor of shape \(4,\)"),
        (VECTORS[:3], ValueError, r"shape \(3, 5\) for 4 examples"),
        (VECTORS[:, :0], ValueError, r"shape \(4, 0\)"),
        (VECTORS[:, :, None, None, None], ValueError, r"shape \(4, 5, 1, 1, 1\)"),
        (VECTORS.argmax(1, keepdim=True), ValueError, "a tensor of torch.int64"),
    ],
)
def test_any_other_output_is_refused_with_its_shape_and_the_way_out(output, error, message):
    with pytest.raises(error, match=rf"{message}.*pass a callable"):
        feature_matrix(output, 4)
