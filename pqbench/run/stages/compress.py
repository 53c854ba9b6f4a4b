"""The stages that make the compressed model: export, calibrate, quantize, distill, correct."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pqbench.base.errors import UserError
from pqbench.base.files import write_atomically
from pqbench.contracts import (
    CalibrationSampler,
    CalibrationSet,
    Component,
    Context,
    Correction,
    Distiller,
    Precision,
    Quantizer,
    Teachers,
)
from pqbench.contracts.context import ProgressCallback
from pqbench.inspection.audit import audit
from pqbench.quantization.checkpoint.io import load_checkpoint, save_checkpoint
from pqbench.quantization.net.verify import verify
from pqbench.run.job import Job
from pqbench.run.planning.calibration_facts import stamped, time_steps_row
from pqbench.run.stage import Stage

MODEL = "model.safetensors"
CALIBRATION = "calibration.safetensors"
TRACE = "trace.json"
AUDIT = "audit.json"
SCRATCH = "scratch"
"""Where a component keeps what helps it to go on after a kill; no part of the output."""
EARLIER = "earlier.json"
"""Seconds that killed attempts spent on what went into the output."""


def export(stage: Stage, folder: Path, inputs: Mapping[str, Path], progress: ProgressCallback) -> None:
    """The full-precision model as a checkpoint."""
    _keep(stage.job, stage.job.workload.denoiser(), folder)


def calibrate(stage: Stage, folder: Path, inputs: Mapping[str, Path], progress: ProgressCallback) -> None:
    """Draw a calibration set; it does not depend on the precision, so that methods which differ in bits share it."""
    draw_into(folder, stage.component, _context(stage.job, Precision(), progress, folder))


def draw_into(folder: Path, sampler: CalibrationSampler, context: Context) -> None:
    """What the stage leaves: the set with the facts that made it, and as its trace the time steps drawn.

    Raises `UserError` for a sampler that returns something else or a set that does not fit the workload.
    """
    drawn: object = sampler.sample(context)
    if not isinstance(drawn, CalibrationSet):
        raise UserError(_returned(sampler, "sample", drawn, "a CalibrationSet"))
    drawn.require_fits(context.workload)
    drawn = stamped(drawn, sampler, context)
    drawn.save(folder / CALIBRATION)
    context.trace.append(time_steps_row(drawn, context.timesteps()))
    _finish(context, folder)


def quantize(stage: Stage, folder: Path, inputs: Mapping[str, Path], progress: ProgressCallback) -> None:
    """Quantize the full-precision model on its calibration set."""
    quantizer: Quantizer = stage.component
    job = stage.job
    context = _context(job, job.composition.precision, progress, folder)
    net: object = quantizer.quantize(context, job.workload.denoiser(), _calibration(inputs, job))
    _keep(job, _module(quantizer, "quantize", net), folder)
    _finish(context, folder)


def distill(stage: Stage, folder: Path, inputs: Mapping[str, Path], progress: ProgressCallback) -> None:
    """Train the student, which starts as a copy of the quantized teacher."""
    distiller: Distiller = stage.component
    job = stage.job
    context = _context(job, job.composition.precision, progress, folder)
    teachers = Teachers(
        quantized=_load(inputs["model"], job).to(context.device),
        full_precision=job.workload.denoiser().to(context.device),
    )
    net: object = distiller.distill(context, _load(inputs["model"], job), teachers, _calibration(inputs, job))
    _keep(job, _module(distiller, "distill", net), folder)
    _finish(context, folder)


def correct(stage: Stage, folder: Path, inputs: Mapping[str, Path], progress: ProgressCallback) -> None:
    """Correct what the finished model predicts; its weights and steps stay as they are."""
    correction: Correction = stage.component
    job = stage.job
    context = _context(job, job.composition.precision, progress, folder)
    net = _load(inputs["model"], job).to(context.device)
    full_precision = job.workload.denoiser().to(context.device)
    corrected: object = correction.correct(context, net, full_precision, job.steps)
    _keep(job, _module(correction, "correct", corrected), folder)
    _finish(context, folder)


def _module(component: Component, verb: str, returned: object) -> nn.Module:
    """What a component returned, which is checked because plugins are not: a forgotten `return net` gives None."""
    if not isinstance(returned, nn.Module):
        raise UserError(_returned(component, verb, returned, "a module"))
    return returned


def _returned(component: Component, verb: str, returned: object, wanted: str) -> str:
    return f"{component.name}.{verb} returned {type(returned).__name__}, not {wanted}: mend its return statement."


def _context(job: Job, precision: Precision, progress: ProgressCallback, folder: Path) -> Context:
    return Context(
        workload=job.workload,
        precision=precision,
        steps=job.workload.steps,
        seed=job.seed,
        device=torch.device(job.device),
        progress=progress,
        scratch=folder / SCRATCH,
    )


def _load(folder: Path, job: Job) -> nn.Module:
    return load_checkpoint(folder / MODEL, job.workload.architecture())


def _calibration(inputs: Mapping[str, Path], job: Job) -> CalibrationSet:
    calibration = CalibrationSet.load(inputs["calibration"] / CALIBRATION)
    calibration.require_fits(job.workload)
    return calibration


def _keep(job: Job, net: nn.Module, folder: Path) -> None:
    """Save a model with its bit audit, once it is known to answer with numbers and to store the bits that it claims."""
    net = net.cpu().eval()
    verify(net)
    workload = job.workload
    t = workload.timesteps(workload.steps)[:1]
    example = torch.zeros(1, *workload.shape), t, *workload.condition(0, range(1))
    with torch.no_grad():
        answer = net(*example)
    if not torch.isfinite(answer).all():
        raise UserError(
            f"{job.composition.label} made a model that answers with NaN: its weights or scales are broken."
        )
    save_checkpoint(net, folder / MODEL)
    write_atomically(folder / AUDIT, audit(net, example, job.composition.precision).model_dump_json())


def _finish(context: Context, folder: Path) -> None:
    """Keep the trace and the earlier attempts' time, and drop the scratch: the output is whole."""
    rows: list[dict[str, Any]] = context.trace
    write_atomically(folder / EARLIER, json.dumps(sum(context.earlier)))
    if rows:
        write_atomically(folder / TRACE, json.dumps(rows))
    if (folder / SCRATCH).exists():
        shutil.rmtree(folder / SCRATCH)
