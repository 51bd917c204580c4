"""solo-learn's methods, from a checkout of its repository: what the package index has needs Lightning 1.4."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.clients.clients import SIZE, Client, batches, check, marks

pytestmark = marks("solo.methods", "omegaconf")
from omegaconf import OmegaConf  # noqa: E402
from solo.methods import METHODS  # noqa: E402

HEADS: dict[str, dict[str, Any]] = {
    "simclr": {"temperature": 0.2},
    "barlow_twins": {"lamb": 5e-3, "scale_loss": 0.025},
    "vicreg": {"sim_loss_weight": 25, "var_loss_weight": 25, "cov_loss_weight": 1},
    "simsiam": {"pred_hidden_dim": 16, "temperature": 0.2},
    "byol": {"pred_hidden_dim": 16},
    "mocov2plus": {"temperature": 0.2, "queue_size": 32},
    "dino": {
        "num_prototypes": 16, "clip_grad": 0, "freeze_last_layer": 1, "norm_last_layer": True,
        "use_bn_in_head": False, "student_temperature": 0.1, "teacher_temperature": 0.07,
        "warmup_teacher_temperature": 0.04, "warmup_teacher_temperature_epochs": 1,
    },
}  # fmt: skip
AVERAGED = ("byol", "mocov2plus", "dino")


def _method(name: str) -> Any:
    """Two large crops of 32 pixels, a ResNet-18 as its backbone, and the classifier that is trained beside it."""
    config: dict[str, Any] = {
        "name": name,
        "method": name,
        "backbone": {"name": "resnet18", "kwargs": {}},
        "data": {
            "dataset": "cifar10", "num_large_crops": 2, "num_small_crops": 0, "num_classes": 10, "num_workers": 0,
        },
        "optimizer": {
            "name": "sgd", "batch_size": SIZE, "lr": 0.1, "classifier_lr": 0.1, "weight_decay": 1e-5, "kwargs": {},
        },
        "scheduler": {"name": "none"},
        "max_epochs": 1,
        "devices": 1,
        "num_nodes": 1,
        "method_kwargs": {"proj_hidden_dim": 32, "proj_output_dim": 16, **HEADS[name]},
    }  # fmt: skip
    if name in AVERAGED:
        config["momentum"] = {"base_tau": 0.99, "final_tau": 1.0}
    found = OmegaConf.create(config)
    OmegaConf.set_struct(found, False)
    return METHODS[name](found)


def _crops(generator: torch.Generator, index: int) -> Any:
    return index, [torch.rand(3, 32, 32, generator=generator) for _ in range(2)], index % 10


CLIENTS = [
    Client(f"solo-learn {name}", lambda name=name: (_method(name), batches(_crops)), "backbone", (3, 32, 32))
    for name in HEADS
]


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_the_trained_backbone_is_probed(client: Client) -> None:
    check(client)
