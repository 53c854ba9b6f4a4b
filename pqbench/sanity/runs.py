"""Runs of the full-precision model, against which models are held step by step and image by image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.contracts import Engine, Workload
from pqbench.diffusion.ddim import Denoiser, ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.scoring.formulas.paired import psnr

MOST_STEPS = 10
"""Time steps, evenly over a run, at which predictions are compared."""


@dataclass(frozen=True)
class FullPrecisionRuns:
    """Denoising runs of a workload's own model.

    noise        (N, *shape) float32, of the images with the indices 0 ... N - 1 of a seed
    condition    a row for each of them
    visited      x_t before each compared step with its time step
    predicted    what the full-precision model makes of each
    images       (N, C, H, W) uint8
    """

    workload: Workload
    noise: Tensor
    condition: tuple[Tensor, ...]
    visited: tuple[tuple[Tensor, Tensor], ...]
    predicted: tuple[Tensor, ...]
    images: Tensor

    @classmethod
    def of(cls, workload: Workload, images: int, seed: int) -> FullPrecisionRuns:
        """Follow the runs of `images` images."""
        net = workload.denoiser().eval()
        noise, condition = initial_noise(seed, range(images), workload.shape), workload.condition(seed, range(images))
        timesteps = workload.timesteps(workload.steps)
        wanted = set(torch.linspace(0, len(timesteps) - 1, min(MOST_STEPS, len(timesteps))).long().tolist())
        visited: list[tuple[Tensor, Tensor]] = []

        def keep(k: int, x_t: Tensor) -> None:
            if k in wanted:
                visited.append((x_t, timesteps[k].repeat(images)))

        x_0 = ddim_sample(net, workload.schedule(), timesteps, noise, keep, workload.prediction, condition)
        with torch.no_grad():
            predicted = tuple(net(x_t, t, *condition) for x_t, t in visited)
        return cls(workload, noise, condition, tuple(visited), predicted, workload.decode(x_0))

    @torch.no_grad()
    def predictions(self, net: Denoiser) -> tuple[Tensor, ...]:
        """What another model predicts at the same places."""
        return tuple(net(x_t, t, *self.condition) for x_t, t in self.visited)

    def errors(self, predictions: tuple[Tensor, ...]) -> Tensor:
        """The relative error of one step, the mean over the time steps, for each image, (N,) float64."""
        return distances(predictions, self.predicted)

    def psnr(self, net: nn.Module) -> Tensor:
        """PSNR of each image that a model makes in as many steps, in dB, (N,) float64."""
        workload, timesteps = self.workload, self.workload.timesteps(self.workload.steps)
        x_0 = ddim_sample(
            net.eval(),
            workload.schedule(),
            timesteps,
            self.noise,
            prediction=workload.prediction,
            condition=self.condition,
        )
        return psnr(workload.decode(x_0), self.images)

    def executable(self, engine: Engine, net: nn.Module) -> Denoiser:
        """A model, compiled for the batch of these runs."""
        given: dict[str, Any] = {"condition": self.condition} if self.condition else {}
        return engine.compile(net, self.workload.shape, len(self.noise), torch.get_num_threads(), **given)


def distances(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> Tensor:
    """|found - expected| / |expected| of each image, the mean over the time steps, (N,) float64."""
    pairs = [(a.double().flatten(1), b.double().flatten(1)) for a, b in zip(found, expected, strict=True)]
    return torch.stack([(a - b).norm(dim=1) / b.norm(dim=1) for a, b in pairs]).mean(0)
