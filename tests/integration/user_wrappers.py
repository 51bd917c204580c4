"""Encoders within models that return something else: teachers, decoders, heads, comparisons; and in containers."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from tests.integration.user_modules import Foreign, Of, conv, mlp


class Wrapper(nn.Module):
    """Its own forward is that of the frozen copy."""

    def __init__(self) -> None:
        super().__init__()
        self.student = conv()
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def forward_student(self, x: Tensor) -> Any:
        return self.student(x)

    def forward(self, x: Tensor) -> Any:
        return self.teacher(x)


class ForwardIsTheTeacher(Foreign):
    """Training calls a method of the wrapper; its own forward is the frozen teacher."""

    path = "backbone.forward_student"

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = Wrapper(), nn.Linear(16, 8)

    def loss(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.head(self.backbone(x.flip(3)))
        return mse_loss(self.head(self.backbone.forward_student(x)), target)


class TeacherAndStudent(Foreign):
    """Trunk and projector are one module, of which the teacher is a copy."""

    path = "student.net"

    def __init__(self) -> None:
        super().__init__()
        self.student = Of(lambda m, x: m.proj(m.net(x)), net=conv(), proj=mlp(16))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)

    def loss(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.teacher(x.flip(3))
        return mse_loss(self.student(x), target)


class Averaged(Foreign):
    path = "net"

    def __init__(self) -> None:
        super().__init__()
        self.net, self.head = conv(), mlp(16)
        self.ema = torch.optim.swa_utils.AveragedModel(self.net)

    def loss(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.ema(x.flip(3))
        self.ema.update_parameters(self.net)
        return mse_loss(self.head(self.net(x)), self.head(target).detach())


class Distilled(Foreign):
    """The module named `encoder` is a frozen teacher."""

    path = "student"

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.student = conv().requires_grad_(False), conv()

    def loss(self, x: Tensor) -> Tensor:
        return mse_loss(self.student(x), self.encoder(x))


class Reconstructs(Foreign):
    path = "model.vit"

    def __init__(self) -> None:
        super().__init__()
        self.model = Of(lambda m, x: m.decoder(m.vit(x)).view_as(x), vit=mlp(64), decoder=nn.Linear(16, 64))

    def loss(self, x: Tensor) -> Tensor:
        return mse_loss(self.model(x), x)


class ReconstructsWithoutAName(Foreign):
    path = "net.a"

    def __init__(self) -> None:
        super().__init__()
        self.net = Of(lambda m, x: m.b(m.a(x)).view_as(x), a=conv(), b=nn.Linear(16, 64))

    def loss(self, x: Tensor) -> Tensor:
        return mse_loss(self.net(x), x)


class UNet(Foreign):
    path, inside = "unet", "after its part `unet.mid`"

    def __init__(self) -> None:
        super().__init__()

        def forward(m: Any, x: Tensor) -> Any:
            one = m.down(x)
            two = m.mid(one.relu())
            return m.out(torch.cat([m.up(two.relu()), one], 1))

        self.unet = Of(
            forward, down=nn.Conv2d(1, 8, 2, 2), mid=nn.Conv2d(8, 16, 2, 2), up=nn.ConvTranspose2d(16, 8, 2, 2),
            out=nn.ConvTranspose2d(16, 1, 2, 2),
        )  # fmt: skip

    def loss(self, x: Tensor) -> Tensor:
        return mse_loss(self.unet(x), x)


class Denoises(Foreign):
    """A diffusion model; the embedding of time steps is the narrowest part, and is none."""

    path, inside = "model", "after its part `model.mid`"

    def __init__(self) -> None:
        super().__init__()

        def forward(m: Any, x: Tensor, steps: Tensor) -> Any:
            z = m.down(x).relu() + m.time(steps[:, None] / 100)[..., None, None]
            return m.up(m.mid(z).relu())

        self.model = Of(
            forward, time=nn.Linear(1, 8), down=nn.Conv2d(1, 8, 2, 2), mid=nn.Conv2d(8, 8, 3, 1, 1),
            up=nn.ConvTranspose2d(8, 1, 2, 2),
        )  # fmt: skip

    def loss(self, x: Tensor) -> Tensor:
        steps, noise = torch.randint(100, (len(x),)), torch.randn_like(x)
        return mse_loss(self.model(x + noise * steps[:, None, None, None] / 100, steps), noise)


class VAE(Foreign):
    path = "vae.encoder"

    def __init__(self) -> None:
        super().__init__()
        encoder = Of(
            lambda m, x: (m.mu(z := m.net(x)), m.logvar(z)), net=conv(), mu=nn.Linear(16, 4), logvar=nn.Linear(16, 4)
        )

        def forward(m: Any, x: Tensor) -> Any:
            mean, variance = m.encoder(x)
            return m.dec(mean + torch.randn_like(mean) * (variance / 2).exp()).view_as(x), mean

        self.vae = Of(forward, encoder=encoder, dec=nn.Linear(4, 64))

    def loss(self, x: Tensor) -> Tensor:
        found, mean = self.vae(x)
        return mse_loss(found, x) + mean.square().mean()


class EncodesAndDecodes(Foreign):
    """Methods of one model."""

    path = "model.encode"

    def __init__(self) -> None:
        super().__init__()

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.one, self.two = nn.Linear(64, 16), nn.Linear(16, 64)

            def encode(self, x: Tensor) -> Any:
                return self.one(x.flatten(1)).relu()

            def decode(self, z: Tensor) -> Any:
                return self.two(z)

            def forward(self, x: Tensor) -> Any:
                return self.decode(self.encode(x)).view_as(x)

        self.model = Model()

    def loss(self, x: Tensor) -> Tensor:
        return mse_loss(self.model(x), x)


class Siamese(Foreign):
    """Projections and features of two views, together."""

    path = "net.trunk"

    def __init__(self) -> None:
        super().__init__()

        def forward(m: Any, one: Tensor, other: Tensor) -> Any:
            features = [m.trunk(one), m.trunk(other)]
            return *map(m.projector, features), *features

        self.net = Of(forward, trunk=conv(), projector=mlp(16))

    def loss(self, x: Tensor) -> Tensor:
        one, other, *_ = self.net(x, x.flip(3))
        return mse_loss(one, other)


class Similarities(Foreign):
    """Logits and labels of two views, as in MoCo's reference."""

    path = "moco.encoder_q"

    def __init__(self) -> None:
        super().__init__()

        def forward(m: Any, query: Tensor, key: Tensor) -> Any:
            q = m.encoder_q(query)
            with torch.no_grad():
                k = m.encoder_k(key)
            return q @ k.T, torch.arange(len(q))

        self.moco = Of(forward, encoder_k=conv().requires_grad_(False), encoder_q=conv())

    def loss(self, x: Tensor) -> Tensor:
        return cross_entropy(*self.moco(x, x.flip(3)))


class Classifies(Foreign):
    path, inside = "model", "before its head `model.fc`"

    def __init__(self) -> None:
        super().__init__()
        parts = {"conv1": nn.Conv2d(1, 8, 3), "layer1": conv(8), "fc": nn.Linear(16, 4)}
        self.model = Of(lambda m, x: m.fc(m.layer1(m.conv1(x))), **parts)

    def loss(self, x: Tensor) -> Tensor:
        return cross_entropy(self.model(x), torch.arange(len(x)) % 4)


class ClassifiesWithoutAName(Classifies):
    path, inside = "model", "before its head `model.5`"

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(*conv(), nn.Linear(16, 4))


class ClassifiesItself(Foreign):
    path, inside = "", "before its head `fc`"

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.layer1, self.fc = nn.Conv2d(1, 8, 3), conv(8), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.layer1(self.conv1(x)))

    def loss(self, x: Tensor) -> Tensor:
        return cross_entropy(self(x), torch.arange(len(x)) % 4)


class ProjectsInAHook(Foreign):
    """The projector is called by a hook on a layer of the model, as in torchgeo's BYOL."""

    path, inside = "backbone", "before its head `backbone.projector`"

    def __init__(self) -> None:
        super().__init__()

        def forward(m: Any, x: Tensor) -> Any:
            m.model(x)
            return m.kept

        self.backbone = Of(forward, model=nn.Sequential(*conv(), nn.Linear(16, 4)), projector=nn.Linear(16, 12))
        backbone: Any = self.backbone
        backbone.model[-2].register_forward_hook(lambda _, args, z: setattr(backbone, "kept", backbone.projector(z)))

    def loss(self, x: Tensor) -> Tensor:
        return self.backbone(x).square().mean()  # type: ignore[no-any-return]


class Adversarial(Foreign):
    """Nothing but a generator and a discriminator."""

    path, inside = "discriminator", "before its head `discriminator.1`"

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)))
        self.discriminator = nn.Sequential(conv(), nn.Linear(16, 1))

    def training_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        one, other = self.optimizers()  # type: ignore[misc]
        made = self.generator(torch.randn(len(batch[0]), 4))
        for optimizer, loss in (
            (one, lambda: self.discriminator(made).mean()),
            (other, lambda: self.discriminator(batch[0]).mean() - self.discriminator(made.detach()).mean()),
        ):
            optimizer.zero_grad()
            self.manual_backward(loss())
            optimizer.step()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.generator.parameters()), torch.optim.Adam(self.discriminator.parameters())


class InADict(Foreign):
    path = "nets.enc"

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleDict({"enc": conv(), "proj": mlp(16)})

    def output(self, x: Tensor) -> Any:
        return self.nets["proj"](self.nets["enc"](x))


class Copies(Foreign):
    """A copy of the encoder is made in the first step."""

    path = "net"

    def __init__(self) -> None:
        super().__init__()
        self.net = conv()

    def loss(self, x: Tensor) -> Tensor:
        found = self.net(x)
        if not hasattr(self, "slow"):
            self.slow = copy.deepcopy(self.net).requires_grad_(False)
        return mse_loss(found, self.slow(x) + 1)


KINDS: list[type[Foreign]] = [
    ForwardIsTheTeacher, TeacherAndStudent, Averaged, Distilled, Reconstructs, ReconstructsWithoutAName, UNet, Denoises,
    VAE, EncodesAndDecodes, Siamese, Similarities, Classifies, ClassifiesWithoutAName, ClassifiesItself,
    ProjectsInAHook, Adversarial, InADict, Copies,
]  # fmt: skip
"""All of them."""
