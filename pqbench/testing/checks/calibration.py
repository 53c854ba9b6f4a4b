"""The contract of calibration samplers."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from pqbench.contracts import CalibrationSampler, CalibrationSet, Context, Precision, Workload
from pqbench.testing.checks.expect import expect, expect_sound_facts
from pqbench.testing.checks.leaks import no_leaked_globals
from pqbench.testing.tiny import TinyWorkload


def check_calibration_sampler(sampler: CalibrationSampler, *, workload: Workload | None = None) -> None:
    """Check a calibration sampler on a small workload.

    Types, shapes, conditions and time steps are those of the contract; the seed alone decides what is drawn; a set
    survives its file; nothing global changes.
    """
    expect_sound_facts(type(sampler))
    workload = workload or TinyWorkload()
    found = _sample(sampler, workload, seed=0)
    _expect_shapes(found, workload)
    expect(found.digest == _sample(sampler, workload, seed=0).digest, "The same seed gives two different sets.")
    expect(found.digest != _sample(sampler, workload, seed=1).digest, "Another seed gives the same set.")
    expect(found.workload == workload.fingerprint(), "The set does not carry the workload's fingerprint.")
    same = found.prediction == workload.prediction
    expect(same, f"The set's prediction is {found.prediction}, the workload's {workload.prediction}.")
    kinds = _kinds(found.condition), _kinds(workload.condition(0, range(1)))
    expect(kinds[0] == kinds[1], f"A sample's conditions are {kinds[0]}, not {kinds[1]}: see Workload.condition.")
    expect(all(isinstance(value, str) for value in found.facts.values()), "The set's facts are not all texts.")
    with TemporaryDirectory() as folder:
        path = Path(folder) / "calibration.safetensors"
        found.save(path)
        again = CalibrationSet.load(path)
    expect(again.digest == found.digest and again.facts == found.facts, "The set is another one after save and load.")


def _sample(sampler: CalibrationSampler, workload: Workload, seed: int) -> CalibrationSet:
    with no_leaked_globals():
        return sampler.sample(Context(workload, Precision(), workload.steps, seed=seed))


def _kinds(condition: tuple[Tensor, ...]) -> list[tuple[torch.dtype, tuple[int, ...]]]:
    """Types and shapes of the conditions of one sample."""
    return [(each.dtype, tuple(each.shape[1:])) for each in condition]


def _expect_shapes(found: CalibrationSet, workload: Workload) -> None:
    x_t, t = found.x_t, found.t
    expect(x_t.dtype == torch.float32 and t.dtype == torch.int64, f"x_t is {x_t.dtype} and t {t.dtype}.")
    expect(x_t.device.type == t.device.type == "cpu", "The set is not on the CPU.")
    expect(tuple(x_t.shape[1:]) == workload.shape, f"A sample has shape {tuple(x_t.shape[1:])}, not {workload.shape}.")
    visited = set(workload.timesteps(workload.steps).tolist())
    strange = sorted(set(t.tolist()) - visited)
    expect(not strange, f"Its time steps {strange[:5]} are none that the workload's sampler visits.")
