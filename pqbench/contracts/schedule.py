"""Noise schedules: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) epsilon (Ho et al., 2020, eq. 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


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
