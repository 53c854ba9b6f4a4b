"""Deterministic DDIM sampling (Song et al., 2021, eq. 12 with sigma_t = 0)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.contracts.schedule import PREDICTIONS, NoiseSchedule

Denoiser = Callable[..., Tensor]
"""net(x_t, t, *condition): x_t (N, C, H, W), t (N,) int64, condition (N, ...) -> its prediction, (N, C, H, W)."""


def coefficient(values: Tensor, like: Tensor) -> Tensor:
    """(N,) float64 coefficients, shaped to multiply `like`, (N, C, H, W)."""
    return values.to(like.dtype).view(-1, *[1] * (like.dim() - 1))


def step_factors(schedule: NoiseSchedule, prediction: str, t: Tensor, t_next: Tensor) -> tuple[Tensor, Tensor]:
    """(p, q), each (N,) float64: one DDIM step is x_next = p x_t + q prediction, with t and t_next (N,) int64.

    The same update as through x_0 and epsilon, without dividing a difference of large terms at high noise. With
    a = signal and s = sigma at t, a' and s' at t_next:

        epsilon   p = a'/a            q = s' - s a'/a
        v         p = a' a + s' s     q = s' a - a' s
        x         p = s'/s            q = a' - a s'/s

    Raises `UserError` for another prediction.
    """
    a, s, a_next, s_next = schedule.signal(t), schedule.sigma(t), schedule.signal(t_next), schedule.sigma(t_next)
    if prediction == "epsilon":
        ratio = a_next / a
        return ratio, s_next - s * ratio
    if prediction == "v":
        return a_next * a + s_next * s, s_next * a - a_next * s
    if prediction == "x":
        ratio = s_next / s
        return ratio, a_next - a * ratio
    raise UserError(f"A net cannot predict {prediction!r}: a workload's prediction is one of {', '.join(PREDICTIONS)}.")


def ddim_step(
    schedule: NoiseSchedule, x_t: Tensor, predicted: Tensor, t: Tensor, t_next: Tensor, prediction: str = "epsilon"
) -> Tensor:
    """From x_t at `t` to x at `t_next` (-1: clean data), both (N,) int64; `predicted` is what the net made of x_t."""
    ratio, shift = step_factors(schedule, prediction, t, t_next)
    return coefficient(ratio, x_t) * x_t + coefficient(shift, x_t) * predicted


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
    prediction: str = "epsilon",
    condition: Sequence[Tensor] = (),
) -> Tensor:
    """Run the whole sampler from x_T, (N, C, H, W), and return x_0; `prediction` says what the net predicts.

    `visit(k, x_t)` is called before step k with the x_t that the net is about to see. `condition` has a row a sample,
    on any device (`Workload.condition`), as are `timesteps`.
    """
    x = x_T
    timesteps, condition = timesteps.to(x.device), [each.to(x.device) for each in condition]
    for k, (t, t_next) in enumerate(zip(timesteps, successors(timesteps), strict=True)):
        if visit is not None:
            visit(k, x)
        now, after = t.expand(len(x)), t_next.expand(len(x))
        x = ddim_step(schedule, x, net(x, now, *condition), now, after, prediction)
    return x
