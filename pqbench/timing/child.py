"""A process in which one model is timed: one of several.

    python -m pqbench.timing.child SPEC RESULT

Both are JSON files: a `TimingSpec` that is read, a `TimingResult` that is written.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from pqbench.base.cpu import instruction_set
from pqbench.base.errors import UserError
from pqbench.timing.component import component
from pqbench.timing.machine import OtherWork, device_alone, load_average, processor, wait_until_quiet
from pqbench.timing.spec import (
    BatchTimes,
    CallTimes,
    EnergyUse,
    LayerRun,
    MemoryUse,
    ParityUse,
    TimingResult,
    TimingSpec,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from pqbench.contracts import Engine, Executable, Workload
    from pqbench.timing.energy import EnergyMeter
    from pqbench.timing.stopwatch import Timing

STEP_SHARE = 1 / 3
"""A step is a fraction of a sampling run, so a fraction of the time gives it as many runs."""


def main() -> int:
    """Time what the first argument says and write the answer to the second."""
    spec_path, result_path = map(Path, sys.argv[1:])
    spec = TimingSpec.model_validate_json(spec_path.read_text())
    try:
        # Before the imports: loading libraries would disturb a timing that is under way.
        with device_alone(spec.device):
            result = run(spec)
    except UserError as error:
        result = TimingResult(error=str(error))
    result_path.write_text(result.model_dump_json())
    return 1 if result.error else 0


def run(spec: TimingSpec) -> TimingResult:
    """Memory first, while nothing else has been in this process, then the batches from the largest down."""
    load = load_average()
    bench = _Bench(spec)
    batches = sorted(set(spec.batches), reverse=True)
    memory, largest, parity = bench.largest_batch(batches[0])
    others = [bench.time_alone(batch, *bench.compile(batch)) for batch in batches[1:]]
    return TimingResult(
        machine=processor(spec.device),
        instruction_set=instruction_set(),
        kernels=dict(bench.engine.kernels()),
        load_average=load,
        memory=memory,
        parity=parity,
        batches=(largest, *others),
    )


class _Bench:
    """The model of a spec on the engine of a spec, loaded once."""

    def __init__(self, spec: TimingSpec) -> None:
        import torch

        torch.set_num_threads(spec.threads)
        self.spec = spec
        self.device = torch.device(spec.device)
        self.workload: Workload = component("workload", spec.workload)()
        self.engine: Engine = component("engine", spec.engine)()
        missing = self.engine.available()
        if missing:
            raise UserError(missing)

    def load(self) -> nn.Module:
        """The model, read from its checkpoint anew."""
        from pqbench.engines.quantized import is_quantized
        from pqbench.quantization.checkpoint.io import load_checkpoint

        net = load_checkpoint(Path(self.spec.checkpoint), self.workload.architecture()).eval().to(self.device)
        if is_quantized(net) and not self.engine.executes_quantized:
            raise UserError(
                f"The engine {self.spec.engine} only simulates quantized models, so it has no latency for this one."
            )
        return net

    def compile(self, batch: int) -> tuple[Executable, float]:
        """The executable for one batch size, and the seconds that it took. The torch model is not kept."""
        net = self.load()
        start = perf_counter()
        condition = self._condition(batch)
        conditional: dict[str, Any] = {"condition": condition} if condition else {}
        executable = self.engine.compile(net, self.workload.shape, batch, self.spec.threads, **conditional)
        return executable, perf_counter() - start

    def largest_batch(self, batch: int) -> tuple[MemoryUse, BatchTimes, ParityUse | None]:
        """The peak of the first sampling run of the process; timing and parity go on with the same executable."""
        from pqbench.base.float32 import exact_float32
        from pqbench.timing.memory import PeakMemory, process_peak, resident
        from pqbench.timing.parity import measure_parity

        baseline = resident()
        executable, seconds = self.compile(batch)
        loading_peak = process_peak()
        watch = PeakMemory(self.device)
        start = perf_counter()
        self._sampling_run(executable, batch)()
        first = perf_counter() - start
        peak = watch.read()
        memory = MemoryUse(
            batch=batch, peak=peak.bytes, window=peak.window, baseline=baseline, loading_peak=loading_peak
        )
        times = self.time_alone(batch, executable, seconds, first)
        if self.spec.turn:
            return memory, times, None
        with exact_float32():
            parity = measure_parity(executable, batch, self.load(), self.workload, self.spec.steps)
        return memory, times, parity

    def time_alone(
        self, batch: int, executable: Executable, compile_seconds: float, first: float | None = None
    ) -> BatchTimes:
        """`time`, on a quiet machine where the spec waits for one: again when others came, until its time is up."""
        from pqbench.timing.gpu import other_processes
        from pqbench.timing.steadiness import is_disturbed

        waited, limit, on_gpu = 0.0, self.spec.exclusive, self.device.type == "cuda"
        while True:
            if limit:
                waited += wait_until_quiet(limit - waited)
            before = other_processes(self.spec.device) if on_gpu else ()
            start = perf_counter()
            times = self.time(batch, executable, compile_seconds, first)
            first = times.sampling.first
            found = dict.fromkeys((*before, *(other_processes(self.spec.device) if on_gpu else ())))
            times = times.model_copy(update={"waited": waited, "other_processes": tuple(found)})
            if not is_disturbed(times) or waited >= limit:
                return times
            waited += perf_counter() - start

    def time(self, batch: int, executable: Executable, compile_seconds: float, first: float | None) -> BatchTimes:
        """Single steps and whole runs of one batch size, in this process's share of the seconds.

        first   seconds of the first run in this process, where it has been made already
        """
        from pqbench.engines.executed import counts, fell_back, stored_weights
        from pqbench.timing.energy import EnergyMeter, energy_counters
        from pqbench.timing.stopwatch import MIN_RUNS, time_calls

        others, meter = OtherWork(), EnergyMeter(energy_counters(self.spec.device)[0])
        seconds = self.spec.seconds / self.spec.processes
        # Together the processes make as many runs at least as one would: a run may take minutes.
        least = ceil(MIN_RUNS / self.spec.processes)
        sampling = time_calls(self._sampling_run(executable, batch), seconds, meter, first=first, least=least)
        step = time_calls(self._step(executable, batch), seconds * STEP_SHARE)
        other_work, layers = others.share(), executable.layers()
        return BatchTimes(
            batch=batch,
            compile_seconds=compile_seconds,
            step=_summary(step),
            sampling=_summary(sampling),
            layer_precisions=counts(layers),
            weights_held=stored_weights(layers),
            layers=tuple(LayerRun(**asdict(layer)) for layer in layers),
            fell_back=fell_back(self.load(), layers),
            other_work=other_work,
            other_cores=others.cores(),
            energy=_energy(meter, len(sampling.runs), batch),
        )

    def _noise(self, batch: int) -> Tensor:
        from pqbench.diffusion.noise import initial_noise

        return initial_noise(0, range(batch), self.workload.shape).to(self.device)

    def _condition(self, batch: int) -> list[Tensor]:
        return [each.to(self.device) for each in self.workload.condition(0, range(batch))]

    def _step(self, executable: Executable, batch: int) -> Callable[[], object]:
        x_t, condition = self._noise(batch), self._condition(batch)
        # Which step makes no difference to the work; the first one has inputs that are pure noise, as here.
        t = self.workload.timesteps(self.spec.steps)[:1].to(self.device).repeat(batch)
        return lambda: self._finished(executable(x_t, t, *condition))

    def _sampling_run(self, executable: Executable, batch: int) -> Callable[[], object]:
        from pqbench.diffusion.ddim import ddim_sample

        noise, schedule, condition = self._noise(batch), self.workload.schedule(), self._condition(batch)
        timesteps = self.workload.timesteps(self.spec.steps).to(self.device)
        prediction = self.workload.prediction
        return lambda: self._finished(
            ddim_sample(executable, schedule, timesteps, noise, prediction=prediction, condition=condition)
        )

    def _finished(self, result: Tensor) -> Tensor:
        """A GPU answers before it has computed."""
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.device)
        return result


def _energy(meter: EnergyMeter, runs: int, batch: int) -> EnergyUse | None:
    if meter.joules is None:
        return None
    names = tuple(counter.name for counter in meter.counters)
    return EnergyUse(joules=meter.joules / (runs * batch), runs=runs, counters=names)


def _summary(timing: Timing) -> CallTimes:
    return CallTimes(
        first=timing.first, median=timing.median, p95=timing.p95, runs=len(timing.runs), thirds=timing.thirds
    )


if __name__ == "__main__":
    sys.exit(main())
