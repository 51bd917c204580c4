"""Ways in which other people's runs read and augment their data, with an encoder that is too small to matter."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.utilities import CombinedLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

SMOOTH = torch.randn(160, 3, 4, 4, generator=torch.Generator().manual_seed(0))
IMAGES = nn.functional.interpolate(SMOOTH, 8, mode="bilinear")
TOKENS = torch.randint(1, 50, (160, 12), generator=torch.Generator().manual_seed(1))
MASK_ID = 50


def augment(x: Tensor) -> Tensor:
    """Shifts an image, or all images of a batch, and adds noise, from three generators."""
    shift = int(torch.randint(0, 3, ()))
    return x.roll(shift, -1) * (1 + 0.1 * random.random()) + 0.3 * np.random.rand() * torch.randn_like(x)


def each(batch: Tensor) -> Tensor:
    """Augments images one by one."""
    return torch.stack([augment(x) for x in batch])


def plain(x: Tensor) -> Tensor:
    return x


class Images(Dataset):
    """Counts, and has generators of its own."""

    def __init__(self, transform: Callable[[Tensor], Tensor] = augment, views: int = 1) -> None:
        self.transform, self.views, self.count = transform, views, 0
        self.torch, self.numpy, self.python = torch.Generator(), np.random.default_rng(5), random.Random(5)

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        self.count += 1
        x = IMAGES[index]
        own = torch.rand(1, generator=self.torch).item() + self.numpy.random() + self.python.random()
        found = [self.transform(x) for _ in range(self.views)]
        found = [view + 1e-3 * own for view in found] if self.transform is not plain else found
        return (found[0] if self.views == 1 else found), index % 4

    def state(self) -> Any:
        return self.count, self.torch.get_state(), str(self.numpy.bit_generator.state), self.python.getstate()


class Stream(IterableDataset):
    """Images one after another."""

    def __init__(self, transform: Callable[[Tensor], Tensor] = augment, views: int = 1) -> None:
        self.transform, self.views, self.count = transform, views, 0

    def __iter__(self) -> Iterator[Any]:
        for place, x in enumerate(IMAGES):
            self.count += 1
            found = [self.transform(x) for _ in range(self.views)]
            yield (found[0] if self.views == 1 else found), place % 4

    def state(self) -> Any:
        return self.count


class Shards(Stream):
    """Files of records, each read and decoded as it comes, shuffled in a buffer: as webdataset does."""

    def __iter__(self) -> Iterator[Any]:
        buffer: list[Any] = []
        rng = random.Random(0)
        for record in super().__iter__():
            buffer.append({"jpg": record[0], "cls": record[1]})
            if len(buffer) > 8:
                yield buffer.pop(rng.randrange(len(buffer)))
        yield from buffer


class Pipeline(LightningModule):
    """Reads a dataset in batches of 16, and pulls the views that a step has together."""

    dataset: Any = staticmethod(Images)
    datamodule: type[LightningDataModule] | None = None
    batch_size = 16
    loader: ClassVar[dict[str, Any]] = {"shuffle": True}

    def __init__(self) -> None:
        super().__init__()
        convolutions = nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()
        self.encoder: nn.Module = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(16, 8)
        self.data = type(self).dataset()

    def embed(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.encoder(x))
        return found

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0]
        if isinstance(x, (list, tuple)):
            return sum((self.embed(view) for view in x), torch.zeros(())).square().mean()
        return self.embed(x).square().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), 1e-3)

    def train_dataloader(self) -> Any:
        return DataLoader(self.data, batch_size=self.batch_size, **self.loader)


class InDataset(Pipeline):
    """A transform in the dataset."""


class TwoViews(Pipeline):
    """A transform that gives two views."""

    dataset = staticmethod(lambda: Images(views=2))


def crops(examples: list[Any]) -> Any:
    x = torch.stack([example for example, _ in examples])
    return [[x[..., :5, :5], each(x), x[..., 1:6, 1:6]], torch.tensor([label for _, label in examples])]


class MultiCrop(Pipeline):
    """Crops of several sizes from the collate function, each given to the encoder by itself."""

    dataset = staticmethod(lambda: Images(plain))
    loader: ClassVar[dict[str, Any]] = {"shuffle": True, "collate_fn": crops}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        large, *small = sorted(batch[0], key=lambda crop: -crop.shape[-1])
        target = self.embed(large)
        return sum(((self.embed(crop) - target).square().mean() for crop in small), torch.zeros(()))


class Tokens(Dataset):
    """Sentences of twelve words."""

    def __init__(self) -> None:
        self.count = 0

    def __len__(self) -> int:
        return len(TOKENS)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        self.count += 1
        return {"input_ids": TOKENS[index], "attention_mask": torch.ones(12, dtype=torch.long)}

    def state(self) -> Any:
        return self.count


def masked_tokens(ids: Tensor) -> Tensor:
    return torch.where(torch.rand(ids.shape) < 0.3, MASK_ID, ids)


def masking(examples: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    batch: dict[str, Tensor] = torch.utils.data.default_collate(examples)
    return {**batch, "input_ids": masked_tokens(batch["input_ids"]), "labels": batch["input_ids"]}


class Words(nn.Module):
    """A bag of words, one vector for each sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(51, 16)
        self.mix = nn.Linear(16, 16)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found: Tensor = self.mix((self.embedding(input_ids) * attention_mask[..., None]).mean(1))
        return found


class MaskedWords(Pipeline):
    """Token ids that the collate function masks."""

    dataset = staticmethod(Tokens)
    loader: ClassVar[dict[str, Any]] = {"shuffle": True, "collate_fn": masking}

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = Words(), nn.Linear(16, 51)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        logits = self.head(self.encoder(batch["input_ids"], attention_mask=batch["attention_mask"]))
        return nn.functional.cross_entropy(logits, batch["labels"][:, 0])


class InCollate(Pipeline):
    """A collate function that augments the batch as a whole."""

    dataset = staticmethod(lambda: Images(plain))
    loader: ClassVar[dict[str, Any]] = {
        "shuffle": True,
        "collate_fn": lambda examples: (each(torch.stack([x for x, _ in examples])), torch.zeros(len(examples))),
    }


class InTransferHook(Pipeline):
    """Augmentation on the device, in the module's transfer hook."""

    dataset = staticmethod(lambda: Images(plain))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [each(batch[0]), batch[1]] if self.trainer.training else batch


class InDataModule(Pipeline):
    """The same in a datamodule, which counts."""

    class Module(LightningDataModule):
        def __init__(self) -> None:
            super().__init__()
            self.data, self.count = Images(plain), 0
            self.generator = torch.Generator().manual_seed(3)

        def train_dataloader(self) -> Any:
            return DataLoader(self.data, batch_size=16, shuffle=True)

        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            self.count += 1
            return [each(batch[0]) + 0.01 * torch.rand(1, generator=self.generator), batch[1]]

        def state(self) -> Any:
            return self.count, self.generator.get_state(), self.data.state()

    datamodule = Module


class InStep(Pipeline):
    """Two views made in the step, given to the encoder one after the other."""

    dataset = staticmethod(lambda: Images(plain))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return (self.embed(each(batch[0])) - self.embed(each(batch[0]))).square().mean()


class InStepConcatenated(InStep):
    """The same in one call."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        one, other = self.embed(torch.cat([each(batch[0]), each(batch[0])])).chunk(2)
        return (one - other).square().mean()


class Combined(Pipeline):
    """Labelled images as they are, and unlabelled ones with a transform, given to the encoder together."""

    dataset = staticmethod(lambda: Images(plain))

    def train_dataloader(self) -> Any:
        return CombinedLoader(
            {
                "labelled": DataLoader(self.data, batch_size=8, shuffle=True),
                "unlabelled": DataLoader(Images(), batch_size=16, shuffle=True),
            },
            "max_size_cycle",
        )

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.embed(torch.cat([batch["labelled"][0], batch["unlabelled"][0]])).square().mean()


class TwoViewStream(Pipeline):
    """Two views of each example of a stream."""

    dataset = staticmethod(lambda: Stream(views=2))
    loader: ClassVar[dict[str, Any]] = {}


class PlainStream(Pipeline):
    """One view of each example of a stream."""

    dataset = staticmethod(Stream)
    loader: ClassVar[dict[str, Any]] = {}


class StreamInStep(InStepConcatenated):
    """Examples of a stream, of which the step makes two views in one call."""

    dataset = staticmethod(lambda: Stream(plain))
    loader: ClassVar[dict[str, Any]] = {}


class ShardsInStep(InStep):
    """Records of shards, of which the step makes two views in two calls."""

    dataset = staticmethod(lambda: Shards(plain))
    loader: ClassVar[dict[str, Any]] = {}

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step([batch["jpg"], batch["cls"]], batch_idx)


class Supervised(Pipeline):
    """Images and their classes."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.embed(batch[0]), batch[1])


def with_mask(examples: list[Any]) -> tuple[Tensor, Tensor]:
    x = torch.stack([example for example, _ in examples])
    return x, (x > 0).float()


class MaskBeside(Pipeline):
    """A mask beside each picture, of the same shape."""

    dataset = staticmethod(lambda: Images(plain))
    loader: ClassVar[dict[str, Any]] = {"shuffle": True, "collate_fn": with_mask}


class UnrelatedStreams(Pipeline):
    """Batches of two streams that have nothing to do with each other, each given to the encoder."""

    dataset = staticmethod(lambda: Stream(plain))

    def train_dataloader(self) -> Any:
        return {
            "labelled": DataLoader(self.data, batch_size=16),
            "unlabelled": DataLoader(Stream(torch.randn_like), batch_size=16),
        }

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.embed(batch["labelled"][0]).square().mean() + self.embed(batch["unlabelled"][0]).square().mean()


class UnrelatedInOneCall(UnrelatedStreams):
    """The same in one call."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.embed(torch.cat([batch["labelled"][0], batch["unlabelled"][0]])).square().mean()
