"""Encoders with a known many-sample limit of their SynBench score (`limits.json`), each made from its own fixed seed.

Every function returns an encoder and its input shape. The limits belong to exactly these weights: the trained ones are
made on one thread, and `fingerprint` tells whether this machine's arithmetic arrived at the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, nn

from tests.encoders import encoder_a as reference_encoder

Encode = Callable[[Tensor], Tensor]
Made = tuple[Encode, tuple[int, ...]]


def _constant_direction(d: int) -> Tensor:
    """The direction in which the classes of the task `dc` differ."""
    return torch.full((d,), 1 / math.sqrt(d))


def isometric(dim: int) -> Made:
    """Nothing is lost: the features are the inputs."""
    return nn.Identity(), (dim,)


def rotated(dim: int, inputs: int) -> Made:
    """Nothing is lost either: an orthonormal basis of a subspace that holds the task's direction, rotated."""
    generator = torch.Generator().manual_seed(1)
    columns = torch.cat([_constant_direction(inputs)[:, None], torch.randn(inputs, dim - 1, generator=generator)], 1)
    basis = torch.linalg.qr(columns)[0]
    matrix = basis @ torch.linalg.qr(torch.randn(dim, dim, generator=generator))[0]
    return lambda x: x @ matrix, (inputs,)


def encoder_a() -> Made:
    """The convolutional encoder of the reference numbers; most of the signal is lost."""
    return reference_encoder().eval(), (3, 32, 32)


def digits_cnn(steps: int = 400) -> Made:
    """A convolutional network trained on digits; fewer ``steps`` give an earlier checkpoint of the same run."""
    with _seeded(2):
        net = nn.Sequential(
            nn.Conv2d(1, 32, 3, 1, 1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, 1, 1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(256, 96),
            nn.ReLU(),
        )
        return _trained(net, nn.Linear(96, 10), *digit_images(), steps), (1, 8, 8)


def batchnorm_cnn() -> Made:
    """A convolutional network with BatchNorm, trained on digits of 16 x 16 pixels."""
    with _seeded(3):
        images, labels = digit_images()
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 24), (24, 48), (48, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU()]
        net = nn.Sequential(*layers, nn.Flatten())
        large = nn.functional.interpolate(images, scale_factor=2)
        return _trained(net, nn.Linear(256, 10), large, labels), (1, 16, 16)


def digits_transformer() -> Made:
    """A small vision transformer trained on digits in three equal channels."""
    with _seeded(5):
        images, labels = digit_images()
        large = nn.functional.interpolate(images, scale_factor=2).expand(-1, 3, -1, -1).contiguous()
        return _trained(_Transformer(48), nn.Linear(96, 10), large, labels, steps=250), (3, 16, 16)


def gated() -> Made:
    """A noisy view of the mean intensity switches half of the features on and the others off.

    So the covariance differs strongly between scales: made against estimators that pool it.
    """
    generator = torch.Generator().manual_seed(6)
    inputs, dim = 512, 192
    linear = torch.randn(inputs, dim, generator=generator) / math.sqrt(inputs)
    gate = 0.7 * _constant_direction(inputs) + 0.7 * linear[:, 0]
    gain = torch.where(torch.arange(dim) % 2 == 0, 1.5, -1.5)
    return lambda x: (x @ linear) * torch.sigmoid(gain * ((x @ gate)[:, None].abs() - 1)), (inputs,)


def saturating() -> Made:
    """tanh of strong sums: with the scale both signal and noise saturate."""
    generator = torch.Generator().manual_seed(7)
    inputs, dim = 256, 96
    shift = 0.4 * _constant_direction(inputs)[:, None] * torch.linspace(-1, 1, dim)
    linear = torch.randn(inputs, dim, generator=generator) / math.sqrt(inputs) + shift
    bias = torch.randn(dim, generator=generator)
    return lambda x: torch.tanh(1.5 * (x @ linear) + bias), (inputs,)


def mlp(dim: int) -> Made:
    """A random ReLU network of two layers: wide features, each of which sees the signal."""
    generator = torch.Generator().manual_seed(8)
    inputs = hidden = 512
    first = torch.randn(inputs, hidden, generator=generator) * math.sqrt(2 / inputs)
    second = torch.randn(hidden, dim, generator=generator) * math.sqrt(2 / hidden)
    bias = 0.1 * torch.randn(dim, generator=generator)
    return lambda x: torch.relu(torch.relu(x @ first) @ second + bias), (inputs,)


def bottleneck() -> Made:
    """512 features of rank 48, 16 of them constant: empty directions that must be recognised."""
    generator = torch.Generator().manual_seed(9)
    down = torch.randn(300, 48, generator=generator) / math.sqrt(300)
    linear = down @ torch.randn(48, 496, generator=generator)
    return lambda x: torch.cat([x @ linear, torch.ones(len(x), 16)], 1), (300,)


def gelu_norm() -> Made:
    """GELU and LayerNorm; made after the estimator's settings were fixed."""
    generator = torch.Generator().manual_seed(21)
    inputs, hidden, dim = 192, 400, 320
    first = torch.randn(inputs, hidden, generator=generator) * math.sqrt(2 / inputs)
    second = torch.randn(hidden, dim, generator=generator) * math.sqrt(2 / hidden)

    def encode(x: Tensor) -> Tensor:
        normed = nn.functional.layer_norm(nn.functional.gelu(x @ first), (hidden,))
        return nn.functional.gelu(normed @ second)

    return encode, (inputs,)


def even() -> Made:
    """Amplitudes of frequencies: an example and its negative have the same features, so the classes are alike.

    The many-sample limit of the score is 0 exactly; whatever is estimated is error.
    """
    return lambda x: torch.fft.rfft(x).abs(), (256,)


ENCODERS: dict[str, Callable[[], Made]] = {
    "isometric_128": lambda: rotated(128, 3072),
    "isometric_384": lambda: rotated(384, 3072),
    "isometric_768": lambda: isometric(768),
    "isometric_2048": lambda: isometric(2048),
    "encoder_a": encoder_a,
    "digits_cnn": digits_cnn,
    "batchnorm_cnn": batchnorm_cnn,
    "digits_transformer": digits_transformer,
    "gated": gated,
    "saturating": saturating,
    "mlp_512": lambda: mlp(512),
    "bottleneck": bottleneck,
    "gelu_norm": gelu_norm,
    "even": even,
}


@cache
def made(name: str) -> Made:
    """The encoder of that name and its input shape; made once in a process."""
    return ENCODERS[name]()


def fingerprint(encode: Encode, input_shape: tuple[int, ...]) -> float:
    """Root mean square of the features of 64 fixed inputs: the same number for the same weights."""
    with torch.no_grad():
        features = encode(torch.randn(64, *input_shape, generator=torch.Generator().manual_seed(0)))
    return float(features.double().square().mean().sqrt())


class _Transformer(nn.Module):
    """Tokens of 4 x 4 patches of a (3, 16, 16) input; the features are the mean token and the first token."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, 4, 4)
        self.pos = nn.Parameter(0.3 * torch.randn(1, 16, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.blocks(self.embed(x).flatten(2).transpose(1, 2) + self.pos)
        return torch.cat([tokens.mean(1), tokens[:, 0]], 1)


def digit_images() -> tuple[Tensor, Tensor]:
    """Images ``(1797, 1, 8, 8)``, standardised over all pixels, and labels."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = torch.tensor(loaded.images, dtype=torch.float32)[:, None]
    return (images - images.mean()) / images.std(), torch.tensor(loaded.target)


def _trained(net: nn.Module, head: nn.Module, images: Tensor, labels: Tensor, steps: int = 400) -> nn.Module:
    """Classify noisy images for some steps of Adam; a few seconds."""
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=2e-3)
    for _ in range(steps):
        chosen = torch.randint(len(images), (128,))
        x = images[chosen]
        loss = nn.functional.cross_entropy(head(net(x + 0.3 * torch.randn_like(x))), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The global generator at a seed, and one thread: the sums of several depend on how they share the work."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
