"""timm: image models as ``self.backbone`` or ``self.model``, with and without their classifier."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from tests.clients.clients import Client, batches, check, images, marks

pytestmark = marks("timm")
import timm  # noqa: E402

MODELS: dict[str, dict[str, Any]] = {
    "vit_tiny_patch16_224": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
    "resnet18": {"channels": (8, 8, 16, 16), "layers": (1, 1, 1, 1)},
    "convnext_atto": {"dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1)},
}
"""Each with what makes it small."""
SUPERVISED = {
    "vit_tiny_patch16_224": "model before model.head",
    "resnet18": "model before model.fc",
    "convnext_atto": "model.forward_features",  # the head is given what it returns
}


class Contrasted(LightningModule):
    """An own head behind the features."""

    def __init__(self, name: str, **given: Any) -> None:
        super().__init__()
        self.backbone = timm.create_model(name, **MODELS[name], **given)
        self.head = nn.LazyLinear(8)
        self.head(self.features(torch.rand(2, 3, 32, 32)))

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone(x)  # type: ignore[no-any-return]

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.head(self.features(batch)).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class ByMethod(Contrasted):
    """``forward_features`` alone is called."""

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone.forward_features(x).flatten(1)  # type: ignore[no-any-return]


class Classified(LightningModule):
    """Cross entropy of the model's own classifier."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.model = timm.create_model(name, **MODELS[name], num_classes=10)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self.model(batch), torch.arange(len(batch)) % 10)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def _clients() -> list[Client]:
    found = []
    for name in MODELS:
        of = lambda kind, name=name, **given: (kind(name, **given), batches(images(3, 32, 32)))  # noqa: E731
        part = SUPERVISED[name]
        found += [
            Client(f"{name}, num_classes=0", lambda of=of: of(Contrasted, num_classes=0), "backbone", (3, 32, 32)),
            Client(f"{name}, forward_features", lambda of=of: of(ByMethod), "backbone.forward_features", (3, 32, 32)),
            Client(f"{name}, supervised", lambda of=of: of(Classified), part, (3, 32, 32)),
        ]
    return found


CLIENTS = _clients()


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_features_are_probed_and_not_logits(client: Client) -> None:
    check(client)
