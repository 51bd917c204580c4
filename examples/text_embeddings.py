"""Watch a text encoder while it pretrains, in the space of its token embeddings.

Token ids are integers, and no Gaussian example is one. So the probe begins behind the embedding table: it shows the
transformer standard normal sequences, scaled as the embeddings are at that moment. The encoder is a small masked
language model of the words in Python's own documentation, which ships with Python. What one learns from it:

- `encoder=` takes a function of the LightningModule and the examples; `input_shape=` says what cannot be read off ids;
- the function moves the examples into the place and spread of the embeddings, which change while the model learns;
- tokens are averaged: a task that shifts the first tokens one way and the last the other, `cos_0`, cancels out and is 0
  from the first probe on. It tells nothing here, and would be the worst case for ever: leave such tasks out.

What to expect: scores near 1 throughout. The residual stream of a transformer carries its input along, so that a linear
shift of all embeddings survives whatever is learned; here the score is an alarm for a collapse, and not a progress bar.
The effective rank moves more, from 55 to 50 of 64.

Nothing to download, about half a minute on one CPU core.

    pip install synbench-lightning
    python examples/text_embeddings.py
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections import Counter
from pydoc_data.topics import topics

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

from synbench_lightning import SynBenchCallback

VOCABULARY, TOKENS, DIM = 1000, 32, 64
MASK = 0


def sequences() -> Tensor:
    """Ids ``(N, TOKENS)`` of the most frequent words and signs; 0 stands for all others and for the mask."""
    words = re.findall(r"\w+|[^\w\s]", " ".join(topics.values()).lower())
    ids = {word: place for place, (word, _) in enumerate(Counter(words).most_common(VOCABULARY - 1), 1)}
    coded = torch.tensor([ids.get(word, MASK) for word in words])
    whole: Tensor = coded[: len(coded) // TOKENS * TOKENS].unflatten(0, (-1, TOKENS))
    return whole


class MaskedLanguageModel(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, DIM)
        self.position = nn.Parameter(0.1 * torch.randn(TOKENS, DIM))
        layer = nn.TransformerEncoderLayer(DIM, 4, 2 * DIM, dropout=0.0, batch_first=True, norm_first=True)
        self.trunk = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(DIM, VOCABULARY)

    def encode(self, embedded: Tensor) -> Tensor:
        """Contextual tokens ``(N, TOKENS, DIM)`` of embedded ones."""
        tokens: Tensor = self.trunk(embedded + self.position)
        return tokens

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        (ids,) = batch
        masked = torch.rand(ids.shape, device=ids.device) < 0.2
        logits = self.head(self.encode(self.embedding(ids.masked_fill(masked, MASK))))
        loss = nn.functional.cross_entropy(logits[masked], ids[masked])
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), 2e-3)


def encode_like_embeddings(module: LightningModule, x: Tensor) -> Tensor:
    """Features of standard normal examples ``(N, TOKENS, DIM)`` that are given the embeddings' mean and spread."""
    assert isinstance(module, MaskedLanguageModel)
    std, mean = torch.std_mean(module.embedding.weight, 0)
    return module.encode(x * std + mean)


def main() -> None:
    parser = argparse.ArgumentParser(description="Watch a text encoder while it pretrains.")
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps (default: %(default)s)")
    steps = parser.parse_args().steps
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    seed_everything(0)
    dataset = TensorDataset(sequences())
    batches = DataLoader(dataset, batch_size=32, sampler=RandomSampler(dataset, num_samples=32 * steps))
    synbench = SynBenchCallback(
        encoder=encode_like_embeddings,
        input_shape=(TOKENS, DIM),
        every_n_train_steps=max(1, steps // 6),
        tasks="smooth",
    )
    trainer = Trainer(
        max_steps=steps, accelerator="cpu", callbacks=[synbench], logger=False, enable_checkpointing=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(MaskedLanguageModel(), batches)
    print("\n step" + "".join(f"{task:>10s}" for task in synbench.history[0].tasks) + "  effective rank")
    for result in synbench.history:
        scores = "".join(f"{score:10.3f}" for score in result.task_scores().values())
        print(f"{result.step:5d}{scores}  {result.effective_rank:8.1f} of {result.feature_dim}")


if __name__ == "__main__":
    main()
