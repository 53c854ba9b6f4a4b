"""What several processes measured of the same cell, one after the other, made into one figure of each kind.

The process is what is repeated, not the run: what a process fixes (where its memory lies) and what a host does for
seconds is shared by all runs of a process (Kalibera and Jones, "Rigorous benchmarking in reasonable time", 2013). So
each process counts once. A median of all runs together would count a process by its runs, and in equal time a slow one
makes fewer: one slow process of three would not be seen, and would still shift that median up among the fast runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

from pqbench.timing.spec import BatchTimes, CallTimes, EnergyUse, MemoryUse, TimingResult


def by_batch(results: Sequence[TimingResult]) -> list[tuple[BatchTimes, ...]]:
    """What the processes say of each batch size, in their order."""
    return list(zip(*(result.batches for result in results), strict=True))


def combined_calls(processes: Sequence[CallTimes]) -> CallTimes:
    """One kind of call.

    median   of the processes' medians
    p95      the largest: at least 95 % of all runs take no longer
    first    the median of the first calls, each in a fresh process
    runs     of all processes together
    thirds   none: they are those of a process
    """
    return CallTimes(
        first=median(calls.first for calls in processes),
        median=median(calls.median for calls in processes),
        p95=max(calls.p95 for calls in processes),
        runs=sum(calls.runs for calls in processes),
    )


def combined_batch(processes: Sequence[BatchTimes]) -> BatchTimes:
    """One batch size: what others did is that of the process that they disturbed most; waiting is that of all together.

    Layers, and how long compiling took, are those of the first process: an engine may keep what it compiled for the
    next ones.
    """
    return processes[0].model_copy(
        update={
            "step": combined_calls([times.step for times in processes]),
            "sampling": combined_calls([times.sampling for times in processes]),
            "other_work": max(times.other_work for times in processes),
            "other_cores": max(times.other_cores for times in processes),
            "other_processes": tuple(dict.fromkeys(name for times in processes for name in times.other_processes)),
            "waited": sum(times.waited for times in processes),
            "energy": combined_energy([times.energy for times in processes if times.energy is not None]),
        }
    )


def combined_energy(processes: Sequence[EnergyUse]) -> EnergyUse | None:
    """The median of the processes' joules an image; None where no process could read a counter."""
    if not processes:
        return None
    return processes[0].model_copy(
        update={
            "joules": median(energy.joules for energy in processes),
            "runs": sum(energy.runs for energy in processes),
        }
    )


def combined_memory(processes: Iterable[MemoryUse]) -> MemoryUse:
    """That of the process with the highest peak: a machine must have as much. They should all be about the same."""
    return max(processes, key=lambda memory: memory.peak)


def waited(results: Sequence[TimingResult]) -> float:
    """Seconds that the batch size which waited longest has waited in all processes together."""
    return max((sum(times.waited for times in processes) for processes in by_batch(results)), default=0.0)
