"""Milliseconds of one denoising step on every engine, of the 35.7 M CIFAR-10 U-Net or of the bundled net.

    python benchmarks/engines.py --net ddpm-cifar10 --threads 2 --batch 1 --seconds 40
    python benchmarks/engines.py --net fashion --threads 2 --batch 1 16 --seconds 20

The U-Net is google/ddpm-cifar10-32's architecture with random weights, the net of `fashion` has its own; times do not
depend on values. Quantized nets are rounded to nearest on ranges over -3 ... 3, everything but the attention products.
All executables are compiled first and then run in turn in one process, so that a busy machine slows all of them; the
ratios of medians count. `half the steps` is per image: int8 with half the steps against eager and openvino f32 with
all.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from statistics import median

import torch
from calibration_memory import DDPM_CIFAR10
from simulated_forward import simulated
from torch import Tensor, nn

from pqbench.contracts import Engine, Executable
from pqbench.contracts.precision import Precision
from pqbench.engines.executed import counts
from pqbench.engines.openvino import OpenVino, OpenVinoBf16
from pqbench.engines.torch_compile import TorchCompile
from pqbench.engines.torch_eager import TorchEager
from pqbench.engines.torch_int8 import TorchInt8
from pqbench.workloads.diffusers_net import DiffusersDenoiser
from pqbench.workloads.fashion import Fashion

Shape = tuple[int, int, int]
Lines = dict[str, Executable]

ENGINES: dict[str, type[Engine]] = {
    engine.name: engine for engine in (TorchEager, TorchCompile, TorchInt8, OpenVino, OpenVinoBf16)
}


def net_and_shape(name: str) -> tuple[nn.Module, Shape]:
    """A full-precision net and the shape of its samples."""
    if name == "fashion":
        return Fashion().denoiser().eval(), Fashion.shape
    torch.manual_seed(0)
    return DiffusersDenoiser.from_config(DDPM_CIFAR10).eval(), (3, 32, 32)


def compiled(
    net: nn.Module, shape: Shape, batch: int, threads: int, engines: list[str], precisions: list[Precision]
) -> Lines:
    """Executables of those engines that there are here: full precision on each, and quantized where it is executed."""
    example = torch.randn(batch, *shape), torch.full((batch,), 500)
    lines: Lines = {}
    for name in engines:
        kind = ENGINES[name]
        engine = kind()
        if missing := engine.available():
            print(missing)
            continue
        nets = {"fp": net}
        if kind.executes_quantized:
            nets |= {str(precision): simulated(precision, example, False, net) for precision in precisions}
        for what, each in nets.items():
            start = time.perf_counter()
            lines[f"{name} {what}"] = executable = engine.compile(each, shape, batch, threads)
            seconds = time.perf_counter() - start
            print(f"  {name} {what}: compiled in {seconds:.0f} s, layers {counts(executable.layers())}", flush=True)
    return lines


def medians(lines: Lines, example: tuple[Tensor, Tensor], seconds: float) -> dict[str, tuple[float, float]]:
    """Medians of a step on each line, wall and CPU time in milliseconds, from runs that take turns for `seconds`."""
    calls: dict[str, Callable[[], object]] = {name: lambda e=e: e(*example) for name, e in lines.items()}  # type: ignore[misc]
    for call in calls.values():
        call()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or min(map(len, times.values())) < 5:
        for name, call in calls.items():
            start, busy = time.perf_counter(), time.process_time()
            call()
            times[name].append(((time.perf_counter() - start) * 1e3, (time.process_time() - busy) * 1e3))
    return {name: (median(wall for wall, _ in runs), median(cpu for _, cpu in runs)) for name, runs in times.items()}


def main() -> None:
    """Print a table for each batch size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--net", choices=("ddpm-cifar10", "fashion"), default="ddpm-cifar10")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--precision", type=Precision.parse, nargs="+", default=[Precision(8, 8), Precision(4, 4)])
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=30.0, help="of measuring, for each batch size")
    parser.add_argument("--wait", action="store_true", help="for a line on standard input between compiling and timing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    net, shape = net_and_shape(options.net)
    for batch in options.batch:
        print(f"{options.net}, batch {batch}, {options.threads} threads", flush=True)
        lines = compiled(net, shape, batch, options.threads, options.engines, options.precision)
        if options.wait:
            print("compiled, waiting", flush=True)
            input()
        found = medians(lines, (torch.randn(batch, *shape), torch.full((batch,), 500)), options.seconds)
        print(f"load average {os.getloadavg()[0]:.1f}")
        show(found)
        print("done", flush=True)


def show(found: dict[str, tuple[float, float]]) -> None:
    """One row a line: milliseconds a step, and by wall time how many times faster than full-precision lines."""
    wall = {name: times[0] for name, times in found.items()}
    eager, best = wall["torch fp"], min(time for name, time in wall.items() if name.endswith(" fp"))
    openvino = wall.get("openvino fp", eager)
    print("| line | ms a step | CPU ms | vs eager | vs openvino f32 | vs strongest fp | half the steps |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for name, (each, cpu) in found.items():
        ratios = " | ".join(f"{against / each:.2f}" for against in (eager, openvino, best))
        halved = "" if name.endswith(" fp") else f"{2 * eager / each:.2f}, {2 * openvino / each:.2f}"
        print(f"| {name} | {each:.1f} | {cpu:.1f} | {ratios} | {halved} |")


if __name__ == "__main__":
    main()
