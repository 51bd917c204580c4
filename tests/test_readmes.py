"""What the README and the pages that it points to say: links lead somewhere, code runs, the first page is short."""

import re
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

import synbench_lightning

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "examples/README.md", "tests/performance/README.md", "tests/integration/README.md"]
PAGES += ["tests/mutants/README.md", "CONTRIBUTING.md", *(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md"))]


def anchors(page):
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    for link in links:
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("name", PAGES)
def test_commands_are_there(name):
    text = (ROOT / name).read_text()
    for script in re.findall(r"python (examples/\w+\.py)", text):
        assert (ROOT / script).exists(), script
    for module in re.findall(r"python -m ((?:tests|synbench_lightning)[\w.]+)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


@pytest.mark.parametrize("name", PAGES)
def test_code_runs(name):
    x = torch.randn(128, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    known = {
        **vars(synbench_lightning),
        "Trainer": lambda callbacks: Trainer(callbacks=callbacks, accelerator="cpu", logger=False),
        "ModelCheckpoint": ModelCheckpoint, "torch": torch, "images": x, "labels": torch.arange(128) % 2, "x": x,
        "y": torch.arange(128) % 2, "augment": lambda batch: batch + torch.randn_like(batch),
        "encoder": torch.nn.Flatten(),
    }  # fmt: skip
    for block in re.findall(r"^```python\n(.*?)^```", (ROOT / name).read_text(), re.MULTILINE | re.DOTALL):
        exec(block, known)


def test_the_first_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
