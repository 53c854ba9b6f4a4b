"""Whether a latency comes out the same again: the same cell timed several times, as a run times it.

    python benchmarks/latency_repeatability.py FP.safetensors W4A4.safetensors --engine openvino --threads 2

Takes packed checkpoints of the bundled net (`model.safetensors` in a run's stage cache). Every round times each of them
once, so that measurements of the same cell lie apart. `apart` is how far the highest value lies above the lowest,
`processes apart` the same within each measurement, and `noisy` what its record would say. The target is 5 %, or noisy.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from pqbench.results.records import Metric
from pqbench.timing.measure import TimingSpec, measure
from pqbench.timing.steadiness import spread

Measured = dict[str, Metric]


def timed(checkpoint: Path, options: argparse.Namespace) -> Measured:
    """One measurement of one cell."""
    spec = TimingSpec(
        workload="fashion",
        checkpoint=str(checkpoint),
        engine=options.engine,
        steps=options.steps,
        batches=tuple(options.batch),
        threads=options.threads,
        processes=options.processes,
        seconds=options.seconds,
    )
    start = time.perf_counter()
    metrics = measure(spec)
    print(f"{checkpoint}: {time.perf_counter() - start:.0f} s, load average {os.getloadavg()[0]:.1f}", flush=True)
    return metrics


def apart(values: list[float]) -> str:
    """Per cent."""
    return f"{100 * (spread(values) - 1):.1f}"


def row(title: str, name: str, rounds: list[Measured]) -> str:
    """What all rounds say of one latency."""
    metrics = [measured[name] for measured in rounds]
    repeats = [[process["value"] for process in metric.detail["processes"]] for metric in metrics]
    cells = (
        title,
        name.removeprefix("latency_ms_per_"),
        ", ".join(f"{metric.value:.2f}" for metric in metrics),
        apart([metric.value for metric in metrics]),
        ", ".join(map(apart, repeats)),
        ", ".join(f"{metric.detail['other_cores']:.1f}" for metric in metrics),
        ", ".join("yes" if metric.detail["noisy"] else "no" for metric in metrics),
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print a row for each checkpoint and latency."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("checkpoints", type=Path, nargs="+")
    parser.add_argument("--engine", default="openvino")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.5, help="for each batch size, in all processes together")
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} before", flush=True)
    rounds = [[timed(checkpoint, options) for checkpoint in options.checkpoints] for _ in range(options.rounds)]
    print("| cell | latency | ms in each round | apart, % | processes apart, % | cores of others | noisy |")
    print("|---|---|---|--:|---|---|---|")
    for i, checkpoint in enumerate(options.checkpoints):
        measured = [each[i] for each in rounds]
        for name in sorted(each for each in measured[0] if each.startswith("latency_")):
            print(row(checkpoint.stem if len(checkpoint.parts) == 1 else checkpoint.parent.name[:12], name, measured))


if __name__ == "__main__":
    main()
