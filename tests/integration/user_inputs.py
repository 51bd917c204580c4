"""Encoders that take something else than one tensor of pictures: words, masks, integers, time first, dataclasses."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from tests.integration.user_modules import Foreign, Of, conv, mlp, transformer

WORDS = 30


class Text(Foreign):
    """Token ids with a mask of padding."""

    path, shape = "text", (6, 16)

    def __init__(self) -> None:
        super().__init__()
        self.text = self.made()
        self.lm_head = nn.Linear(16, WORDS)

    def made(self) -> nn.Module:
        def forward(m: Any, ids: Tensor, attention_mask: Tensor | None = None) -> Any:
            padding = None if attention_mask is None else attention_mask == 0
            return m.blocks(m.embedding(ids), src_key_padding_mask=padding)

        return Of(forward, embedding=nn.Embedding(WORDS, 16), blocks=transformer())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.lm_head(self.text(batch["ids"], attention_mask=batch["mask"])).logsumexp(-1).mean()

    def train_dataloader(self) -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(1, WORDS, (64, 6), generator=generator)
        mask = (torch.arange(6) < 6 - torch.arange(64)[:, None] % 3).long()
        return DataLoader([{"ids": i * m, "mask": m} for i, m in zip(ids, mask, strict=True)], batch_size=8)


class Causal(Text):
    """Its model returns logits and a loss."""

    path, inside = "model", "before its head `model.lm_head`"

    def __init__(self) -> None:
        super().__init__()
        self.text = None

        def forward(m: Any, ids: Tensor, targets: Tensor) -> Any:
            logits = m.lm_head(m.h(m.wte(ids) + m.wpe(torch.arange(ids.shape[1]))))
            return logits, cross_entropy(logits.flatten(0, 1), targets.flatten())

        self.model = Of(
            forward, wte=nn.Embedding(WORDS, 16), wpe=nn.Embedding(6, 16), h=transformer(), lm_head=self.lm_head
        )

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.model(batch["ids"], batch["ids"])[1]


class Tied(Text):
    """Words are predicted with the weights of the embedding."""

    inside = "after its part `text.blocks`"

    def made(self) -> nn.Module:
        def forward(m: Any, ids: Tensor, attention_mask: Any = None) -> Any:
            return m.blocks(m.embedding(ids)) @ m.embedding.weight.T

        return Of(forward, embedding=nn.Embedding(WORDS, 16), blocks=transformer())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return cross_entropy(self.text(batch["ids"]).flatten(0, 1), batch["ids"].flatten())


class OneMapping(Text):
    """All that it is given is one mapping, as transformers' BatchEncoding."""

    def made(self) -> nn.Module:
        return Of(lambda m, batch: m.net(m.words(batch["ids"])), words=nn.Embedding(WORDS, 16), net=transformer())

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.lm_head(self.text(UserDict(batch))).logsumexp(-1).mean()


class WordsTimeFirst(Text):
    def made(self) -> nn.Module:
        layer = nn.TransformerEncoderLayer(16, 2, 32)

        def forward(m: Any, ids: Tensor, padding: Tensor) -> Any:
            return m.net(m.words(ids), src_key_padding_mask=padding)

        net = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        return Of(forward, words=nn.Embedding(WORDS, 16), net=net)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.lm_head(self.text(batch["ids"].T, batch["mask"] == 0)).logsumexp(-1).mean()


class Takes(Foreign):
    """An encoder of pictures that are prepared for it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = self.made(), mlp(16)

    def made(self) -> nn.Module:
        raise NotImplementedError

    def given(self, x: Tensor) -> Any:
        raise NotImplementedError

    def output(self, x: Tensor) -> Any:
        return self.head(self.encoder(self.given(x)))


class TakesBytes(Takes):
    def made(self) -> nn.Module:
        return Of(lambda m, x: m.net(x.float() / 255), net=conv())

    def given(self, x: Tensor) -> Any:
        return (x * 255).to(torch.uint8)


class TakesHalfPrecision(TakesBytes):
    def made(self) -> nn.Module:
        def forward(m: Any, x: Tensor) -> Any:
            if x.dtype != torch.float16:
                raise TypeError(x.dtype)
            return m.net(x.float())

        return Of(forward, net=conv())

    def given(self, x: Tensor) -> Any:
        return x.half()


@dataclass
class Sample:
    image: Tensor
    label: Tensor


class TakesADataclass(Takes):
    def made(self) -> nn.Module:
        return Of(lambda m, sample: m.net(sample.image), net=conv())

    def given(self, x: Tensor) -> Any:
        return Sample(x, torch.zeros(len(x)))


class TakesSpectra(Takes):
    shape = (1, 8, 5, 2)

    def made(self) -> nn.Module:
        return Of(
            lambda m, x: torch.view_as_real(m.layer(x).mean((1, 2))).flatten(1),
            layer=nn.Linear(5, 8, dtype=torch.complex64),
        )

    def given(self, x: Tensor) -> Any:
        return torch.fft.rfft(x)


class TakesTimeFirst(Takes):
    shape = (4, 16)

    def made(self) -> nn.Module:
        return nn.LSTM(16, 16)

    def output(self, x: Tensor) -> Any:
        _, (hidden, _) = self.encoder(x.reshape(len(x), 4, 16).transpose(0, 1))
        return self.head(hidden[-1])


class KeepsAState(Takes):
    """It remembers as many states as there were examples."""

    def made(self) -> nn.Module:
        def forward(m: Any, x: Tensor) -> Any:
            m.state = (m.net(x) + 0.5 * m.state).detach()
            return m.net(x) + 0 * m.state

        found: Any = Of(forward, net=conv())
        found.state = torch.zeros(8, 16)
        return found  # type: ignore[no-any-return]

    def given(self, x: Tensor) -> Any:
        return x


KINDS: list[type[Foreign]] = [
    Text, Causal, Tied, OneMapping, WordsTimeFirst, TakesBytes, TakesHalfPrecision, TakesADataclass, TakesSpectra,
    TakesTimeFirst, KeepsAState,
]  # fmt: skip
"""All of them."""
