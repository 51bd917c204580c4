"""lightly's Lightning examples as they are, made small: `LIGHTLY_EXAMPLES` is the folder `examples/pytorch_lightning`.

They are not in the package: check out its repository at the version that is installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from tests.clients.clients import STEPS, Client, check, marks

pytestmark = marks("lightly", "pytorch_lightning", "torchvision", "timm")
import pytorch_lightning as pl  # noqa: E402
import timm  # noqa: E402
import torchvision  # noqa: E402

FOLDER = Path(os.environ.get("LIGHTLY_EXAMPLES", "no folder is given"))
EXPECTED = {
    "aim": "backbone.forward_features", "capi": "student_backbone.encode", "dino": "student_backbone",
    "dinov2": "student_backbone.encode", "ibot": "student_backbone.encode", "mae": "backbone.encode",
    "pixio": "backbone.encode", "simmim": "backbone.encode", "msn": "anchor_backbone", "pmsn": "anchor_backbone",
}  # fmt: skip
"""Where it is not `backbone`: what is trained there, as its step calls it."""


class Pictures(Dataset[Any]):
    """In the place of CIFAR-10 and Pascal VOC."""

    def __init__(self, *_: Any, transform: Callable[[Any], Any], target_transform: Any = None, **__: Any) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (2 * STEPS, 48, 48, 3), dtype=np.uint8)
        self.pictures, self.transform = [Image.fromarray(one) for one in pixels], transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Any:
        return self.transform(self.pictures[index]), 0


class _TrainsError(Exception):
    """An example is about to train."""


@contextmanager
def _small() -> Iterator[list[Any]]:
    """Networks of few weights and batches of two; what is given to `Trainer.fit` is kept."""
    given: list[Any] = []

    def fit(_: Any, model: Any, train_dataloaders: Any, **__: Any) -> None:
        given.extend((model, train_dataloaders))
        raise _TrainsError

    named = {
        "vit_base_patch32_224": {"embed_dim": 48, "depth": 2, "num_heads": 3},
        "vit_small_patch16_224": {"depth": 2},  # heads are made for its 384 dimensions
    }
    shallow = partial(_shallow, torchvision.models.VisionTransformer)
    tv = partial(
        torchvision.models.VisionTransformer, image_size=224, patch_size=32, num_layers=2, num_heads=3, hidden_dim=48,
        mlp_dim=96,
    )  # fmt: skip
    loader = partial(_loader, DataLoader)
    with ExitStack() as stack:
        change = lambda *args, **kwargs: stack.enter_context(patch.object(*args, **kwargs))  # noqa: E731
        change(pl.Trainer, "fit", fit)
        change(torch.utils.data, "DataLoader", loader)
        for kind in ("CIFAR10", "VOCDetection"):
            change(torchvision.datasets, kind, Pictures)
        for name, tiny in named.items():
            change(timm.models.vision_transformer, name, partial(timm.create_model, name, **tiny))
        change(torchvision.models, "VisionTransformer", shallow)
        change(torchvision.models, "vit_b_32", lambda **_: tv())
        yield given


def _shallow(kind: Any, **given: Any) -> Any:
    return kind(**{**given, "num_layers": 2})


def _loader(kind: Any, dataset: Any, **given: Any) -> Any:
    return kind(dataset, **{**given, "batch_size": 2, "num_workers": 0, "shuffle": False})


def _example(path: Path) -> tuple[Any, Any]:
    with _small() as given:
        try:
            exec(compile(path.read_text(), str(path), "exec"), {"__name__": "__main__"})
        except _TrainsError:
            return given[0], given[1]
    raise AssertionError(f"{path} does not train")


CLIENTS = [
    Client(f"lightly {path.stem}", partial(_example, path), EXPECTED.get(path.stem, "backbone"), ...)
    for path in sorted(FOLDER.glob("*.py"))
    if "Trainer(" in path.read_text()  # ijepa.py refers to another folder
]


@pytest.mark.skipif(not CLIENTS, reason=f"LIGHTLY_EXAMPLES: {FOLDER} has no examples")
@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_an_example_s_backbone_is_probed(client: Client) -> None:
    check(client)
