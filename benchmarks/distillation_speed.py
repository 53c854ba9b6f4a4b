"""An iteration of distillation on the bundled architecture at W4A4, beside its arithmetic floor.

    python benchmarks/distillation_speed.py --batch 32 --rounds 8 --threads 1

The floor is what cannot be left out: the products of a forward and a backward pass, which is a full-precision training
step of the same net without its optimiser, less normalisation and activation functions. Both it and that step are
printed; all run in turn in one process, and ratios of medians count.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from simulated_forward import simulated
from torch import Tensor, nn
from torch.profiler import profile

from pqbench.contracts.precision import Precision
from pqbench.distillation.parameter_groups import parameter_groups
from pqbench.quantization.learning.tuning import tune
from pqbench.training.loop import Training
from pqbench.workloads.diffusers_net import DiffusersDenoiser
from pqbench.workloads.training.sets import FASHION

_PRODUCTS = ("aten::mkldnn_convolution", "aten::convolution_backward", "aten::mm", "aten::addmm", "aten::bmm")


def student(example: tuple[Tensor, Tensor]) -> nn.Module:
    """The architecture with random weights, on W4A4 grids with 8-bit ends, ready to be trained."""
    net = simulated(Precision(4, 4), example, whole_scope=False, end_bits=8)
    tune(net)
    return net.requires_grad_(True)


def iteration(net: nn.Module, x_t: Tensor, t: Tensor) -> Callable[[], None]:
    """One update of a distillation, as `pqbench.training.loop.train` makes it."""
    groups = parameter_groups(net, Training(1, len(x_t), 0.02, 0.004, 0.001))
    optimizer = torch.optim.Adam([{"params": group["params"], "lr": 1e-9} for group in groups], betas=(0.9, 0.99))
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def run() -> None:
        net(x_t, t).square().mean().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return run


def seconds(run: Callable[[], None]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    size = FASHION.architecture["sample_size"]
    x_t = torch.randn(options.batch, FASHION.architecture["in_channels"], size, size)
    t = torch.randint(0, 1000, (options.batch,))
    plain = DiffusersDenoiser.from_config(FASHION.architecture)
    update = iteration(student((x_t[:2], t[:2])), x_t, t)

    def full_precision() -> None:
        plain(x_t, t).square().mean().backward()
        plain.zero_grad(set_to_none=True)

    times: dict[str, list[float]] = {"iteration": [], "full-precision step": [], "products": []}
    for _ in range(options.rounds):
        times["iteration"].append(seconds(update))
        times["full-precision step"].append(seconds(full_precision))
        with profile() as profiled:
            full_precision()
        products = sum(event.self_cpu_time_total for event in profiled.key_averages() if event.key in _PRODUCTS)
        times["products"].append(products * 1e-6)
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}
    print(f"batch {options.batch}, {options.threads} threads: {1 / medians['iteration']:.2f} iterations/s")
    for name, median in medians.items():
        print(f"{name}: {1e3 * median:.0f} ms; an iteration takes {medians['iteration'] / median:.2f} times as long")


if __name__ == "__main__":
    main()
