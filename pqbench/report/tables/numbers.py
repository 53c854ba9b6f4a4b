"""Numbers as people read them: three digits where they matter, the same decimals down a column."""

from __future__ import annotations

import math
from collections.abc import Iterable

MOST_DECIMALS = 4


def decimals(values: Iterable[float], fewest: int = 3, most: int = 5) -> int:
    """Decimals for a column: the smallest value shows `fewest` digits, unless the largest then has over `most`."""
    sizes = [abs(value) for value in values if math.isfinite(value) and value != 0]
    if not sizes:
        return 0
    wanted = fewest - 1 - math.floor(math.log10(min(sizes)))
    bearable = most - 1 - math.floor(math.log10(max(sizes)))
    return max(0, min(wanted, bearable, MOST_DECIMALS))


def fixed(value: float, places: int) -> str:
    """`value` with `places` decimals; infinity as a sign, and never a negative zero."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:.{places}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")
