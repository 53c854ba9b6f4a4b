"""Throughput of the harness's sampling loop against diffusers' own DDIM pipeline: same model, batch and steps.

    python benchmarks/sampling.py --net fashion --batch 64 --steps 20 --rounds 5
    python benchmarks/sampling.py --net ddpm-cifar10 --batch 4 --steps 10 --rounds 5

Both run in turn in one process, from noise to decoded images in memory; the ratio of medians counts. The pipeline makes
its images as NumPy arrays, as it does for anyone, with its progress bar off; the harness decodes to uint8.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from engines import net_and_shape
from torch import Tensor

from pqbench.base.torchvision_shim import declare_missing_operators
from pqbench.contracts.schedule import NoiseSchedule, trailing_timesteps
from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise


def main() -> None:
    """Print seconds of a batch and images a second of both, and their ratio."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--net", choices=("ddpm-cifar10", "fashion"), default="fashion")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    declare_missing_operators()
    from diffusers import DDIMPipeline, DDIMScheduler

    torch.set_num_threads(options.threads)
    net, shape = net_and_shape(options.net)
    scheduler = DDIMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False, timestep_spacing="trailing")
    pipeline = DDIMPipeline(unet=net.get_submodule("net"), scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    schedule, timesteps = NoiseSchedule.linear(1000, 1e-4, 0.02), trailing_timesteps(1000, options.steps)

    def ours() -> Tensor:
        noise = initial_noise(0, range(options.batch), shape)
        with torch.inference_mode():
            x_0 = ddim_sample(net, schedule, timesteps, noise)
        return ((x_0.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)

    def theirs() -> Tensor:
        generator = torch.Generator().manual_seed(0)
        images = pipeline(options.batch, generator, num_inference_steps=options.steps, output_type="np").images
        return torch.from_numpy(images)

    found = in_turn({"pqbench": ours, "diffusers": theirs}, options.rounds)
    print(f"{options.net}, batch {options.batch}, {options.steps} steps, load average {os.getloadavg()[0]:.1f}")
    for name, seconds in found.items():
        print(f"{name}: {seconds:.2f} s a batch, {options.batch / seconds:.2f} images a second")
    print(f"ratio of throughputs: {found['diffusers'] / found['pqbench']:.3f}")


def in_turn(calls: dict[str, Callable[[], Tensor]], rounds: int) -> dict[str, float]:
    """Median seconds of each call, after one of each that is not counted."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(runs) for name, runs in times.items()}


if __name__ == "__main__":
    main()
