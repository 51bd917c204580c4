"""Infer the role of a module from its name."""

from __future__ import annotations

import re

TRUNKS = {"encoder", "backbone", "trunk", "body", "features", "extractor", "visual", "vision"}
"""Words in the names of encoders."""
ENCODES = {"encode", "extract", "represent", "representation", "representations", "features", "embeddings"}
"""Words in the names of methods that compute a representation."""
HEADS = {
    "head", "heads", "projector", "projection", "proj", "project", "predictor", "prediction", "predictions", "decoder",
    "classifier", "fc", "cls", "loss", "criterion", "discriminator", "prototypes", "logits", "readout", "decode",
    "predict", "pred", "classify", "reconstruct", "generate", "generator", "quantizer", "quantize", "codebook", "vq",
}  # fmt: skip
"""Words in the names of heads, which are applied to a representation."""
LOSSES = {"loss", "losses", "criterion", "discriminator", "critic", "perceptual", "lpips"}
"""Words in the names of losses."""
STEMS = {"embed", "embedding", "embeddings", "embedder", "stem", "tokenizer", "patchify", "augment", "augmentation",
         "normalize", "norm", "transform", "pos", "masking"}  # fmt: skip
"""Words in the names of modules before the encoder."""
AVERAGES = {"teacher", "momentum", "ema", "target", "average", "averaged", "key", "slow", "k"}
"""Words in the names of averaged copies of the trained encoder."""


def ordered_words(name: str) -> list[str]:
    """The words of a name, in their order.

    Example:
        >>> ordered_words("student.patchEncoder_q")
        ['student', 'patch', 'encoder', 'q']
    """
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]


def words(path: str) -> set[str]:
    """The words of a dotted attribute."""
    return set(ordered_words(path))


def last_words(path: str) -> set[str]:
    """The words of the last name in a dotted attribute."""
    return words(path.rpartition(".")[-1])


def named_like_encoder(path: str) -> bool:
    """Whether the last name in a dotted attribute is that of an encoder, by its last word with a known role.

    Example:
        >>> named_like_encoder("model.visual"), named_like_encoder("model.visual_projection")
        (True, False)
    """
    return _says(path.rpartition(".")[-1]) is TRUNKS


def is_head(path: str) -> bool:
    """Whether a module has the name of a head, or is inside of one, and does not have the name of an encoder.

    Example:
        >>> is_head("projection_head"), is_head("head.encoder"), is_head("student"), is_head("text_projection.0")
        (True, False, False, True)
    """
    return not named_like_encoder(path) and any(_says(name) is HEADS for name in path.split("."))


def _says(name: str) -> set[str] | None:
    """The role of the last word with a known one, as the noun decides in a compound."""
    for word in reversed(ordered_words(name)):
        for kind in (HEADS, TRUNKS):
            if word in kind:
                return kind
    return None
