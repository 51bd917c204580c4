"""Docstrings use the roles of reStructuredText, as PyTorch's do; the pages are Markdown."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Roles(griffe.Extension):
    """Turn ``:math:``, ``.. math::``, cross-references and simple tables of docstrings into Markdown."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of an object."""
        if obj.docstring is not None and not obj.is_alias:
            obj.docstring.value = markdown(obj.docstring.value)


def markdown(text: str) -> str:
    """Rewrite a docstring.

    Example:
        >>> markdown(":math:`x^2` of :func:`.few_label_readout` and ``y``")
        '$x^2$ of `few_label_readout` and `y`'
    """
    text = _tables(text)
    text = re.sub(r"^( *)Example:$", r"\1Examples:", text, flags=re.MULTILINE)
    text = re.sub(r"^( *)\.\. math:: (.+)$", r"\1$$\2$$", text, flags=re.MULTILINE)
    text = re.sub(r":math:`([^`]+)`", lambda found: f"${' '.join(found[1].split())}$", text)
    text = re.sub(r":(?:func|class|meth|attr|data|mod):`[~.]*([^`]+)`", lambda found: _code(found[1]), text)
    return re.sub(r"``([^`]+)``", r"`\1`", text)


def _code(path: str) -> str:
    return f"`{path.rpartition('.')[2]}`"


def _tables(text: str) -> str:
    """Simple tables of two columns, between lines of ``=``, as tables of Markdown."""
    lines, found, inside = text.split("\n"), list[str](), False
    for line in lines:
        indent, bare = line[: len(line) - len(line.lstrip())], line.strip()
        if re.fullmatch(r"=+ =+", bare):
            width, inside = len(indent) + bare.index(" ") + 1, not inside
            found += [f"{indent}| | |", f"{indent}|---|---|"] if inside else []
        elif inside and line[:width].strip():
            found.append(f"{indent}| {line[len(indent) : width].strip()} | {line[width:].strip()} |")
        elif inside:
            found[-1] = f"{found[-1][:-2]} {bare} |"
        else:
            found.append(line)
    return "\n".join(found)
