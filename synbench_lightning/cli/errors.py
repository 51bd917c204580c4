"""Errors of the command line that the user can fix, reported in one line."""

from __future__ import annotations


class CommandError(Exception):
    """The command failed: exit code 1."""


class UsageError(CommandError):
    """The arguments are wrong: exit code 2."""


def in_one_line(error: BaseException) -> str:
    """The message of an error in one line, with its type unless the error is a ``CommandError`` or ``ValueError``."""
    text = " ".join(str(error).split())
    if isinstance(error, CommandError) or (isinstance(error, ValueError) and text):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
