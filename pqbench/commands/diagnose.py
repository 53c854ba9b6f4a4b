"""Diagnostics of a run's cells, whose packed checkpoints are in the stage cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch

from pqbench.base.errors import UserError
from pqbench.components import Registry
from pqbench.contracts import Workload
from pqbench.contracts.context import ProgressCallback, silent
from pqbench.inspection.diagnostics import PURPOSE, diagnose
from pqbench.inspection.diagnostics_result import Diagnosis
from pqbench.quantization.checkpoint.io import load_checkpoint
from pqbench.results.records import CHANGING
from pqbench.run.checkpoints import CellCheckpoint


def workload_of(registry: Registry, name: str, fingerprint: object = None) -> Workload:
    """The workload `name`; with a fingerprint, only if it is still the same model.

    Raises `UserError` for an unknown name and for another model.
    """
    workload = registry.get("workload", name)()
    if fingerprint is not None and workload.fingerprint() != fingerprint:
        raise UserError(
            f"The workload {name} that is installed is not the model of this run (its fingerprint differs): install "
            "the version that the manifest names, or run again."
        )
    return workload


def diagnose_file(
    path: Path,
    workload: Workload,
    title: str,
    steps: int,
    *,
    images: int,
    seed: int,
    device: str = "cpu",
    progress: ProgressCallback = silent,
) -> Diagnosis:
    """Hold one packed checkpoint against its workload's full-precision model, over a run of `steps` steps."""
    return diagnose(
        workload.denoiser(),
        load_checkpoint(path, workload.architecture()),
        workload.schedule(),
        workload.timesteps(steps),
        workload.shape,
        title=title,
        prediction=workload.prediction,
        images=images,
        seed=seed,
        condition=workload.condition(seed, range(images), PURPOSE),
        device=torch.device(device),
        progress=progress,
    )


def compressed(found: Iterator[CellCheckpoint]) -> Iterator[CellCheckpoint]:
    """The cells that are not the full-precision model itself."""
    return (cell for cell in found if cell.record.components.keys() & set(CHANGING))
