"""Timing of calls: warm-up, then many runs within a budget of seconds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from time import perf_counter

WARM_UP_SHARE = 0.15
"""Of the budget; at least two calls are made, whatever they cost."""
MIN_RUNS = 3
MAX_RUNS = 1000


@dataclass(frozen=True)
class Timing:
    """Seconds of one kind of call. `first` is the very first one, which pays for caches and lazy allocations."""

    first: float
    runs: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle run."""
        return statistics.median(self.runs)

    @property
    def p95(self) -> float:
        """The run that 95 % of the runs do not exceed (nearest rank)."""
        return sorted(self.runs)[math.ceil(0.95 * len(self.runs)) - 1]

    @property
    def thirds(self) -> tuple[float, ...]:
        """Medians of the first, the middle and the last third of the runs; nothing where there are no three runs."""
        count = len(self.runs)
        if count < 3:
            return ()
        first, second = count // 3, count - count // 3
        return (
            statistics.median(self.runs[:first]),
            statistics.median(self.runs[first:second]),
            statistics.median(self.runs[second:]),
        )


def time_calls(
    call: Callable[[], object],
    seconds: float,
    around: AbstractContextManager[object] | None = None,
    *,
    first: float | None = None,
    least: int = MIN_RUNS,
) -> Timing:
    """Time `call` until about `seconds` have passed, but at least `least` times.

    around   is entered for the runs that count, after the warm-up
    first    seconds of the first call, where it has been made already
    """
    if first is None:
        first = _once(call)
    until = perf_counter() + WARM_UP_SHARE * seconds
    call()
    while perf_counter() < until:
        call()
    runs: list[float] = []
    with around or nullcontext():
        until = perf_counter() + (1 - WARM_UP_SHARE) * seconds
        while len(runs) < least or (len(runs) < MAX_RUNS and perf_counter() < until):
            runs.append(_once(call))
    return Timing(first, tuple(runs))


def _once(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start
