"""Noisy inputs from full-precision denoising runs: each sample follows its own run down to its own step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.contracts.context import ProgressCallback, silent
from pqbench.contracts.schedule import NoiseSchedule
from pqbench.diffusion.ddim import Denoiser, ddim_step, successors
from pqbench.diffusion.noise import initial_noise


@torch.no_grad()
def collect(
    net: Denoiser,
    schedule: NoiseSchedule,
    timesteps: Tensor,
    positions: Tensor,
    *,
    seed: int,
    purpose: str,
    shape: tuple[int, ...],
    condition: Sequence[Tensor] = (),
    batch: int = 64,
    device: torch.device | str = "cpu",
    progress: ProgressCallback = silent,
    prediction: str = "epsilon",
) -> Tensor:
    """Run the DDIM sampler with `net` and return, for each sample, the x_t that step `positions[i]` is about to see.

    timesteps   (S,) int64, descending: the run's time steps
    positions   (N,) int64, 0 <= position < S; 0 is the run's initial noise
    seed        sample i starts from noise that depends on (purpose, seed, i) alone
    purpose     anything but "image", whose noise is kept for the evaluation
    condition   each (N, ...): what the net is called with beside x_t and t
    batch       samples that go through the net together
    prediction  what the net predicts: `Workload.prediction`

    Returns (N, *shape) float32 on the CPU. The net sees every sample `positions[i]` times, not S times: samples that
    stop at similar steps run together and leave the batch as they arrive. Raises `UserError` for positions outside the
    run and for the purpose "image".
    """
    _check(positions, len(timesteps), purpose)
    timesteps = timesteps.to(device)
    found = torch.empty(len(positions), *shape)
    # Longest runs first: of any batch, the samples still running are then its head.
    order = positions.argsort(descending=True, stable=True)
    done, total = 0, int(positions.sum())
    for members in torch.split(order, batch):
        x = initial_noise(seed, members.tolist(), shape, purpose).to(device)
        rows = [each[members].to(device) for each in condition]
        left = positions[members]
        for k, (t, t_next) in enumerate(zip(timesteps, successors(timesteps), strict=True)):
            running = int((left > k).sum())
            if running == 0:
                break
            now, after = t.expand(running), t_next.expand(running)
            head = x[:running]
            predicted = net(head, now, *(each[:running] for each in rows))
            x[:running] = ddim_step(schedule, head, predicted, now, after, prediction)
            done += running
            progress(done, total, "denoising runs for the calibration set")
        found[members] = x.cpu()
    return found


def _check(positions: Tensor, steps: int, purpose: str) -> None:
    if purpose == "image":
        raise UserError('The purpose "image" is kept for the evaluation: calibration noise must have another one.')
    if len(positions) == 0 or positions.min() < 0 or positions.max() >= steps:
        raise UserError(f"Ask for at least one position of the run, each from 0 to {steps - 1} (it has {steps} steps).")
