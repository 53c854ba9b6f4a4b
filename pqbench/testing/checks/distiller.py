"""The contract of distillers."""

from __future__ import annotations

import copy
from fractions import Fraction

from torch import Tensor, nn

from pqbench.calibration.uniform import Uniform
from pqbench.contracts import CalibrationSampler, CalibrationSet, Context, Distiller, Precision, Teachers, Workload
from pqbench.testing.checks.expect import expect, expect_sound_facts
from pqbench.testing.checks.leaks import no_leaked_globals
from pqbench.testing.checks.models import expect_sound_model, grids_of, round_to_nearest, same_state
from pqbench.testing.tiny import TinyWorkload


def check_distiller(
    distiller: Distiller, *, workload: Workload | None = None, sampler: CalibrationSampler | None = None
) -> None:
    """Check a distiller on a small workload with a round-to-nearest W4A4 teacher.

    The student keeps the teacher's layers with the bits and kinds of their grids, its packed checkpoint brings it back,
    the same seed gives the same student, teachers and calibration set are left as they were, and nothing global
    changes.

    sampler   makes the distiller's calibration set (default: 16 samples, uniform in time)
    """
    expect_sound_facts(type(distiller))
    workload = workload or TinyWorkload()
    share: object = distiller.step_share
    valid = isinstance(share, Fraction) and 0 < share <= 1
    expect(valid, f"Its step_share is {share!r}, not a Fraction above 0 and up to 1.")
    steps = workload.steps * distiller.step_share
    expect(steps.denominator == 1, f"Its share {distiller.step_share} of {workload.steps} steps is no whole number.")
    calibration = (sampler or Uniform(samples=16)).sample(Context(workload, Precision(), workload.steps))
    teachers = Teachers(round_to_nearest(workload), workload.denoiser().requires_grad_(False))
    student = _distill(distiller, workload, teachers, calibration)
    expect_sound_model(student, workload)
    before, after = grids_of(teachers.quantized), grids_of(student)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    expect(not changed, f"The student's layers are not on the teacher's grids: {', '.join(changed[:3])}.")
    again = _distill(distiller, workload, teachers, calibration)
    expect(same_state(student.state_dict(), again.state_dict()), "The same seed gives two different students.")


def _distill(distiller: Distiller, workload: Workload, teachers: Teachers, calibration: CalibrationSet) -> nn.Module:
    digest = calibration.digest
    states = [_copied(net) for net in (teachers.quantized, teachers.full_precision)]
    student = copy.deepcopy(teachers.quantized)
    with no_leaked_globals():
        trained = distiller.distill(Context(workload, Precision(4, 4), workload.steps), student, teachers, calibration)
    expect(calibration.digest == digest, "It changed the calibration set, which other cells use as well.")
    for net, state in zip((teachers.quantized, teachers.full_precision), states, strict=True):
        expect(same_state(net.state_dict(), state), "It changed one of its teachers, which are read-only.")
    return trained


def _copied(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}
