"""Errors of the command line that the user can fix, reported in one line."""

from __future__ import annotations


class CommandError(Exception):
    """The command cannot do what it was asked to: exit code 1."""


class UsageError(CommandError):
    """The command was not asked properly: exit code 2."""


def in_one_line(error: BaseException) -> str:
    """The error's own words in one line; its type where it has none or an unusual one."""
    text = " ".join(str(error).split())
    if isinstance(error, CommandError) or (isinstance(error, ValueError) and text):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
