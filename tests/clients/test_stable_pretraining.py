"""stable-pretraining: its Module with a forward function, and its methods."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from tests.clients.clients import Client, batches, check, marks

pytestmark = marks("stable_pretraining")
import stable_pretraining as spt  # noqa: E402
from stable_pretraining import forward, losses, methods  # noqa: E402

VIT: dict[str, Any] = {"img_size": 64, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 0}
WIDE = {"img_size": 224, "patch_size": 32}
"""Where a method's constructor finds the width of the representation with a picture of 224 pixels."""


def _vit(**given: Any) -> nn.Module:
    import timm

    return timm.create_model("vit_tiny_patch16_224", **{**VIT, **given})  # type: ignore[no-any-return]


def _conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


class _AnySize(nn.Module):
    """Takes what vision transformers are told."""

    def __init__(self) -> None:
        super().__init__()
        self.net = _conv()

    def forward(self, x: torch.Tensor, interpolate_pos_encoding: bool = False) -> torch.Tensor:
        return self.net(x)  # type: ignore[no-any-return]


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))


def _views(*sizes: int) -> Any:
    def example(generator: torch.Generator, index: int) -> dict[str, Any]:
        views = {}
        for place, size in enumerate(sizes):
            name = "global" if size == max(sizes) else "local"
            views[f"{name}_{place}"] = {"image": torch.rand(3, size, size, generator=generator)}
        return {"views": views}

    return batches(example)


def _listed(*sizes: int) -> Any:
    def example(generator: torch.Generator, index: int) -> dict[str, Any]:
        return {"views": [{"image": torch.rand(3, size, size, generator=generator)} for size in sizes]}

    return batches(example)


def _plain(size: int) -> Any:
    return batches(lambda generator, index: {"image": torch.rand(3, size, size, generator=generator)})


def _module(function: Any, **parts: Any) -> nn.Module:
    optim = {"optimizer": {"type": "AdamW", "lr": 1e-3}, "scheduler": {"type": "ConstantLR"}, "interval": "step"}
    return spt.Module(forward=function, optim=optim, **parts)  # type: ignore[no-any-return]


def _wrapped(make: Any) -> nn.Module:
    return (
        spt.TeacherStudentWrapper(make())
        if hasattr(spt, "TeacherStudentWrapper")
        else spt.backbone.TeacherStudentWrapper(make())
    )


class Method(LightningModule):
    """A method as ``self.model``, as their docstrings show it."""

    def __init__(self, model: nn.Module, arguments: Any) -> None:
        super().__init__()
        self.model, self.arguments = model, arguments

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.model(**self.arguments(batch)).loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=1e-3)


def _pair(batch: Any) -> dict[str, Any]:
    return {"view1": batch["image"], "view2": batch["image"].flip(3)}


def _crops(batch: Any) -> dict[str, Any]:
    x = batch["image"]
    return {"global_views": [x, x.flip(3)], "local_views": [x[..., :32, :32]]}


CLIENTS = [
    Client(
        "Module, SimCLR",
        lambda: (_module(forward.simclr, backbone=_conv(), projector=_mlp(), simclr_loss=losses.NTXEntLoss(0.5)),
                 _listed(16, 16)),
        "backbone", (3, 16, 16),
    ),
    Client(
        "Module, BYOL",
        lambda: (_module(forward.byol, backbone=_wrapped(_conv), projector=_wrapped(_mlp),
                         predictor=nn.Linear(8, 8), byol_loss=losses.BYOLLoss()), _listed(16, 16)),
        "backbone.forward_student", (3, 16, 16),
    ),
    Client(
        "Module, DINO",
        lambda: (_module(forward.dino, backbone=_wrapped(_AnySize), projector=_wrapped(_mlp),
                         dino_loss=losses.DINOv1Loss()), _views(16, 16, 8)),
        "backbone.forward_student", (3, 16, 16),
    ),
    Client(
        "methods.SimCLR", lambda: (Method(methods.SimCLR(_vit(**WIDE)), _pair), _plain(224)),
        "model.backbone", (3, 224, 224),
    ),
    Client(
        "methods.BYOL",
        lambda: (Method(methods.BYOL(_vit(**WIDE), projector_dims=(32, 16), predictor_dims=(32, 16)), _pair),
                 _plain(224)),
        "model.backbone.forward_student", (3, 224, 224),
    ),
    Client(
        "methods.DINO",
        lambda: (Method(methods.DINO(_vit(dynamic_img_size=True), 32, 16, 64), _crops), _plain(64)),
        "model.backbone.forward_student", (3, 64, 64),
    ),
    Client(
        "methods.MAE", lambda: (Method(methods.MAE(_vit(), 32, 1, 2), lambda batch: {"images": batch["image"]}),
                                _plain(64)),
        "model.encoder", (3, 64, 64),
    ),
]  # fmt: skip


for client in CLIENTS:
    client.callbacks = True


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_the_student_s_backbone_is_probed(client: Client) -> None:
    check(client)
