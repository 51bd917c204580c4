"""transformers, as its models stand in a LightningModule's ``self.model``."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import nn

from tests.clients.clients import Client, batches, check, images, marks, tokens

pytestmark = marks("transformers")
import transformers as tf  # noqa: E402

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip
VISION: dict[str, Any] = {**SMALL, "image_size": 32, "patch_size": 8}
TEXT: dict[str, Any] = {**SMALL, "vocab_size": 60, "max_position_embeddings": 32}
DECODER: dict[str, Any] = {
    "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 32,
}  # fmt: skip


class Module(LightningModule):
    """The model gives its own loss."""

    def __init__(self, model: nn.Module, **given: Any) -> None:
        super().__init__()
        self.model, self.given = model, given

    def arguments(self, batch: Any) -> dict[str, Any]:
        return dict(batch)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.model(**self.arguments(batch), **self.given).loss

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


class Pixels(Module):
    def arguments(self, batch: Any) -> dict[str, Any]:
        return {"pixel_values": batch}


class MaskedPixels(Pixels):
    def arguments(self, batch: Any) -> dict[str, Any]:
        return {"pixel_values": batch, "bool_masked_pos": torch.rand(len(batch), 16) < 0.5}


class Masked(Module):
    """A masked language model."""

    def arguments(self, batch: Any) -> dict[str, Any]:
        ids = batch["input_ids"]
        hidden = torch.rand(ids.shape) < 0.3
        return {**batch, "input_ids": ids.masked_fill(hidden, 3), "labels": ids.masked_fill(~hidden, -100)}


class Causal(Module):
    def arguments(self, batch: Any) -> dict[str, Any]:
        return {**batch, "labels": batch["input_ids"]}


class Headless(Module):
    """An own head on a model without one."""

    def __init__(self, model: nn.Module, **given: Any) -> None:
        super().__init__(model, **given)
        self.head = nn.Linear(32, 60)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.head(self.model(**batch).last_hidden_state).logsumexp(-1).mean()


class Waves(Module):
    """The steps of wav2vec 2.0's pretraining."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        length = int(self.model._get_feat_extract_output_lengths(batch.shape[1]))
        masked = torch.rand(len(batch), length) < 0.4
        masked[:, :2] = True
        negatives = torch.randint(0, length, (len(batch), length, 4)) + length * torch.arange(len(batch))[:, None, None]
        return self.model(batch, mask_time_indices=masked, sampled_negative_indices=negatives).loss


class Speech(Module):
    """HuBERT: a head that predicts clusters of frames."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.final_proj = nn.Linear(32, 10)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.final_proj(self.model(batch).last_hidden_state).logsumexp(-1).mean()


def _both(generator: torch.Generator, index: int) -> dict[str, Any]:
    return {**tokens(24, 60)(generator, index), "pixel_values": torch.rand(3, 32, 32, generator=generator)}


WAVES: dict[str, Any] = {
    **SMALL, "conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 8), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2, "feat_extract_norm": "group",
}  # fmt: skip
QUANTIZER: dict[str, Any] = {
    "num_codevectors_per_group": 8, "num_codevector_groups": 2, "codevector_dim": 16, "proj_codevector_dim": 16,
}  # fmt: skip
T5: dict[str, Any] = {
    "vocab_size": 60, "d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2,
    "decoder_start_token_id": 0,
}  # fmt: skip


def _clip() -> tf.CLIPModel:
    text, vision = {**TEXT, "eos_token_id": 2}, VISION
    return tf.CLIPModel(tf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))


def _gpt2() -> tf.GPT2Config:
    return tf.GPT2Config(vocab_size=60, n_positions=32, n_embd=32, n_layer=2, n_head=2)


CLIENTS = [
    Client(
        "ViTMAE",
        lambda: (Pixels(tf.ViTMAEForPreTraining(tf.ViTMAEConfig(**VISION, **DECODER))), batches(images(3, 32, 32))),
        "model.vit", (3, 32, 32),
    ),
    Client(
        "SimMIM (ViTForMaskedImageModeling)",
        lambda: (MaskedPixels(tf.ViTForMaskedImageModeling(tf.ViTConfig(**VISION, encoder_stride=8))),
                 batches(images(3, 32, 32))),
        "model.vit", (3, 32, 32),
    ),
    Client(
        "BERT (BertForMaskedLM)",
        lambda: (Masked(tf.BertForMaskedLM(tf.BertConfig(**TEXT))), batches(tokens(24, 60))),
        "model.bert", (24, 32),
    ),
    Client(
        "BertModel and a head", lambda: (Headless(tf.BertModel(tf.BertConfig(**TEXT))), batches(tokens(24, 60))),
        "model", (24, 32),
    ),
    Client(
        "GPT-2 (GPT2LMHeadModel)", lambda: (Causal(tf.GPT2LMHeadModel(_gpt2())), batches(tokens(24, 60))),
        "model.transformer", (24, 32),
    ),
    Client(
        "T5 (T5ForConditionalGeneration)",
        lambda: (Causal(tf.T5ForConditionalGeneration(tf.T5Config(**T5))), batches(tokens(24, 60))),
        "model.encoder", (24, 32),
    ),
    Client(
        "CLIP", lambda: (Module(_clip(), return_loss=True), batches(_both)),
        "model.vision_model", (3, 32, 32),
    ),
    Client(
        "Hubert", lambda: (Speech(tf.HubertModel(tf.HubertConfig(**WAVES))), batches(images(800))),
        "model", (800,),
    ),
    Client(
        "Wav2Vec2 (Wav2Vec2ForPreTraining)",
        lambda: (Waves(tf.Wav2Vec2ForPreTraining(tf.Wav2Vec2Config(**WAVES, **QUANTIZER))), batches(images(800))),
        "model.wav2vec2", (800,),
    ),
]  # fmt: skip


@pytest.mark.parametrize("client", CLIENTS, ids=str)
def test_the_model_is_probed_without_its_head_or_decoder(client: Client) -> None:
    check(client)
