"""The momentum detector: decides when a block has settled at a bit-width.

The published description (Ko and Jang, arXiv 2506.16776) says that a momentum-based mechanism tracks the perturbation
loss and decides when to lower the bit-width; its equations are not public. The rule below is pqbench's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reason = Literal["", "plateau", "budget"]


@dataclass
class MomentumDetector:
    """Follows M_k = beta M_(k-1) + (1 - beta) loss_k and fires on a plateau.

    beta       momentum, 0 <= beta < 1
    tau        a check counts as quiet when M changed by less than this share of itself since the last check
    patience   quiet checks in a row that make a plateau
    interval   iterations between checks: one iteration changes M by (1 - beta) of the loss's noise at most
    minimum    never fires before this many iterations
    budget     always fires at this many iterations
    settling   checks up to this iteration do not count: until then the loss is not yet that of the width alone
    """

    beta: float
    tau: float
    patience: int
    interval: int
    minimum: int
    budget: int
    settling: int = 0

    momentum: float = 0.0
    iterations: int = 0
    _quiet: int = 0
    _last_level: float | None = None

    def update(self, loss: float) -> Reason:
        """Take in the loss of one iteration; a reason means that the width is done."""
        self.iterations += 1
        self.momentum = self.beta * self.momentum + (1 - self.beta) * loss
        if self.iterations >= self.budget:
            return "budget"
        if self.checked and self.iterations > self.settling:
            self._check()
        if self._quiet >= self.patience and self.iterations >= self.minimum:
            return "plateau"
        return ""

    @property
    def checked(self) -> bool:
        """Whether the latest iteration was one at which M was looked at."""
        return self.iterations > 0 and self.iterations % self.interval == 0

    @property
    def level(self) -> float:
        """M_k without the bias of its start at zero (Kingma and Ba, 2015, section 3)."""
        return self.momentum / (1 - self.beta**self.iterations) if self.iterations else 0.0

    def _check(self) -> None:
        level = self.level
        if self._last_level is not None:
            quiet = abs(level - self._last_level) <= self.tau * abs(self._last_level)
            self._quiet = self._quiet + 1 if quiet else 0
        self._last_level = level
