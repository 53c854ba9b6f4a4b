"""Whether a latency would come out the same again: the marks of a machine that was not quiet, or not of one speed."""

from __future__ import annotations

from collections.abc import Sequence

from pqbench.timing.machine import is_busy
from pqbench.timing.spec import BatchTimes, CallKind, CallTimes

TAIL_RATIO = 1.5
"""A 95th percentile this many times the median makes a latency noisy."""
SLOW_RUN_RATIO = 1.5
"""So do whole runs that take this many times what their steps take by themselves, or the other way round."""
REPEAT_LIMIT = 1.05
"""And so do processes, or thirds of the runs of one, whose medians are further apart than this."""


def spread(values: Sequence[float]) -> float:
    """The largest over the smallest of some positive values: 1 where all are equal, and of one value or none."""
    return max(values) / min(values) if values else 1.0


def agree(values: Sequence[float]) -> bool:
    """Whether measurements of the same thing are within `REPEAT_LIMIT` of each other."""
    return spread(values) <= REPEAT_LIMIT


def is_unsteady(processes: Sequence[BatchTimes], kind: CallKind, steps: int) -> bool:
    """Whether a latency should be measured again on a quieter machine: one of its processes should, or they disagree.

    A host whose virtual processors share a physical core for some seconds slows a whole process: within it there is no
    sign of that, and no other process on this machine has any part in it.
    """
    return not agree([times.of(kind).median for times in processes]) or any(
        is_noisy(times, times.of(kind), steps) for times in processes
    )


def is_noisy(times: BatchTimes, calls: CallTimes, steps: int) -> bool:
    """Whether the latency of one process should be measured again on a quieter machine.

    A machine that slows down for all runs of one kind shows no tail in them, but runs and their steps then disagree.
    One that changes its speed once shows no tail either, but the thirds of the runs then disagree.
    """
    together, alone = times.sampling.median, steps * times.step.median
    disagree = max(together, alone) > SLOW_RUN_RATIO * min(together, alone)
    return is_disturbed(times) or calls.p95 > TAIL_RATIO * calls.median or disagree or not agree(calls.thirds)


def is_disturbed(times: BatchTimes) -> bool:
    """Whether other processes had the processor, or were on the graphics card, while a batch size was timed."""
    return is_busy(times.other_work, times.other_cores) or bool(times.other_processes)
