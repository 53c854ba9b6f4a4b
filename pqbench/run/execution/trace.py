"""Traces short enough for a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

MOST_ROWS = 1000
"""Of one stage in a record: enough for a plot, and some 200 kB of JSON."""

Row = dict[str, Any]


def thinned(rows: Sequence[Row], most: int = MOST_ROWS) -> list[Row]:
    """Every row with an `event`, and of the others as many as fit into `most`, evenly spaced, in the given order.

    The first and the last of the others stay; at least a quarter of `most` is theirs, however many events there are.
    """
    events = [position for position, row in enumerate(rows) if row.get("event")]
    others = [position for position, row in enumerate(rows) if not row.get("event")]
    kept = sorted([*events, *_spread(others, max(most - len(events), most // 4))])
    return [rows[position] for position in kept]


def _spread(positions: Sequence[int], most: int) -> Sequence[int]:
    if len(positions) <= most:
        return positions
    last = len(positions) - 1
    return [positions[round(i * last / max(most - 1, 1))] for i in range(most)]
