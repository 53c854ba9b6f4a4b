"""Observers: statistics of a layer's input over a calibration set, in memory that does not grow with the set.

An observer is shown one batch after another and in the end gives a scale and a zero-point. Which range of the values
those should cover is left to a `RangeRule`: any function of `pqbench.quantization.ranges.rules`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.grids.step_clock import StepClock, nearest_seen

RangeRule = Callable[[Tensor, Grid], tuple[Tensor, Tensor]]
"""Values (C, N) and a grid -> scale (C,) float32 and zero-point (C,) int32."""

RESERVOIR_VALUES = 65_536
"""Values that `Reservoir` keeps of a layer's input: its 0.1 % tail is still 65 of them."""


class Observer(ABC):
    """Watches one tensor, the input of one layer."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid

    @abstractmethod
    def update(self, x: Tensor) -> None:
        """Take note of one batch, of any shape."""

    @abstractmethod
    def parameters(self) -> tuple[Tensor, Tensor]:
        """Scale (1,) float32 and zero-point (1,) int32 for what was seen so far; (S,) when the observer makes a table.

        Raises `UserError` when nothing was, or when it was not finite.
        """


ObserverFactory = Callable[[Grid], Observer]
"""Makes the observer of one layer from the grid of its input."""


class MinMax(Observer):
    """Covers everything that was seen."""

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        self._ends: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """Widen the range to the batch's extremes."""
        ends = _extremes(x)
        if self._ends is not None:
            ends = torch.stack([torch.minimum(self._ends[0], ends[0]), torch.maximum(self._ends[1], ends[1])])
        self._ends = ends

    def parameters(self) -> tuple[Tensor, Tensor]:
        """The grid over the range."""
        ends = _required(self._ends)
        return self.grid.parameters(ends[:1], ends[1:])


class MovingAverage(Observer):
    """Applies a range rule to each batch and keeps moving averages of the two ends of the grids it chooses.

    end <- (1 - momentum) end + momentum end(batch); the first batch starts the average. `momentum` is the new batch's
    share, as in torch. With `ranges.lp_search` this is PTQ4DM's range (momentum 0.1). For averages of the values' own
    extremes, not of the ends of rounded grids, see `MovingMinMax`.
    """

    def __init__(self, grid: Grid, rule: RangeRule, momentum: float = 0.1) -> None:
        super().__init__(grid)
        self._rule = rule
        self._momentum = momentum
        self._ends: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """Move both ends towards the batch's."""
        _extremes(x)
        scale, zero = self._rule(x.detach().reshape(1, -1), self.grid)
        codes = torch.tensor([self.grid.low, self.grid.high], device=scale.device)
        ends = self.grid.dequantize(codes, scale, zero)
        self._ends = ends if self._ends is None else torch.lerp(self._ends, ends, self._momentum)

    def parameters(self) -> tuple[Tensor, Tensor]:
        """The grid over the averaged range."""
        ends = _required(self._ends)
        return self.grid.parameters(ends[:1], ends[1:])


class MovingMinMax(Observer):
    """Keeps moving averages of the smallest and the largest value of each batch, and covers the range between them.

    end <- keep end + (1 - keep) end(batch); the first batch starts the average. Q-Diffusion calls `keep` the momentum:
    0.95 over batches of 64 (Li et al., 2023, its script for LSUN bedrooms).
    """

    def __init__(self, grid: Grid, keep: float = 0.95) -> None:
        super().__init__(grid)
        self._keep = keep
        self._ends: Tensor | None = None

    def update(self, x: Tensor) -> None:
        """Move both ends towards the batch's extremes."""
        ends = _extremes(x).double()
        self._ends = ends if self._ends is None else self._keep * self._ends + (1 - self._keep) * ends

    def parameters(self) -> tuple[Tensor, Tensor]:
        """The grid over the averaged range."""
        ends = _required(self._ends)
        return self.grid.parameters(ends[:1], ends[1:])


class PerTimeStep(Observer):
    """One observer for each time step of a clock: it gives a table, scale and zero-point (S,).

    An observer is made when its step's first sample comes. A step without any takes over the parameters of the nearest
    step that had some (of two equally near ones, the lower); `calibrate_activations` tells which those are.
    """

    def __init__(self, grid: Grid, observer: ObserverFactory, clock: StepClock) -> None:
        super().__init__(grid)
        self._make = observer
        self.clock = clock
        self._seen: dict[int, Observer] = {}

    def update(self, x: Tensor) -> None:
        """Show every row of the batch, (rows, ...), to the observer of its time step."""
        rows = self.clock.rows(x)
        for place in [rows] if isinstance(rows, int) else sorted(set(rows.tolist())):
            part = x if isinstance(rows, int) else x[rows.to(x.device) == place]
            if place not in self._seen:
                self._seen[place] = self._make(self.grid)
            self._seen[place].update(part)

    def parameters(self) -> tuple[Tensor, Tensor]:
        """The table: scale (S,) float32 and zero-point (S,) int32."""
        if not self._seen:
            raise _unseen()
        fitted = {place: observer.parameters() for place, observer in self._seen.items()}
        chosen = [fitted[place] for place in nearest_seen(self.clock.time_steps, fitted.keys())]
        return torch.cat([scale for scale, _ in chosen]), torch.cat([zero for _, zero in chosen])


class Reservoir(Observer):
    """Applies a range rule once, to a bounded random sample of all the values that were seen.

    Every slot of the sample is an independent uniform draw from everything seen so far: a batch of m values after n
    others takes each slot over with probability m / (n + m). The extremes are not added: among a few thousand values
    two outliers would weigh as much as thousands of their kind, and an L_p search would widen the range for them.
    """

    def __init__(self, grid: Grid, rule: RangeRule, generator: torch.Generator, size: int = RESERVOIR_VALUES) -> None:
        super().__init__(grid)
        self._rule = rule
        self._generator = generator
        self._size = size
        self._values: Tensor | None = None
        self._count = 0

    def update(self, x: Tensor) -> None:
        """Let the batch's values take over their share of the slots."""
        _extremes(x)
        flat = x.detach().reshape(-1)
        self._count += len(flat)
        drawn = flat[torch.randint(len(flat), (self._size,), generator=self._generator).to(flat.device)]
        if self._values is None:
            self._values = drawn
            return
        taken = torch.rand(self._size, generator=self._generator) < len(flat) / self._count
        self._values = torch.where(taken.to(flat.device), drawn, self._values)

    def parameters(self) -> tuple[Tensor, Tensor]:
        """What the rule makes of the sample."""
        return self._rule(_required(self._values).reshape(1, -1), self.grid)


def _extremes(x: Tensor) -> Tensor:
    ends = torch.stack(torch.aminmax(x.detach()))
    if not torch.isfinite(ends).all():
        raise UserError("A layer's input is NaN or infinite on the calibration set: check the set and the net.")
    return ends


def _required(values: Tensor | None) -> Tensor:
    if values is None:
        raise _unseen()
    return values


def _unseen() -> UserError:
    return UserError("A layer saw no calibration sample, so its input has no range: the net did not run it.")
