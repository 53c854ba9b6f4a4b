"""Corrections: what is done to a compressed denoiser's prediction, once its weights and steps are final."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import nn

from pqbench.contracts.component import Component, Kind
from pqbench.contracts.context import Context


class Correction(Component):
    """Adjusts what a finished net predicts, without changing its weights or its steps."""

    kind: ClassVar[Kind] = "correction"

    @abstractmethod
    def correct(self, context: Context, net: nn.Module, full_precision: nn.Module, steps: int) -> nn.Module:
        """Return `net` with its prediction corrected, frozen.

        net              the compressed model; may be changed in place
        full_precision   read-only
        steps            sampling steps of the compressed model, a whole fraction of `context.steps`
        """
