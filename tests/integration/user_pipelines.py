"""Models that do more than encode: stems before the encoder, decoders and targets behind it, methods."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from tests.integration.user_modules import Foreign, Of, conv, mlp, patches, transformer
from tests.integration.user_wrappers import Wrapper


class MaskedAutoencoder(Foreign):
    """Tokens are dropped before the encoder; the decoder is given mask tokens in their places."""

    path, inside = "mae", "after its part `mae.encoder`"

    def __init__(self) -> None:
        super().__init__()

        def forward(m: Any, x: Tensor) -> Any:
            tokens = m.patch_embed(patches(x))
            keep = torch.rand(tokens.shape[:2]).argsort(1)[:, :2, None].expand(-1, -1, 16)
            shown = m.encoder(tokens.gather(1, keep))
            return m.pred(m.decoder(m.mask_token.weight.expand_as(tokens).scatter(1, keep, shown)))

        self.mae = Of(
            forward, patch_embed=nn.Linear(16, 16), encoder=transformer(), mask_token=nn.Embedding(1, 16),
            decoder=transformer(), pred=nn.Linear(16, 16),
        )  # fmt: skip

    def loss(self, x: Tensor) -> Tensor:
        return mse_loss(self.mae(x), patches(x))


class ReturnsItsLoss(Foreign):
    """A stem, a context network over masked outputs of it, and projections of both: nothing but a loss is returned."""

    path, inside = "model", "before its head `model.final_proj`"

    def __init__(self) -> None:
        super().__init__()

        def forward(m: Any, x: Tensor) -> Any:
            z = m.feature_extractor(x.flatten(2)).transpose(1, 2)
            hidden = torch.rand(z.shape[:2]) < 0.5
            predicted = m.final_proj(m.encoder(z.masked_fill(hidden[..., None], 0.0)))
            return (predicted - m.target_proj(z.detach())).square().mean()

        stem = nn.Sequential(nn.Conv1d(1, 16, 8, 4), nn.ReLU(), nn.Conv1d(16, 16, 4, 2))
        heads = {"final_proj": nn.Linear(16, 16), "target_proj": nn.Linear(16, 16)}
        self.model = Of(forward, feature_extractor=stem, encoder=transformer(), **heads)

    def loss(self, x: Tensor) -> Tensor:
        return self.model(x)  # type: ignore[no-any-return]


class EncoderBehindAStem(Foreign):
    """A classifier whose module `encoder` is given embedded patches."""

    path, inside = "model", "before its head `model.fc`"

    def __init__(self) -> None:
        super().__init__()
        self.model = Of(
            lambda m, x: m.fc(m.encoder(m.patch_embed(patches(x)))[:, 0]),
            patch_embed=nn.Linear(16, 16), encoder=transformer(), fc=nn.Linear(16, 4),
        )  # fmt: skip

    def loss(self, x: Tensor) -> Tensor:
        return cross_entropy(self.model(x), torch.arange(len(x)) % 4)


class QuantizesWithoutAName(Foreign):
    """Codes of a vector-quantized autoencoder are what the decoder is given."""

    path = "model.enc"

    def __init__(self) -> None:
        super().__init__()

        def quantize(m: Any, z: Tensor) -> Any:
            rows = z.movedim(1, -1)
            codes = m.codes(torch.cdist(rows.flatten(0, 2), m.codes.weight).argmin(1)).view_as(rows).movedim(-1, 1)
            return z + (codes - z).detach(), mse_loss(codes, z.detach()) + mse_loss(z, codes.detach())

        def forward(m: Any, x: Tensor) -> Any:
            codes, loss = m.vq(m.enc(x))
            return m.dec(codes), loss

        enc = nn.Sequential(nn.Conv2d(1, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 8, 3, 1, 1))
        dec = nn.Sequential(nn.Conv2d(8, 16, 3, 1, 1), nn.ReLU(), nn.ConvTranspose2d(16, 1, 4, 2, 1))
        self.model = Of(forward, enc=enc, vq=Of(quantize, codes=nn.Embedding(12, 8)), dec=dec)

    def loss(self, x: Tensor) -> Tensor:
        found, loss = self.model(x)
        return mse_loss(found, x) + loss  # type: ignore[no-any-return]


class SmallStem(Foreign):
    """A layer without a name that says anything stands before the model."""

    path, inside = "net", "before its head `net.2`"

    def __init__(self) -> None:
        super().__init__()
        self.one, self.net = nn.Conv2d(1, 1, 1), nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 4))

    def loss(self, x: Tensor) -> Tensor:
        return cross_entropy(self.net(self.one(x)), torch.arange(len(x)) % 4)


class EncodesByAMethod(Foreign):
    """What the module returns is projected."""

    path = "model.encode"

    def __init__(self) -> None:
        super().__init__()

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net, self.mlp = conv(), mlp(16)

            def encode(self, x: Tensor) -> Any:
                return self.net(x)

            def forward(self, x: Tensor) -> Any:
                return self.mlp(self.encode(x))

        self.model = Model()

    def output(self, x: Tensor) -> Any:
        return self.model(x) - self.model(x.flip(3)).detach()


class MethodOfACompiled(Foreign):
    path = "backbone.forward_student"

    def __init__(self) -> None:
        super().__init__()
        torch._dynamo.reset()
        self.backbone: Any = torch.compile(Wrapper(), backend="eager")
        self.head = nn.Linear(16, 16)

    def loss(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.backbone(x.flip(3))
        return mse_loss(self.head(self.backbone.forward_student(x)), target)


KINDS: list[type[Foreign]] = [
    MaskedAutoencoder, ReturnsItsLoss, EncoderBehindAStem, QuantizesWithoutAName, SmallStem, EncodesByAMethod,
    MethodOfACompiled,
]  # fmt: skip
"""All of them."""


class MethodOfACompiledInPlace(MethodOfACompiled):
    """Calls of other methods than ``forward`` are not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Wrapper()
        self.backbone.compile(backend="eager")


class ReplacedBeforeTheStep(Foreign):
    """By a hook, when training has begun."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = conv(), nn.Linear(16, 8)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if self.global_step == 0:
            self.encoder = nn.Sequential(conv(), nn.Linear(16, 16))
            self.trainer.optimizers[0].add_param_group({"params": list(self.encoder.parameters())})

    def output(self, x: Tensor) -> Any:
        return self.head(self.encoder(x))


class WrappedInTheStep(Foreign):
    """What was called stands elsewhere after the step."""

    path = "net"

    def __init__(self) -> None:
        super().__init__()
        self.net, self.head = conv(), nn.Linear(16, 8)

    def output(self, x: Tensor) -> Any:
        found = self.head(self.net(x))
        if self.global_step == 0:
            self.net = nn.Sequential(self.net, nn.Identity())
        return found
