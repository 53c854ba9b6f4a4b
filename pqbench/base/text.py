"""Pieces of sentences: texts of others made to fit, and shares in per cent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

LONGEST_REASON: Final = 300
"""Characters of an error's text that a line, a table or a record takes."""


def shortened(text: str, longest: int = LONGEST_REASON) -> str:
    """The text on one line, of at most `longest` characters; one that is cut ends with `…`."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1].rstrip()}…"


def did_you_mean(name: str, known: Iterable[str], most: int = 2, cutoff: float = 0.6) -> str:
    """` Did you mean a or b?`, to go behind a sentence on an unknown name; nothing where none of `known` is near.

    most, cutoff   as `difflib.get_close_matches` has them: how many at most, and how alike at least
    """
    import difflib

    near = difflib.get_close_matches(name, list(known), n=most, cutoff=cutoff)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def percent(share: float) -> str:
    """0.0123 as `1.23 %`."""
    return f"{100 * share:.3g} %"
