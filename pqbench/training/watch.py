"""Watching over a training: the last good state, and the end of a student that diverges."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NoReturn

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError

EXPLOSION = 100.0
"""A loss so many times over its start, and above that of answering 0, is that of a diverged student."""


class DivergedError(UserError):
    """A student's loss exploded or became NaN; the student has the parameters of its last good state."""


class Watch:
    """Follows the loss of a training and keeps the last good parameters, to which a diverged student goes back.

    A good state is one whose smoothed loss is the lowest so far: while a student diverges, no state is.

    size   the loss of answering 0: losses of single samples are up to hundreds of times apart, and a first batch that
           happens to be easy is no measure by itself
    """

    def __init__(self, parameters: Sequence[nn.Parameter], iterations: int, size: float) -> None:
        self.parameters = parameters
        self.iterations = iterations
        self.size = size
        self.good = [p.detach().clone() for p in parameters]
        self.good_iteration = 0
        self.start = self.smoothed = self.lowest = math.nan

    def see(self, iteration: int, loss: float) -> None:
        """Take in the loss of the parameters as they are before the step of `iteration`."""
        if iteration == 0:
            self.start = self.smoothed = self.lowest = loss
        if not math.isfinite(loss) and iteration == 0:
            raise DivergedError(
                f"The student's loss is {loss:.3g} before any training: look for NaN in the calibration set and in the "
                "quantized model that it starts from."
            )
        if not math.isfinite(loss) or loss > max(EXPLOSION * self.start, self.size):
            self._give_up(iteration, f"loss {loss:.3g}, at the start {self.start:.3g}")
        if iteration > 0:
            self.smoothed = 0.95 * self.smoothed + 0.05 * loss
        if self.smoothed < self.lowest:
            self.lowest = self.smoothed
            self.good_iteration = iteration
            self._copy(self.parameters, self.good)

    def finish(self) -> None:
        """The last step has no loss after it: look at the parameters themselves."""
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.parameters):
            self._give_up(self.iterations, "NaN in its parameters")

    def numbers(self) -> dict[str, float]:
        """All that it remembers besides the good parameters."""
        return {name: getattr(self, name) for name in ("good_iteration", "start", "smoothed", "lowest")}

    def put_back(self, numbers: dict[str, float], good: Sequence[Tensor]) -> None:
        """Remember what another watch over the same parameters did."""
        vars(self).update(numbers)
        self._copy(good, self.good)

    @torch.no_grad()
    def _copy(self, source: Sequence[Tensor], target: Sequence[Tensor]) -> None:
        for value, place in zip(source, target, strict=True):
            place.copy_(value)

    def _give_up(self, iteration: int, what: str) -> NoReturn:
        self._copy(self.good, self.parameters)
        raise DivergedError(
            f"The student diverged at iteration {iteration} of {self.iterations} ({what}): lower weight_lr or step_lr. "
            f"It was put back to its last good state, that of iteration {self.good_iteration}."
        )
