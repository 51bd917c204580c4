"""Real images that dependencies ship, several label sets for each, and their random variations."""

from __future__ import annotations

import gzip
import math
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Protocol

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits, load_sample_images
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

TEST_SHARE = 1 / 3
TEST_IMAGES = {"digits": 599, "patches": 694, "glyphs": 700, "recoloured": 700, "pictures": 700, "fashion": 3000}
"""How many are tested on."""

FONTS = {
    "sans": ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "cmss10"),
    "serif": (
        *("DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic", "DejaVuSerif-BoldItalic", "STIXGeneral"),
        *("STIXGeneralBol", "STIXGeneralItalic", "STIXGeneralBolIta", "cmr10", "cmb10", "cmti10"),
    ),
    "mono": ("DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique", "cmtt10"),
}
"""Those that matplotlib ships and that have all letters, by family."""
LETTERS = "ABCDEFGHIJ"
PICTURES = {
    "scene": (
        "astronaut.png",
        "camera.png",
        "chelsea.png",
        "coffee.png",
        "coins.png",
        "motorcycle_left.png",
        "rocket.jpg",
    ),
    "surface": ("brick.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "retina.jpg"),
}
"""Those that scikit-image ships, by kind."""
Transform = Callable[[Tensor], Tensor]


class Augmentation(Protocol):
    """A random variation of each image; 1 is the strength of the study, 0 changes nothing."""

    def __call__(self, images: Tensor, strength: float = 1.0) -> Tensor: ...


@dataclass(frozen=True)
class Images:
    """Standardized images ``(N, C, H, H)`` and integer labels ``(N,)`` for each label set, split once and for all.

    The first label set is what supervised pretraining learns and what the linear probe's accuracy means where nothing
    else is said; the second is the coarser one of the regime ``coarse``. ``augment`` is what pretraining augments with,
    ``views`` change what must not matter to the first label set, ``wrong_views`` also what it is about.
    """

    train: Tensor
    test: Tensor
    train_labels: dict[str, Tensor]
    test_labels: dict[str, Tensor]
    augment: Augmentation
    views: Augmentation
    wrong_views: Transform

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.train.shape[1:])

    def to(self, device: str) -> Images:
        """The training images and labels there."""
        labels = {name: values.to(device) for name, values in self.train_labels.items()}
        return replace(self, train=self.train.to(device), train_labels=labels)


def load_images(name: str) -> Images:
    """``"digits"``: 1,797 scanned digits; ``"patches"``: 2,080 patches of two photographs; ``"glyphs"``: 2,100 letters
    of 21 fonts in random colours, and ``"recoloured"`` the same with pretraining that recolours them, all of 8 x 8;
    ``"pictures"``: 2,100 patches of 24 x 24 of 14 pictures; ``"fashion"``: 9,000 garments of 28 x 28."""
    images, labels = SOURCES[name]()
    first = next(iter(labels.values()))
    train, test = train_test_split(np.arange(len(images)), test_size=TEST_SHARE, stratify=first, random_state=0)
    mean, std = images[train].mean(), images[train].std()
    images = ((images - mean) / std).float()
    of_train, of_test = ({key: value[part] for key, value in labels.items()} for part in (train, test))
    recolour = partial(_recoloured, low=float(images[train].min()), high=float(images[train].max()))
    views: Augmentation = augment
    if name in ("glyphs", "recoloured"):
        views = lambda images, strength=1.0: augment(  # noqa: E731
            images.lerp(recolour(images), min(strength, 1.0)), strength
        )
    wrong = _turned if images.shape[1] == 1 or name in ("glyphs", "recoloured") else _colour_jittered
    return Images(
        images[train], images[test], of_train, of_test, augment=views if name == "recoloured" else augment, views=views,
        wrong_views=lambda x: wrong(views(x)),
    )  # fmt: skip


def _digits() -> tuple[Tensor, dict[str, Tensor]]:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float64)[:, None] / 16
    digit = torch.tensor(digits.target)
    labels = {
        "digit": digit,
        "parity": digit % 2,
        "size": (digit >= 5).long(),
        "loops": torch.tensor([1, 0, 0, 0, 0, 0, 1, 0, 2, 1])[digit],
        "ink": _above_median(images.mean((1, 2, 3))),
        "slant": _above_median(_slant(images)),
    }
    return images, labels


def _patches() -> tuple[Tensor, dict[str, Tensor]]:
    """Patches that do not overlap, from photographs at half their size; a region is a sixth of a photograph."""
    found, regions = [], []
    for index, photograph in enumerate(load_sample_images().images):
        pixels = torch.tensor(photograph, dtype=torch.float64).permute(2, 0, 1)[None] / 255
        small = F.avg_pool2d(pixels, 2)[0]
        cut = small.unfold(1, 8, 8).unfold(2, 8, 8)  # (C, rows, columns, 8, 8)
        rows, columns = cut.shape[1:3]
        row, column = torch.meshgrid(
            torch.arange(rows) * 2 // rows, torch.arange(columns) * 3 // columns, indexing="ij"
        )
        regions.append((6 * index + 3 * row + column).flatten())
        found.append(cut.permute(1, 2, 0, 3, 4).flatten(0, 1))
    images, region = torch.cat(found), torch.cat(regions)
    vertical = images.diff(dim=2).square().mean((1, 2, 3))
    horizontal = images.diff(dim=3).square().mean((1, 2, 3))
    labels = {
        "region": region,
        "photograph": region // 6,
        "row": region % 6 // 3,
        "column": region % 3,
        "brightness": _above_median(images.mean((1, 2, 3))),
        "edges": _above_median((vertical + 1e-4).log() - (horizontal + 1e-4).log()),
    }
    return images, labels


def _glyphs() -> tuple[Tensor, dict[str, Tensor]]:
    """Each letter of each font ten times, at different places, in lighter colours on darker grounds."""
    rng = np.random.default_rng(0)
    images, labels = [], []
    for (family, (font, drawn)), letter, _ in product(_fonts(), LETTERS, range(10)):
        ink, ground = _two_colours(rng)
        picture = Image.new("L", (32, 32))
        place = 16 + rng.uniform(-3, 3, 2)
        ImageDraw.Draw(picture).text(tuple(place), letter, fill=255, font=drawn, anchor="mm")
        cover = torch.tensor(np.asarray(picture).reshape(8, 4, 8, 4).mean((1, 3)) / 255)
        images.append(ground[:, None, None] + (ink - ground)[:, None, None] * cover)
        bold, slanted = "Bol" in font or font == "cmb10", any(mark in font for mark in ("Obl", "Ita", "cmti"))
        hue = int((ink - ground).argmax())
        labels.append((LETTERS.index(letter), bold, slanted, list(FONTS).index(family), hue, int(ground.argmax())))
    names = ("letter", "bold", "slanted", "family", "hue", "ground")
    return torch.stack(images), dict(zip(names, torch.tensor(labels).T.contiguous(), strict=True))


def _pictures() -> tuple[Tensor, dict[str, Tensor]]:
    """150 patches that do not overlap of each picture, spread over it; grey ones three times."""
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise SystemExit("These images are scikit-image's: pip install scikit-image")
    images, labels = [], []
    for index, (kind, name) in enumerate((kind, name) for kind, names in PICTURES.items() for name in names):
        with Image.open(Path(spec.origin).parent / "data" / name) as picture:
            pixels = torch.tensor(np.asarray(picture.convert("RGB")), dtype=torch.float64).permute(2, 0, 1) / 255
        cut = pixels.unfold(1, 24, 24).unfold(2, 24, 24).permute(1, 2, 0, 3, 4).flatten(0, 1)
        chosen = torch.linspace(0, len(cut) - 1, 150).round().long()
        images.append(cut[chosen])
        labels += [(index, list(PICTURES).index(kind))] * len(chosen)
    found = torch.cat(images)
    vertical, horizontal = (found.diff(dim=dim).square().mean((1, 2, 3)) for dim in (2, 3))
    picture_of, kind_of = torch.tensor(labels).T.contiguous()
    return found, {
        "picture": picture_of,
        "kind": kind_of,
        "brightness": _above_median(found.mean((1, 2, 3))),
        "contrast": _above_median(found.mean(1).flatten(1).std(1)),
        "edges": _above_median((vertical + 1e-4).log() - (horizontal + 1e-4).log()),
    }


def _fashion() -> tuple[Tensor, dict[str, Tensor]]:
    """9,000 of the photographs of Fashion-MNIST (Xiao et al., 2017), as torchvision and Debian keep them."""
    folders = [
        Path(os.environ.get("FASHION_MNIST", "data/FashionMNIST/raw")),
        Path("/usr/share/datasets/fashion-mnist"),
    ]
    folder = next((one for one in folders if list(one.glob("train-images-idx3-ubyte*"))), None)
    if folder is None:
        raise SystemExit(
            "These images are Fashion-MNIST's: `torchvision.datasets.FashionMNIST('data', download=True)`, or Debian's "
            "package dataset-fashion-mnist, or name their folder in the environment variable FASHION_MNIST"
        )
    pixels, garment = (_idx(folder, f"train-{name}-ubyte") for name in ("images-idx3", "labels-idx1"))
    chosen = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))[:9000]
    images, garment = pixels[chosen][:, None].double() / 255, garment[chosen].long()
    worn_on = torch.tensor([0, 1, 0, 0, 0, 2, 0, 2, 3, 2])[garment]  # body, legs, feet, hand
    labels = {
        "garment": garment,
        "shoe": (worn_on == 2).long(),
        "worn on": worn_on,
        "ink": _above_median(images.mean((1, 2, 3))),
        "edges": _above_median(images.diff(dim=2).abs().mean((1, 2, 3)) - images.diff(dim=3).abs().mean((1, 2, 3))),
    }
    return images, labels


def _idx(folder: Path, name: str) -> Tensor:
    """A file of the IDX format, compressed or not."""
    path = next(iter(sorted(folder.glob(f"{name}*"))))
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    ndim = content[3]
    shape = np.frombuffer(content, ">i4", ndim, 4)
    return torch.tensor(np.frombuffer(content, np.uint8, offset=4 + 4 * ndim).reshape(shape))


SOURCES = {
    "fashion": _fashion,
    "digits": _digits,
    "patches": _patches,
    "glyphs": _glyphs,
    "recoloured": _glyphs,
    "pictures": _pictures,
}


def _fonts() -> Iterator[tuple[str, tuple[str, ImageFont.FreeTypeFont]]]:
    """Family, name and font."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    for family, names in FONTS.items():
        for name in names:
            yield family, (name, ImageFont.truetype(str(folder / f"{name}.ttf"), 26))


def _two_colours(rng: np.random.Generator) -> Tensor:
    """Ink and ground ``(2, 3)``; the ink is lighter by three tenths of the range at least."""
    while True:
        ink, ground = torch.tensor(rng.uniform(size=(2, 3)))
        if float((ink - ground).mean()) > 0.3:
            return torch.stack([ink, ground])


def _above_median(values: Tensor) -> Tensor:
    return (values > values.median()).long()


def _slant(images: Tensor) -> Tensor:
    """Covariance of row and column under the ink."""
    ink = images[:, 0] / images[:, 0].sum((1, 2), keepdim=True)
    place = torch.arange(8.0, dtype=torch.float64)
    row, column = (ink.sum(2) @ place), (ink.sum(1) @ place)
    return torch.einsum("nij,i,j->n", ink, place, place) - row * column


def augment(images: Tensor, strength: float = 1.0) -> Tensor:
    """Slightly rotated, zoomed, shifted, partly erased, noisy variations of standardized images."""
    n, size = len(images), images.shape[-1]
    angle, zoom = strength * math.radians(15) * _uniform(n), 1 + strength * 0.15 * _uniform(n)
    shift = strength * 0.25 * _uniform(n, 2)  # the image spans 2 units: up to an eighth of it
    cos, sin = zoom * angle.cos(), zoom * angle.sin()
    affine = torch.stack([torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, align_corners=False, padding_mode="border")
    centre = torch.randint(0, size, (n, 2, 1))
    row, column = ((torch.arange(size) - centre).abs() <= size // 8).unbind(1)
    hidden = (row[:, :, None] & column[:, None, :])[:, None]
    if strength < 1:
        hidden = hidden & (torch.rand(n, 1, 1, 1) < strength)
    erased = moved.masked_fill(hidden, float(images.min()))
    return erased + strength * 0.25 * torch.randn_like(erased)


def _recoloured(images: Tensor, low: float, high: float) -> Tensor:
    """Letters in other colours, drawn as those of :func:`_glyphs` are."""
    grey = images.mean(1, keepdim=True)
    least, most = grey.amin((2, 3), keepdim=True), grey.amax((2, 3), keepdim=True)
    cover = (grey - least) / (most - least + 1e-6)
    ink, ground = (low + (high - low) * _colours(len(images)))[..., None, None].unbind(1)
    return ground + (ink - ground) * cover


def _colours(n: int) -> Tensor:
    """Inks and grounds ``(n, 2, 3)`` in [0, 1]."""
    pairs = torch.rand(n, 2, 3)
    again = (pairs[:, 0] - pairs[:, 1]).mean(1) <= 0.3
    if bool(again.any()):
        pairs[again] = _colours(int(again.sum()))
    return pairs


def _turned(images: Tensor) -> Tensor:
    """Turned by quarters, and half of them mirrored."""
    found, turns = images.clone(), torch.randint(4, (len(images),))
    for turn in range(1, 4):
        found[turns == turn] = images[turns == turn].rot90(turn, (2, 3))
    mirrored = torch.rand(len(images)) < 0.5
    found[mirrored] = found[mirrored].flip(3)
    return found


def _colour_jittered(images: Tensor) -> Tensor:
    """Another gain and offset of each channel."""
    shape = (*images.shape[:2], 1, 1)
    return images * (1 + 0.5 * _uniform(*shape)) + _uniform(*shape)


def _uniform(*shape: int) -> Tensor:
    return 2 * torch.rand(*shape) - 1
