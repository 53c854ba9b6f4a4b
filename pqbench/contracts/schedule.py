"""Noise schedules: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) epsilon (Ho et al., 2020, eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pqbench.base.errors import UserError

PREDICTIONS = ("epsilon", "v", "x")
"""What a net may predict of x_t = a x_0 + s epsilon: epsilon, v = a epsilon - s x_0 (Salimans and Ho, 2022), or x_0."""


@dataclass(frozen=True)
class NoiseSchedule:
    """The cumulative products abar_t of a variance-preserving process, (T,) float64, for t = 0 ... T-1."""

    alphas_cumprod: Tensor

    @classmethod
    def linear(cls, train_steps: int, beta_start: float, beta_end: float) -> NoiseSchedule:
        """Betas that grow linearly from `beta_start` to `beta_end` (Ho et al., 2020, section 4)."""
        betas = torch.linspace(beta_start, beta_end, train_steps, dtype=torch.float64)
        return cls(torch.cumprod(1 - betas, 0))

    @property
    def train_steps(self) -> int:
        """T, the number of time steps of the training."""
        return len(self.alphas_cumprod)

    def signal(self, t: Tensor) -> Tensor:
        """sqrt(abar_t), float64, of the shape of `t`; 1 where t is -1 (clean data)."""
        return self._abar(t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """sqrt(1 - abar_t), float64, of the shape of `t`; 0 where t is -1 (clean data)."""
        return (1 - self._abar(t)).sqrt()

    def _abar(self, t: Tensor) -> Tensor:
        table = self.alphas_cumprod.to(t.device)
        clean = torch.ones((), dtype=table.dtype, device=t.device)
        return torch.where(t < 0, clean, table[t.clamp(min=0)])


def trailing_timesteps(train_steps: int, steps: int) -> Tensor:
    """Evenly spaced steps that end at T - 1, descending, (steps,) int64 (Lin et al., 2023, section 3.3).

    A run with half the steps visits every second one of them, which step-halving distillation needs.
    Raises `UserError` unless 1 <= steps <= train_steps and train_steps is a multiple of steps.
    """
    if not 1 <= steps <= train_steps or train_steps % steps:
        raise UserError(
            f"{steps} sampling steps do not divide the {train_steps} training steps: choose a divisor of {train_steps}."
        )
    stride = train_steps // steps
    return torch.arange(train_steps - 1, -1, -stride, dtype=torch.int64)
