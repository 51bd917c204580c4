"""torchgeo's tasks of self-supervised learning."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.clients.clients import Client, batches, check, marks

pytestmark = marks("torchgeo")
from torchgeo.trainers import BYOLTask, MoCoTask, SimCLRTask  # noqa: E402


def _scenes(generator: torch.Generator, index: int) -> dict[str, Any]:
    return {"image": torch.rand(4, 32, 32, generator=generator)}


def _of(task: type[Any], **given: Any) -> Any:
    return lambda: (task(model="test_resnet", in_channels=4, **given), batches(_scenes))


CLIENTS = [
    Client("SimCLRTask", _of(SimCLRTask, size=32), "backbone", (4, 32, 32)),
    Client("MoCoTask", _of(MoCoTask, size=32), "backbone", (4, 32, 32)),
    # as `model.backbone`: what it gives its projector, which a hook calls; the online network is called as a whole
    Client("BYOLTask", _of(BYOLTask), "the forward of BYOLTask before model.backbone._projector", (4, 224, 224)),
]


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_the_trained_backbone_is_probed(client: Client) -> None:
    check(client)
