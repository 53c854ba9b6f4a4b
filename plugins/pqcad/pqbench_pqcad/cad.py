"""CAD: calibration-assisted distillation of a quantized teacher into a quantized student with half the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from pqbench.contracts import Teachers, parameter
from pqbench.distillation import Guide, HalvingDistiller, halved_teacher
from pqbench_pqcad.references import PQCAD, PROGRESSIVE_DISTILLATION


@dataclass(frozen=True)
class CalibrationAssistedDistillation(HalvingDistiller):
    """The student starts from the quantized teacher, keeps its grids and learns to make two steps in one.

    Loss = (1 - lam) |p - p_q|^2 + lam |p - p_fp|^2, where p is the student's prediction (epsilon, v or x), and p_q and
    p_fp are the two-step targets of the quantized teacher and of the full-precision model on C_DC.

    With more than one halving, each student is the quantized teacher of the next. The full-precision model never
    changes: in halving k its target is where 2^k of its own steps land, so that a student's errors are not handed on.
    """

    name: ClassVar[str] = "cad"
    summary: ClassVar[str] = "halves the steps of a quantized teacher, guided by the FP model (CAD of PQCAD-DM)"
    references: ClassVar[tuple[str, ...]] = (PQCAD, PROGRESSIVE_DISTILLATION)
    calibration: ClassVar[str] = "stratified"
    deviations: ClassVar[tuple[str, ...]] = (
        "The paper's loss is not public: the two-step target in the net's own prediction space and the weight lam are "
        "pqbench's design.",
        "At the budget quick lam is 1, so the quantized teacher gives the student its weights and grids but no target: "
        "after the few iterations of that budget its own target held the student back.",
    )

    lam: float = parameter(
        0.8, quick=1.0, low=0.0, high=1.0, help="weight of the FP model's target; 0: quantized teacher alone"
    )

    def guides(self, teachers: Teachers, teacher: nn.Module, halving: int) -> Sequence[Guide]:
        """The quantized teacher, two steps at a time, and the full-precision model, 2^halving at a time."""
        return (
            halved_teacher("quantized teacher", teacher, 1 - self.lam, halving),
            Guide("full-precision model", teachers.full_precision, self.lam, merged=2**halving),
        )
