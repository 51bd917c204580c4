"""torch_geometric: graphs have no place for real vectors of a fixed shape; nothing is scored and nothing ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from tests.clients.clients import SIZE, STEPS, Client, check, marks

pytestmark = marks("torch_geometric")
from torch_geometric.data import Data  # noqa: E402
from torch_geometric.loader import DataLoader  # noqa: E402
from torch_geometric.nn import GCN, global_mean_pool  # noqa: E402
from torch_geometric.utils import dropout_edge  # noqa: E402


class Contrastive(LightningModule):
    """Two corruptions of a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.projector = nn.Linear(16, 8)

    def view(self, batch: Any) -> Tensor:
        raise NotImplementedError

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        one, other = (nn.functional.normalize(self.projector(self.view(batch))) for _ in range(2))
        return nn.functional.cross_entropy(one @ other.T / 0.5, torch.arange(len(one)))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


class GRACE(Contrastive):
    """Nodes are contrasted."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = GCN(6, 16, 2)

    def view(self, batch: Any) -> Tensor:
        edges = dropout_edge(batch.edge_index, 0.3)[0]
        return self.encoder(batch.x * (torch.rand(6) < 0.8), edges)  # type: ignore[no-any-return]


class GraphEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gnn = GCN(6, 16, 2)

    def forward(self, data: Any) -> Tensor:
        return global_mean_pool(self.gnn(data.x, data.edge_index), data.batch)


class GraphCL(Contrastive):
    """Graphs are contrasted; the encoder takes the batch of graphs itself."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = GraphEncoder()

    def view(self, batch: Any) -> Tensor:
        view = batch.clone()
        view.edge_index = dropout_edge(batch.edge_index, 0.3)[0]
        return self.encoder(view)  # type: ignore[no-any-return]


def _graphs() -> Any:
    generator = torch.Generator().manual_seed(0)
    graphs = []
    for index in range(SIZE * STEPS):
        nodes = 5 + index % 4
        edges = torch.randint(nodes, (2, 3 * nodes), generator=generator)
        graphs.append(Data(x=torch.rand(nodes, 6, generator=generator), edge_index=edges))
    return DataLoader(graphs, batch_size=SIZE)


CLIENTS = [
    Client("GRACE on a GCN", lambda: (GRACE(), _graphs()), "encoder", None),
    Client("GraphCL on a GCN", lambda: (GraphCL(), _graphs()), "encoder", None),
]


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_a_graph_network_gets_no_score_and_the_run_goes_on(client: Client) -> None:
    check(client)
