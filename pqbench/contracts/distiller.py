"""Distillers: from a quantized teacher to a quantized student, usually with fewer sampling steps."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from torch import nn

from pqbench.contracts.calibration import CalibrationSet
from pqbench.contracts.component import Component, Kind
from pqbench.contracts.context import Context


@dataclass(frozen=True)
class Teachers:
    """The two nets a student can learn from: the quantized teacher and the full-precision model, both read-only."""

    quantized: nn.Module
    full_precision: nn.Module


class Distiller(Component):
    """Trains a student on the grids of the quantized teacher."""

    kind: ClassVar[Kind] = "distiller"
    calibration: ClassVar[str] = ""
    """Name of the calibration sampler that makes its C_DC, unless the method names another; empty: none needed."""

    @property
    def step_share(self) -> Fraction:
        """The student's sampling steps as a share of the teacher's, above 0 and up to 1.

        A distiller whose share depends on its parameters overrides the property; any other may state it as a class
        variable.
        """
        return Fraction(1, 2)

    @abstractmethod
    def distill(
        self, context: Context, student: nn.Module, teachers: Teachers, calibration: CalibrationSet
    ) -> nn.Module:
        """Train `student` (a copy of the quantized teacher that may be changed) and return it frozen.

        `context.steps` are the teacher's sampling steps.
        """
