"""Deterministic DDIM sampling (Song et al., 2021, eq. 12 with sigma_t = 0)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pqbench.diffusion.schedule import NoiseSchedule

Denoiser = Callable[..., Tensor]
"""net(x_t, t, *condition): x_t (N, C, H, W), t (N,) int64, condition (N, ...) -> predicted epsilon, (N, C, H, W)."""


def coefficient(values: Tensor, like: Tensor) -> Tensor:
    """(N,) float64 coefficients, shaped to multiply `like`, (N, C, H, W)."""
    return values.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


def ddim_step(schedule: NoiseSchedule, x_t: Tensor, epsilon: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    """From x_t at `t` to x at `t_next` (-1: clean data), both (N,) int64.

    Written as x_next = (a'/a) x_t + (s' - s a'/a) epsilon, with a = signal and s = sigma: the same update as through
    the predicted x_0, without dividing a difference of large terms at high noise.
    """
    ratio = schedule.signal(t_next) / schedule.signal(t)
    shift = schedule.sigma(t_next) - schedule.sigma(t) * ratio
    return coefficient(ratio, x_t) * x_t + coefficient(shift, x_t) * epsilon


def successors(timesteps: Tensor) -> Tensor:
    """The time step that follows each one in a run: the next of them, and -1 (clean data) after the last."""
    return torch.cat([timesteps[1:], timesteps.new_tensor([-1])])


@torch.no_grad()
def ddim_sample(
    net: Denoiser,
    schedule: NoiseSchedule,
    timesteps: Tensor,
    x_T: Tensor,
    visit: Callable[[int, Tensor], None] | None = None,
    condition: Sequence[Tensor] = (),
) -> Tensor:
    """Run the whole sampler from x_T, (N, C, H, W), and return x_0.

    `visit(k, x_t)` is called before step k with the x_t that the net is about to see. `condition` has a row a sample,
    on any device: `Workload.condition`.
    """
    x = x_T
    condition = [each.to(x.device) for each in condition]
    for k, (t, t_next) in enumerate(zip(timesteps, successors(timesteps), strict=True)):
        if visit is not None:
            visit(k, x)
        now, after = t.expand(len(x)), t_next.expand(len(x))
        x = ddim_step(schedule, x, net(x, now, *condition), now, after)
    return x
