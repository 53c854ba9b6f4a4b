"""A compressed net held against the full-precision net, step by step along denoising runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts.context import Context
from pqbench.diffusion.ddim import ddim_step, successors
from pqbench.diffusion.merged import merged_prediction
from pqbench.diffusion.noise import initial_noise
from pqbench.quantization.correction.match import Match
from pqbench.quantization.net.output_correction import correct_output

Comparison = Callable[[Tensor, Tensor], Match]
"""(expected, found), both (N, C, H, W) at one time step -> how they stand to each other."""

PURPOSE = "correction"
"""Of the noise and the conditions of the runs: no image and no calibration set has them."""
_BATCH = 64
"""Runs that go through the nets together."""


@dataclass(frozen=True)
class Runs:
    """Denoising runs of a compressed net.

    net              the compressed model, which makes `steps` steps
    full_precision   the workload's model, which makes `context.steps`
    count            runs, each from noise of its own
    """

    context: Context
    net: nn.Module
    full_precision: nn.Module
    steps: int
    count: int

    @property
    def timesteps(self) -> Tensor:
        """The time steps of the compressed model, descending, (steps,) int64."""
        return self.context.timesteps()[:: self._merged]

    @property
    def _merged(self) -> int:
        if self.context.steps % self.steps:
            raise UserError(
                f"A correction needs each step of a model to stand for a whole number of the full-precision model's: "
                f"{self.steps} steps do not divide {self.context.steps}."
            )
        return self.context.steps // self.steps

    def correct(self, matches: Sequence[Match]) -> nn.Module:
        """The compressed net with one match for each step undone, and a row for each in the context's trace."""
        for t, match in zip(self.timesteps.tolist(), matches, strict=True):
            row = {"time_step": t, "gain": round(match.gain, 6), "bias": match.bias.norm().item()}
            self.context.trace.append(row)
        gains, biases = torch.tensor([match.gain for match in matches]), torch.stack([match.bias for match in matches])
        return correct_output(self.net, self.timesteps, gains, biases)

    def along_full_precision(self, compare: Comparison) -> list[Match]:
        """One match for each step; the x_t are those of the full-precision model's own runs."""
        return list(self._matches(compare, own=False))

    def along_own(self, compare: Comparison) -> list[Match]:
        """One match for each step; the x_t are those that the compressed model itself comes to.

        Each step is matched and undone before the next one is looked at, so that a match also mends what the steps
        before it have left.
        """
        return list(self._matches(compare, own=True))

    @torch.no_grad()
    def _matches(self, compare: Comparison, own: bool) -> Iterator[Match]:
        context = self.context
        schedule, prediction = context.workload.schedule(), context.workload.prediction
        x = initial_noise(context.seed, range(self.count), context.workload.shape, PURPOSE)
        condition = context.workload.condition(context.seed, range(self.count), PURPOSE)
        for k, (t, t_next) in enumerate(zip(self.timesteps, successors(self.timesteps), strict=True)):
            expected, found = self._predictions(x, t, condition)
            match = compare(expected, found)
            if not 0 < match.gain < math.inf:
                raise UserError(
                    f"At time step {int(t)} the compressed net's predictions have nothing to do with those of the "
                    f"full-precision one (gain {match.gain:.3g}): a correction cannot mend that; use more bits or "
                    "another quantizer."
                )
            yield match
            followed = match.undo(found) if own else expected
            now, after = t.expand(self.count), t_next.expand(self.count)
            x = ddim_step(schedule, x, followed.to(x.dtype), now, after, prediction)
            context.progress(k + 1, self.steps, "correction: steps of the runs")

    def _predictions(self, x: Tensor, t: Tensor, condition: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """What the compressed model should predict to land where the full-precision model does, and what it does."""
        device, workload = self.context.device, self.context.workload
        run = self.context.timesteps().to(device)
        expected, found = [], []
        for first in range(0, len(x), _BATCH):
            part = slice(first, first + _BATCH)
            x_t, *rest = (each[part].to(device) for each in (x, *condition))
            inputs = x_t, t.to(device).expand(len(x_t)), *rest
            right = merged_prediction(
                self.full_precision,
                workload.schedule(),
                run,
                *inputs,
                merged=self._merged,
                prediction=workload.prediction,
            )
            expected.append(right.cpu())
            found.append(self.net(*inputs).cpu())
        return torch.cat(expected), torch.cat(found)
