"""A denoiser that trains in milliseconds: convolutions, and a residual block with a time embedding between them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from pqbench.contracts import CalibrationSet, Context, Precision
from pqbench.diffusion.noise import initial_noise
from pqbench.diffusion.trajectories import collect
from pqbench.testing.tiny import TinyWorkload


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(2, width)
        self.one = nn.Conv2d(width, width, 3, padding=1)
        self.embed = nn.Linear(4, width)
        self.two = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = self.one(nn.functional.silu(self.norm(x))) + self.embed(time)[:, :, None, None]
        result: Tensor = x + self.two(nn.functional.silu(h))
        return result


class SmallDenoiser(nn.Module):
    """x_t (N, 3, 8, 8), t (N,) -> (N, 3, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, 8, 3, padding=1)
        self.block = ResidualBlock(8)
        self.middle = nn.Conv2d(8, 8, 1)
        self.conv_out = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = torch.sin(t[:, None] / torch.tensor([50.0, 100.0, 300.0, 900.0]))
        result: Tensor = self.conv_out(self.middle(self.block(self.conv_in(x), time)))
        return result


class SmallWorkload(TinyWorkload):
    name: ClassVar[str] = "small"
    steps: ClassVar[int] = 4

    def architecture(self) -> nn.Module:
        return SmallDenoiser().eval()


def context(precision: str = "w4a4", seed: int = 0, steps: int = 4) -> Context:
    return Context(SmallWorkload(), Precision.parse(precision), steps, seed=seed)


def calibration(samples: int = 64) -> CalibrationSet:
    """Points of FP runs at all four steps."""
    workload = SmallWorkload()
    timesteps = workload.timesteps(4)
    positions = torch.arange(samples) % 4
    x_t = collect(
        workload.denoiser(),
        workload.schedule(),
        timesteps,
        positions,
        seed=0,
        purpose="calibration",
        shape=workload.shape,
    )
    return CalibrationSet(x_t, timesteps[positions], workload.fingerprint())


def held_out(samples: int = 32) -> tuple[Tensor, Tensor]:
    """Noise that no calibration set holds, at the first step."""
    return initial_noise(5, range(samples), (3, 8, 8), "held out"), SmallWorkload().timesteps(4)[:1].expand(samples)
