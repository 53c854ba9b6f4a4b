"""Pieces of sentences: texts of others made to fit, and shares in per cent."""

from __future__ import annotations

from typing import Final

LONGEST_REASON: Final = 300
"""Characters of an error's text that a line, a table or a record takes."""


def shortened(text: str, longest: int = LONGEST_REASON) -> str:
    """The text on one line, of at most `longest` characters; one that is cut ends with `…`."""
    line = " ".join(text.split())
    return line if len(line) <= longest else f"{line[: longest - 1].rstrip()}…"


def percent(share: float) -> str:
    """0.0123 as `1.23 %`."""
    return f"{100 * share:.3g} %"
