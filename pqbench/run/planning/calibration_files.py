"""Calibration sets from files, held against what will use them before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from pqbench.base.errors import UserError
from pqbench.calibration.stored import StoredCalibration
from pqbench.contracts import CalibrationSet, Distiller, Workload
from pqbench.distillation.targets import student_samples
from pqbench.distillation.trained import HalvingDistiller, TrainedDistiller
from pqbench.methods.composition import Composition
from pqbench.run.planning.calibration_facts import STEPS


def check_calibration_files(workload: Workload, compositions: Iterable[Composition]) -> None:
    """Raise `UserError`, which names the file, for a set that does not fit.

    It is of another model, was drawn for another number of sampling steps, or lacks a step that a student visits.
    """
    for composition in compositions:
        for stored in _stored(composition):
            stored.require_fits(workload)
            _check_steps(workload, composition, stored)
        _check_student_steps(workload, composition)


def shared_by_seeds(compositions: Iterable[Composition], seeds: Sequence[int]) -> tuple[str, ...]:
    """A note where sets from files stand for those that samplers would draw anew with each seed."""
    labels = [composition.label for composition in compositions if any(_stored(composition))]
    if len(seeds) < 2 or not labels:
        return ()
    return (
        f"A calibration set from a file is the same for all {len(seeds)} seeds of {', '.join(labels)}: intervals "
        "between seeds leave its randomness out",
    )


def _stored(composition: Composition) -> Iterator[StoredCalibration]:
    components = (part.component for part in composition.parts().values())
    return (component for component in components if isinstance(component, StoredCalibration))


def _check_steps(workload: Workload, composition: Composition, stored: StoredCalibration) -> None:
    """A set says for how many sampling steps it was drawn, unless somebody else than pqbench made it."""
    drawn_for = stored.facts.get(STEPS, "")
    if drawn_for not in ("", str(workload.steps)):
        raise UserError(
            f"{stored.path}, for {composition.label}: it was drawn for {drawn_for} sampling steps, and {workload.name} "
            f"takes {workload.steps}: draw it with `pqbench calibrate --steps {workload.steps}`."
        )


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
