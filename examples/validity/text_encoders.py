"""Small encoders of text: token ids to the states of the tokens."""

from __future__ import annotations

import torch
from reviews import PAD, Mixer
from torch import Tensor, nn

from validity.encoders import DIM, Block
from validity.texts import TOKENS, WORDS

DROPOUT = 0.1


class TextEncoder(nn.Module):
    """An embedding, and what makes states of its vectors.

    ``"transformer"`` and ``"causal"`` (where a token sees those before it) have two blocks and learned positions,
    ``"mixer"`` two layers that see the neighbors and the mean, ``"bag"`` one vector for a text, made of the mean of
    its words. Without the embedding they have 39,000 weights, 43,000 and 10,000.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.embedding = nn.Embedding(WORDS, DIM, padding_idx=PAD)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.dropout = nn.Dropout(DROPOUT)
        if name in ("transformer", "causal"):
            self.position = nn.Parameter(0.02 * torch.randn(TOKENS, DIM))
            self.layers = nn.ModuleList(Block(causal=name == "causal") for _ in range(2))
        else:
            self.layers = nn.ModuleList(Mixer(DIM) if name == "mixer" else _Feedforward() for _ in range(2))
        self.norm = nn.LayerNorm(DIM)

    def forward(self, ids: Tensor) -> Tensor:
        return self.states(self.embedding(ids))

    def states(self, vectors: Tensor) -> Tensor:
        """``(N, T, DIM)`` of vectors in the place of embeddings; of a bag ``(N, 1, DIM)``."""
        if self.name == "bag":
            vectors = vectors.mean(1, keepdim=True)
        elif self.name != "mixer":
            vectors = vectors + self.position[: vectors.shape[1]]
        everything = torch.ones_like(vectors[..., 0])
        for layer in self.layers:
            vectors = self.dropout(vectors)
            vectors = layer(vectors, everything) if self.name == "mixer" else layer(vectors)
        states: Tensor = self.norm(vectors)
        return states


class _Feedforward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.LayerNorm(DIM), nn.Linear(DIM, DIM), nn.GELU(), nn.Linear(DIM, DIM))

    def forward(self, vectors: Tensor) -> Tensor:
        found: Tensor = vectors + self.inner(vectors)
        return found
