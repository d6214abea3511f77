r"""Text of others, shown to people: nothing in it commands a terminal or ends a line."""

from __future__ import annotations

__all__ = ["printable"]


def printable(text: str) -> str:
    r"""Return a text with what cannot be printed written out, as in `\x1b` or `\n`."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
