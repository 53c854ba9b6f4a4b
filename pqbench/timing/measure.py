"""Latency and memory of one model on one engine, measured in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import ValidationError

from pqbench.base.errors import UserError
from pqbench.contracts import Engine, Precision
from pqbench.quantization.checkpoint.io import read_header
from pqbench.results.records import Metric
from pqbench.timing.component import component
from pqbench.timing.metrics import metrics_of
from pqbench.timing.parity import complaint
from pqbench.timing.repeats import waited
from pqbench.timing.spec import TimingResult, TimingSpec

__all__ = ["TimingSpec", "measure"]


def measure(spec: TimingSpec) -> dict[str, Metric]:
    """Time a model; nothing (an empty dict) where the engine only simulates it, for simulation has no latency.

    Metrics: latency_ms_per_image@ENGINE/BATCH and latency_ms_per_step@ENGINE/BATCH for each batch size, and
    peak_memory_bytes and parity@ENGINE at the largest; where parity fails, parity alone. The time of an image is that
    of a whole sampling run, the sampler's arithmetic included, over the batch size; so half the steps count.

    It is measured in `spec.processes` processes, one after the other (`pqbench.timing.repeats` says how they become
    one figure). Each holds the device alone against every other timing on the machine, and lets go of it at its end:
    the lock must live and die with the process that uses the device, and what runs in between is timed by itself.

    Raises `UserError`, one sentence, when the model cannot be timed: the engine is missing, the checkpoint is damaged,
    or a process crashed or was killed.
    """
    if _is_simulated(spec):
        return {}
    results: list[TimingResult] = []
    for turn in range(spec.processes):
        left = max(0.0, spec.exclusive - waited(results))
        results.append(_run_alone(spec.model_copy(update={"turn": turn, "exclusive": left})))
        if _is_rejected(results[0]):
            break
    return metrics_of(spec, results)


def _run_alone(spec: TimingSpec) -> TimingResult:
    """What one process answers; the sentence of one that could not be timed is raised."""
    with tempfile.TemporaryDirectory(prefix="pqbench-timing-") as folder:
        result = _run_child(spec, Path(folder))
    if result.error:
        raise UserError(result.error)
    return result


def _is_rejected(result: TimingResult) -> bool:
    """Whether the engine does not compute the model, so that no latency of it counts."""
    return result.parity is not None and bool(complaint(result.parity))


def _is_simulated(spec: TimingSpec) -> bool:
    """Whether the checkpoint holds quantized layers and the engine has no kernels for them."""
    engine: type[Engine] = component("engine", spec.engine)
    if engine.executes_quantized:
        return False
    layers = read_header(Path(spec.checkpoint)).layers
    return any(Precision(layer.w_bits, layer.a_bits).quantizes for layer in layers)


def _run_child(spec: TimingSpec, folder: Path) -> TimingResult:
    """Start a timing process and sleep until it ends: a parent that polls would be timed with it."""
    spec_path, result_path, stderr_path = folder / "spec.json", folder / "result.json", folder / "stderr.txt"
    spec_path.write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "pqbench.timing.child", str(spec_path), str(result_path)]
    with stderr_path.open("wb") as stderr:
        # Output goes to a file, not a pipe: without pipes the wait is one blocking system call.
        status = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=stderr, stderr=stderr, env=_environment(spec), check=False
        ).returncode
    try:
        return TimingResult.model_validate_json(result_path.read_bytes())
    except (OSError, ValidationError):
        raise UserError(_crash(spec, status, stderr_path.read_text(errors="replace"))) from None


def _environment(spec: TimingSpec) -> dict[str, str]:
    """Ours, with the same modules importable and the number of threads fixed before any library starts them."""
    importable = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return os.environ | {"PYTHONPATH": importable, "OMP_NUM_THREADS": str(spec.threads)}


def _crash(spec: TimingSpec, status: int, stderr: str) -> str:
    """Why a process left no answer, in one sentence."""
    if status == -signal.SIGKILL:
        how = "was killed, probably for want of memory"
    elif status < 0:
        how = f"crashed ({signal.Signals(-status).name})"
    else:
        how = f"ended with status {status}"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    last = f": {lines[-1]}" if lines else "."
    return f"The process that timed {spec.workload} on the engine {spec.engine} {how}{last}"
