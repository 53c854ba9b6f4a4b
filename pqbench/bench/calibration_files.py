"""Calibration sets from files, held against what will use them before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable

from pqbench.calibration.stored import StoredCalibration
from pqbench.contracts import CalibrationSet, Distiller, Workload
from pqbench.distillation.targets import student_samples
from pqbench.distillation.trained import HalvingDistiller, TrainedDistiller
from pqbench.errors import UserError
from pqbench.methods.composition import Composition


def check_calibration_files(workload: Workload, compositions: Iterable[Composition]) -> None:
    """Raise `UserError`, which names the file, for a set of another model or without a step that a student visits."""
    for composition in compositions:
        for part in composition.parts().values():
            if isinstance(part.component, StoredCalibration):
                part.component.require_fits(workload)
        _check_student_steps(workload, composition)


def _check_student_steps(workload: Workload, composition: Composition) -> None:
    """A distillation finds a missing step by itself, but only when the whole quantization is behind it."""
    part = composition.distiller_calibration or composition.calibration
    if composition.distiller is None or part is None or not isinstance(part.component, StoredCalibration):
        return
    composition.steps(workload.steps)  # a step count that cannot be had is no fault of the file
    t, run = CalibrationSet.load(part.component.path).t, workload.timesteps(workload.steps)
    for halving in _halvings(composition.distiller.component):
        try:
            student_samples(run, t, halving)
        except UserError as error:
            raise UserError(f"{part.component.path}, for {composition.label}: {error}") from None


def _halvings(distiller: Distiller) -> range:
    """After which halvings of the steps a student learns on the set; none for a distiller that does so in its own way.

    One that keeps its steps learns after none of them.
    """
    if isinstance(distiller, HalvingDistiller):
        return range(1, distiller.halvings + 1)
    return range(1) if isinstance(distiller, TrainedDistiller) and distiller.step_share == 1 else range(0)
