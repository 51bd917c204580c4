"""LightningModules as others write them, in small: what a callback without arguments has to find its way in."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn.functional import interpolate, mse_loss, normalize, one_hot
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset


def mlp(inputs: int, outputs: int = 16) -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, outputs)
    )


def conv(channels: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


def transformer(dim: int = 16) -> nn.Module:
    layer = nn.TransformerEncoderLayer(dim, 2, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)


def patches(x: Tensor) -> Tensor:
    """``(N, 1, 8, 8)`` as ``(N, 4, 16)``."""
    return x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(1, 3).flatten(2)


def follow(slow: nn.Module, fast: nn.Module) -> None:
    with torch.no_grad():
        for one, other in zip(slow.parameters(), fast.parameters(), strict=True):
            one.lerp_(other, 0.1)


class Of(nn.Module):
    """Parts by name, and a forward over them."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.over = forward
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.over(self, *args, **kwargs)


class Foreign(LightningModule):
    """Images ``(1, 8, 8)`` with labels; what it returns for them, or another loss, is a subclass's."""

    path = "encoder"
    shape: tuple[int, ...] = (1, 8, 8)
    inside = ""  # where in it the representation is, in the words of the log

    def output(self, x: Tensor) -> Any:
        raise NotImplementedError

    def loss(self, x: Tensor) -> Tensor:
        found: Tensor = self.output(x).square().mean()
        return found

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.loss(batch[0])

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([p for p in self.parameters() if p.requires_grad], lr=1e-2)

    def train_dataloader(self) -> DataLoader[Any]:
        x = torch.rand(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(x, torch.arange(64) % 4), batch_size=8, shuffle=True)


class LightningsFirstExample(Foreign):
    """The step flattens the image."""

    shape = (64,)

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
        self.decoder = nn.Sequential(nn.Linear(3, 32), nn.ReLU(), nn.Linear(32, 64))

    def loss(self, x: Tensor) -> Tensor:
        x = x.view(x.size(0), -1)
        return mse_loss(self.decoder(self.encoder(x)), x)


class Prepared(Foreign):
    """A step that makes something else of the image before the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder: nn.Module = conv(self.channels)
        self.head = nn.Linear(16, 4)

    channels = 1

    def prepare(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def output(self, x: Tensor) -> Any:
        return self.head(self.encoder(self.prepare(x)))


class Crops(Prepared):
    shape = (1, 6, 6)

    def prepare(self, x: Tensor) -> Tensor:
        start = int(torch.randint(3, ()))
        return x[..., start : start + 6, :6]


class Resizes(Prepared):
    shape = (1, 12, 12)

    def prepare(self, x: Tensor) -> Tensor:
        return interpolate(x, 12)


class Normalises(Prepared):
    def prepare(self, x: Tensor) -> Tensor:
        return (x - 0.5) / 0.25


class Concatenates(Prepared):
    shape, channels = (3, 8, 8), 3

    def prepare(self, x: Tensor) -> Tensor:
        place = torch.linspace(-1, 1, 8).expand_as(x)
        return torch.cat([x, place, place.mT], 1)


class Patchifies(Prepared):
    shape = (4, 16)

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, 16), transformer())

    def prepare(self, x: Tensor) -> Tensor:
        return patches(x)

    def output(self, x: Tensor) -> Any:
        return self.head(self.encoder(self.prepare(x)).mean(1))


class Embeds(Foreign):
    """Token ids, embedded before the encoder."""

    shape = (6, 16)

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.encoder, self.lm_head = nn.Embedding(10, 16), transformer(), nn.Linear(16, 10)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        ids = batch["input_ids"]
        z = self.lm_head(self.encoder(self.embedding(ids)))
        return nn.functional.cross_entropy(z.flatten(0, 1), ids.flatten())

    def train_dataloader(self) -> DataLoader[Any]:
        ids = torch.randint(10, (64, 6), generator=torch.Generator().manual_seed(0))
        return DataLoader([{"input_ids": row} for row in ids], batch_size=8)


class BYOL(Foreign):
    path = "online_encoder"

    def __init__(self) -> None:
        super().__init__()
        self.target_encoder = conv().requires_grad_(False)  # before the one that it follows
        self.online_encoder, self.projector, self.predictor = conv(), mlp(16), mlp(16)
        self.target_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def loss(self, x: Tensor) -> Tensor:
        follow(self.target_encoder, self.online_encoder)
        follow(self.target_projector, self.projector)
        target = self.target_projector(self.target_encoder(x.flip(3)))
        return mse_loss(normalize(self.predictor(self.projector(self.online_encoder(x)))), normalize(target))


class MoCo(Foreign):
    """The averaged copy is trainable by its flags, and called without gradients, first."""

    path = "encoder_q"

    def __init__(self) -> None:
        super().__init__()
        self.encoder_k, self.encoder_q, self.head_q = conv(), conv(), nn.Linear(16, 8)
        self.head_k = nn.Linear(16, 8)
        self.register_buffer("queue", torch.rand(8, 16))

    def loss(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            follow(self.encoder_k, self.encoder_q)
            key = self.head_k(self.encoder_k(x.flip(3)))
        query = self.head_q(self.encoder_q(x))
        logits = torch.cat([(query * key).sum(1, keepdim=True), query @ self.queue], 1)
        self.queue = torch.cat([key.T, self.queue], 1)[:, :16]
        return nn.functional.cross_entropy(logits, torch.zeros(len(x)).long())

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([*self.encoder_q.parameters(), *self.head_q.parameters()], lr=0.1)


class DINO(Foreign):
    """Large and small crops; the teacher sees the large ones alone."""

    path = "student_backbone"

    def __init__(self) -> None:
        super().__init__()
        self.teacher_backbone, self.teacher_head = conv().requires_grad_(False), mlp(16).requires_grad_(False)
        self.student_backbone, self.student_head = conv(), mlp(16)

    def loss(self, x: Tensor) -> Tensor:
        teacher = self.teacher_head(self.teacher_backbone(x)).detach()
        small = [x[..., :5, :5], x[..., 3:, 3:]]
        return sum(mse_loss(self.student_head(self.student_backbone(v)), teacher) for v in [*small, x])  # type: ignore


class MultiCrop(Foreign):
    """A wrapper that takes a list of crops, and nothing else."""

    path = "student"

    def __init__(self) -> None:
        super().__init__()

        def forward(m: Any, crops: list[Tensor]) -> Tensor:
            return torch.cat([m.mlp(m.net(crop)) for crop in crops])

        self.student = Of(forward, net=conv(), mlp=mlp(16))

    def loss(self, x: Tensor) -> Tensor:
        one, two = self.student([x[..., :5, :5], x]).chunk(2)
        return mse_loss(one, two)


class Holders(Foreign):
    """Student and teacher as containers of trunk and head."""

    path = "student.trunk"

    def __init__(self) -> None:
        super().__init__()
        self.teacher = nn.ModuleDict({"trunk": conv(), "head": mlp(16)}).requires_grad_(False)
        self.student = nn.ModuleDict({"head": mlp(16), "trunk": conv()})

    def loss(self, x: Tensor) -> Tensor:
        one = self.student["head"](self.student["trunk"](x))
        return mse_loss(one, self.teacher["head"](self.teacher["trunk"](x.flip(3))))


class Backbone(nn.Module):
    """Takes some of the patches, or all."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = transformer()

    def forward(self, x: Tensor, idx_keep: Tensor | None = None) -> Any:
        if idx_keep is not None:
            x = x.gather(1, idx_keep[..., None].expand(-1, -1, x.shape[2]))
        return self.blocks(x)


class MaskedOptional(Foreign):
    """A masked autoencoder whose backbone is given which patches to keep, and has a default for it."""

    path, shape = "backbone", (4, 16)

    def __init__(self) -> None:
        super().__init__()

        self.decoder, self.backbone = nn.Linear(16, 16), Backbone()

    def loss(self, x: Tensor) -> Tensor:
        x = patches(x)
        keep = torch.rand(x.shape[:2]).argsort(1)[:, :2]
        return mse_loss(self.decoder(self.backbone(x, idx_keep=keep)).mean(1), x.mean(1))


class MaskedRequired(Foreign):
    """The backbone needs a mask; the transformer in it does not."""

    path, shape = "backbone", (4, 16)

    def __init__(self) -> None:
        super().__init__()

        self.backbone = Of(lambda m, x, mask: m.encoder(x * mask[..., None]), encoder=transformer())
        self.decoder = nn.Linear(16, 16)

    def loss(self, x: Tensor) -> Tensor:
        x = patches(x)
        return mse_loss(self.decoder(self.backbone(x, torch.rand(x.shape[:2]).round())), x)


class Flagged(Foreign):
    """The encoder needs a flag and a number."""

    def __init__(self) -> None:
        super().__init__()

        def forward(m: Any, train: bool, *, images: Tensor, scale: float) -> Any:
            return scale * m.net(images)

        self.encoder = Of(forward, net=conv())

    def output(self, x: Tensor) -> Any:
        return self.encoder(True, images=x, scale=2.0)


class Net(Foreign):
    """Names that say nothing, and a head that is larger than the trunk."""

    path = "net"

    def __init__(self) -> None:
        super().__init__()
        self.mlp, self.net = mlp(16, 64), conv()

    def output(self, x: Tensor) -> Any:
        return self.mlp(self.net(x))


class ResNet(Net):
    path = "resnet"

    def __init__(self) -> None:
        super().__init__()
        self.resnet, self.net = self.net, None  # type: ignore[assignment]

    def output(self, x: Tensor) -> Any:
        return self.mlp(self.resnet(x))


class VisionTransformer(Foreign):
    """Its `encoder` is the blocks, which take patches; `vit` takes the images."""

    path = "vit"

    def __init__(self) -> None:
        super().__init__()

        def forward(m: Any, x: Tensor) -> Any:
            x = torch.cat([m.cls.weight.expand(len(x), 1, -1), m.patch_embed(patches(x))], 1)
            return m.encoder(x)[:, 0]

        self.vit = Of(forward, patch_embed=nn.Linear(16, 16), cls=nn.Embedding(1, 16), encoder=transformer())
        self.projection_head = mlp(16)

    def loss(self, x: Tensor) -> Tensor:
        return mse_loss(self.projection_head(self.vit(x)), self.projection_head(self.vit(x.flip(3))))


class Inner(Foreign):
    """`model` returns a loss; the trunk is two levels below."""

    path = "model.backbone.body"

    def __init__(self) -> None:
        super().__init__()

        def body(m: Any, x: Tensor) -> tuple[int, int]:
            m.kept = m.body(x)
            return x.shape[2], x.shape[3]

        def forward(m: Any, x: Tensor) -> Any:
            m.backbone(x)
            return m.head(m.backbone.kept).square().mean()

        self.model = Of(forward, backbone=Of(body, body=conv()), head=mlp(16))

    def loss(self, x: Tensor) -> Tensor:
        return self.model(x)  # type: ignore[no-any-return]


class Whole(Foreign):
    """An autoencoder that is called as a whole."""

    path = "model.encoder"

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential()
        self.model.add_module("encoder", mlp(64))
        self.model.add_module("decoder", nn.Linear(16, 64))

    def loss(self, x: Tensor) -> Tensor:
        return mse_loss(self.model(x), x.flatten(1))


class Silent(Foreign):
    """An `encoder` whose forward returns nothing."""

    path = "net"

    def __init__(self) -> None:
        super().__init__()

        self.encoder, self.net = Of(lambda m, x: setattr(m, "last", x.detach().mean())), conv()

    def loss(self, x: Tensor) -> Tensor:
        self.encoder(x)
        return self.net(x).square().mean()  # type: ignore[no-any-return]


class ByMethod(Foreign):
    """The backbone is called through a method of its."""

    path = "backbone.forward_features"

    def __init__(self) -> None:
        super().__init__()

        class Backbone(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stem, self.blocks, self.fc = nn.Conv2d(1, 4, 3, 2, 1), conv(4), nn.Linear(16, 10)

            def forward_features(self, x: Tensor) -> Tensor:
                return self.blocks(self.stem(x))  # type: ignore[no-any-return]

            def forward(self, x: Tensor) -> Tensor:
                return self.fc(self.forward_features(x))  # type: ignore[no-any-return]

        self.head, self.backbone = mlp(16), Backbone()

    def output(self, x: Tensor) -> Any:
        return self.head(self.backbone.forward_features(x))


class Unused(Net):
    """An `encoder` that training does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 3)


class LinearProbe(Foreign):
    """A head is trained on a frozen backbone."""

    path = "backbone"

    def __init__(self) -> None:
        super().__init__()
        self.classifier, self.backbone = nn.Linear(16, 4), conv().requires_grad_(False)

    def loss(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            z = self.backbone(x)
        return self.classifier(z).logsumexp(1).mean()  # type: ignore[no-any-return]


class TwoTowers(Foreign):
    """Images and texts."""

    path = "image_encoder"

    def __init__(self) -> None:
        super().__init__()

        text = {"embedding": nn.Embedding(4, 16), "encoder": nn.Linear(16, 16)}
        self.text_encoder = Of(lambda m, ids: m.encoder(m.embedding(ids)), **text)
        self.image_encoder = conv()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return mse_loss(self.text_encoder(batch[1]), self.image_encoder(batch[0]))


class Recomputed(Crops):
    """Activations are computed again; in the first forward there are no gradients."""

    def prepare(self, x: Tensor) -> Tensor:
        return super().prepare(x).requires_grad_()

    def output(self, x: Tensor) -> Any:
        return self.head(checkpoint(self.encoder, self.prepare(x), use_reentrant=True))


class Compiled(Crops):
    """A compiled encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.graphs = 0
        torch._dynamo.reset()
        self.compile_encoder()

    def compile_encoder(self) -> None:
        self.encoder = torch.compile(self.encoder, backend=self.backend)  # type: ignore[assignment]

    def backend(self, graph: Any, _: Any) -> Any:
        self.graphs += 1
        return graph.forward


class CompiledInPlace(Compiled):
    def compile_encoder(self) -> None:
        self.encoder.compile(backend=self.backend)


class CompiledStep(Compiled):
    """What training computes is compiled as a whole: nothing can be seen, and the batch decides."""

    shape = (1, 8, 8)

    def compile_encoder(self) -> None:
        self.training_step = torch.compile(self.training_step, backend=self.backend)  # type: ignore[method-assign]

    def prepare(self, x: Tensor) -> Tensor:
        return x


class ByHand(Foreign):
    """Two optimizers, stepped in turn."""

    path = "encoder"

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.encoder, self.decoder = mlp(64), nn.Linear(16, 64)

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        x = batch[0]
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.zero_grad()
            self.manual_backward(mse_loss(self.decoder(self.encoder(x)), x.flatten(1)))
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.encoder.parameters()), torch.optim.SGD(self.decoder.parameters(), lr=0.1)


class OwnForward(Foreign):
    """No part has a name; training calls the module itself."""

    path, inside = "", "before its head `l2`"

    def __init__(self) -> None:
        super().__init__()
        self.l1, self.l2 = nn.Linear(64, 32), nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.l2(self.l1(x.flatten(1)).relu())  # type: ignore[no-any-return]

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return mse_loss(self(x), one_hot(y, 4).float())


class OwnForwardWithHead(OwnForward):
    path, inside = "trunk", ""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.fc = conv(), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.trunk(x))  # type: ignore[no-any-return]


class Initialising(Foreign):
    """A parameter that the first batch sets, as in ActNorm, and a layer whose size it decides."""

    def __init__(self) -> None:
        super().__init__()

        class Encoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.shift = nn.Parameter(torch.zeros(64))
                self.register_buffer("done", torch.tensor(False))
                self.linear = nn.LazyLinear(16)

            def forward(self, x: Tensor) -> Tensor:
                x = x.flatten(1)
                if not self.done:
                    self.shift.data.copy_(-x.detach().mean(0))
                    self.done.fill_(True)  # type: ignore[operator]
                return self.linear(x + self.shift)  # type: ignore[no-any-return]

        self.encoder = Encoder()

    def output(self, x: Tensor) -> Any:
        return self.encoder(x)


KINDS: list[type[Foreign]] = [
    LightningsFirstExample, Crops, Resizes, Normalises, Concatenates, Patchifies, Embeds, BYOL, MoCo, DINO, MultiCrop,
    Holders, MaskedOptional, MaskedRequired, Flagged, Net, ResNet, VisionTransformer, Inner, Whole, Silent, ByMethod,
    Unused, LinearProbe, TwoTowers, Recomputed, Compiled, CompiledInPlace, CompiledStep, ByHand, OwnForward,
    OwnForwardWithHead, Initialising,
]  # fmt: skip
"""All of them."""
