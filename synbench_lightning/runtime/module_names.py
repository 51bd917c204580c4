"""What the name of a module says about it."""

from __future__ import annotations

import re

TRUNKS = {"encoder", "backbone", "trunk", "body", "features", "extractor", "visual", "vision"}
"""Words in the name of what computes a representation."""
HEADS = {
    "head", "heads", "projector", "projection", "proj", "project", "predictor", "prediction", "predictions", "decoder",
    "classifier", "fc", "cls", "loss", "criterion", "discriminator", "prototypes", "logits", "readout",
}  # fmt: skip
"""Words in the name of what training puts behind it."""
STEMS = {"embed", "embedding", "embeddings", "embedder", "stem", "tokenizer", "patchify", "augment", "augmentation",
         "normalize", "norm", "transform", "pos", "masking"}  # fmt: skip
"""Words in the name of what stands before it."""
AVERAGES = {"teacher", "momentum", "ema", "target", "average", "averaged", "key", "slow", "k"}
"""Words in the name of a copy that follows the one that is trained."""


def words(path: str) -> set[str]:
    """The words of a dotted attribute.

    Example:
        >>> sorted(words("student.patchEncoder_q"))
        ['encoder', 'patch', 'q', 'student']
    """
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", path)}


def last_words(path: str) -> set[str]:
    """The words of the last name in a dotted attribute."""
    return words(path.rsplit(".", 1)[-1])


def named_like_encoder(path: str) -> bool:
    """Whether the last name in a dotted attribute says encoder."""
    return bool(last_words(path) & TRUNKS)


def is_head(path: str) -> bool:
    """Whether a module has the name of a head, and not that of an encoder inside one.

    Example:
        >>> is_head("projection_head"), is_head("head.encoder"), is_head("student")
        (True, False, False)
    """
    return bool(words(path) & HEADS) and not named_like_encoder(path)
