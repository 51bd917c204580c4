"""Pages that include documents of the repository, and links to files of the repository that are not pages."""

from __future__ import annotations

import os
import re
from pathlib import Path
from posixpath import normpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {
    "README.md": "index.md",
    "examples/README.md": "study.md",
    "tests/performance/README.md": "costs.md",
}
"""Documents of the repository that a page includes; links to them lead to the page."""


IMAGES = ("examples/task_robust.png", "examples/layers.png")
"""Images of included documents."""


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add the images of included documents to the pages."""
    for image in IMAGES:
        files.append(File.generated(config, Path(image).name, abs_src_path=str(ROOT / image)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Append the sections that the page's front matter names, as ``include: ["README.md#the-keys-that-matter"]``."""
    parts = [_relinked(markdown, "docs")]
    for source in page.meta.get("include", ()):
        path, _, anchor = source.partition("#")
        parts.append(_relinked(_section((ROOT / path).read_text(), anchor), str(Path(path).parent)))
    return "\n\n".join(parts)


def _section(text: str, anchor: str) -> str:
    """Take a section with the anchor of its heading; all that follows the title without an anchor."""
    sections = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    if not anchor:
        return text.partition("\n")[2]
    headings = [re.sub(r"[^\w\- ]", "", part.partition("\n")[0].lower()).strip().replace(" ", "-") for part in sections]
    return sections[headings.index(anchor)]


def _relinked(markdown: str, folder: str) -> str:
    """Rewrite links that are relative to the folder of a document."""

    def link(found: re.Match[str]) -> str:
        text, target = found.groups()
        if re.match(r"(https?:|#|mailto:)", target):
            return found[0]
        path, _, anchor = target.partition("#")
        full, suffix = normpath(f"{folder}/{path}"), f"#{anchor}" if anchor else ""
        if full in PAGES:
            return f"{text}({PAGES[full]}{suffix})"
        if full.startswith("docs/"):
            return f"{text}({full.removeprefix('docs/')}{suffix})"
        server, name = os.environ.get("GITHUB_SERVER_URL"), os.environ.get("GITHUB_REPOSITORY")
        # Outside GitHub's machines the address of the repository is not known: the text alone is shown.
        return f"{text}({server}/{name}/blob/main/{full}{suffix})" if server and name else text[1:-1]

    return re.sub(r"(?<!!)(\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^)\s]+)\)", link, markdown)
