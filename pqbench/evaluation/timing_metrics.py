"""From what a timing process measured to metrics."""

from __future__ import annotations

from typing import Any, Literal

from pqbench.bench.records import Metric
from pqbench.evaluation.timing_spec import BatchTimes, CallTimes, MemoryUse, TimingProtocol, TimingResult, TimingSpec

BUSY_SHARE = 0.1
"""Other processes that take more of the machine than this make a timing noisy."""
TAIL_RATIO = 1.5
"""So does a 95th percentile this many times the median."""
SLOW_RUN_RATIO = 1.5
"""So do whole runs that take this many times what their steps take by themselves, or the other way round."""


def metrics_of(spec: TimingSpec, result: TimingResult) -> dict[str, Metric]:
    """All metrics of one timing process, by name."""
    metrics: dict[str, Metric] = {}
    for times in result.batches:
        place = f"{spec.engine}/{times.batch}"
        metrics[f"latency_ms_per_image@{place}"] = _latency(spec, result, times, times.sampling, times.batch)
        metrics[f"latency_ms_per_step@{place}"] = _latency(spec, result, times, times.step, 1)
    if result.memory is not None:
        metrics["peak_memory_bytes"] = _memory(spec, result, result.memory)
    return metrics


def _latency(spec: TimingSpec, result: TimingResult, times: BatchTimes, calls: CallTimes, share: int) -> Metric:
    """A latency in milliseconds of one call, divided among `share` images."""
    milliseconds = 1000 / share
    protocol = _protocol("latency", spec, result, times.batch)
    detail: dict[str, Any] = {
        "p95": calls.p95 * milliseconds,
        "first_call": calls.first * milliseconds,
        "runs": calls.runs,
        "steps": spec.steps,
        "batch": times.batch,
        "threads": spec.threads,
        "layer_precisions": times.layer_precisions,
        "compile_seconds": times.compile_seconds,
        "load_average": result.load_average,
        "other_work": times.other_work,
        "noisy": is_noisy(times, calls, spec.steps),
        "protocol": protocol.facts,
    }
    return Metric(
        value=calls.median * milliseconds,
        unit="ms",
        direction="lower",
        n=calls.runs,
        protocol=protocol.id,
        detail=detail,
    )


def is_noisy(times: BatchTimes, calls: CallTimes, steps: int) -> bool:
    """Whether a latency should be measured again on a quieter machine.

    A machine that slows down for all runs of one kind shows no tail in them, but runs and their steps then disagree.
    """
    together, alone = times.sampling.median, steps * times.step.median
    disagree = max(together, alone) > SLOW_RUN_RATIO * min(together, alone)
    return times.other_work > BUSY_SHARE or calls.p95 > TAIL_RATIO * calls.median or disagree


def _memory(spec: TimingSpec, result: TimingResult, memory: MemoryUse) -> Metric:
    protocol = _protocol("memory", spec, result, memory.batch)
    detail = memory.model_dump(exclude={"peak"}) | {"engine": spec.engine, "protocol": protocol.facts}
    return Metric(value=memory.peak, unit="bytes", direction="lower", n=1, protocol=protocol.id, detail=detail)


def _protocol(
    family: Literal["latency", "memory"], spec: TimingSpec, result: TimingResult, batch: int
) -> TimingProtocol:
    return TimingProtocol(
        family=family,
        workload=spec.workload,
        engine=spec.engine,
        device=spec.device,
        machine=result.machine,
        threads=spec.threads,
        batch=batch,
    )
