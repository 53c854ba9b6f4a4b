"""Which of the training time steps a sampler with few steps visits."""

from __future__ import annotations

import torch
from torch import Tensor

from pqbench.base.errors import UserError


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
