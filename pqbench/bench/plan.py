"""From what the user asked for to cells, and from cells to stages. Nothing runs here."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

import pqbench
from pqbench.bench.budgets import PRESETS, Preset
from pqbench.bench.hashing import digest
from pqbench.bench.stage import Stage
from pqbench.contracts import Budget, CalibrationSampler, Engine, Workload
from pqbench.errors import UserError
from pqbench.evaluation.protocol import Protocol
from pqbench.methods.composition import Composition, Part, compose
from pqbench.methods.grammar import parse_methods
from pqbench.registry import Registry
from pqbench.registry.provenance import source_hash

REFERENCE_METHOD = "fp"
"""The method that every run contains, first, because every other row is compared with it."""

_COMPUTING = ("calibration", "contracts", "diffusion", "distillation", "methods", "quantization")
"""Packages of pqbench whose code decides what components compute; reports and engines are not among them."""


@dataclass(frozen=True)
class Request:
    """What the user asked for, before any name is resolved."""

    methods: str
    workload: str = "fashion"
    seeds: tuple[int, ...] = (0,)
    budget: Budget = "quick"
    images: int | None = None
    engines: tuple[str, ...] = ("torch", "openvino")
    device: str = "cpu"
    timing: bool = True


@dataclass(frozen=True)
class Job:
    """The live objects of a cell, from which its stages' functions take what they need."""

    workload: Workload
    workload_name: str
    composition: Composition
    protocol: Protocol
    preset: Preset
    engines: tuple[str, ...]
    seed: int
    device: str


@dataclass(frozen=True)
class Cell:
    """One method on one workload with one seed: a row's worth of work, as a small graph of stages.

    model      leaves the packed checkpoint
    images     leaves the samples
    score      leaves the image metrics
    timing     leaves latency and memory, unless the user asked for none
    """

    job: Job
    steps: int
    budget: Budget
    model: Stage
    images: Stage
    score: Stage
    timing: Stage | None

    @property
    def key(self) -> str:
        """Hash of everything that decides the cell's record."""
        finals = [self.score.key] + ([self.timing.key] if self.timing else [])
        return digest({"cell": finals, "label": self.job.composition.label, "seed": self.job.seed})

    @property
    def title(self) -> str:
        """For progress lines: `pqcad w4a4 seed 0`."""
        composition = self.job.composition
        return f"{composition.label} {composition.precision} seed {self.job.seed}"

    def __iter__(self) -> Iterator[Stage]:
        """All stages, inputs first, each once."""
        seen: set[str] = set()
        for final in (self.score, self.timing):
            for stage in final or ():
                if stage.key not in seen:
                    seen.add(stage.key)
                    yield stage


@dataclass(frozen=True)
class Plan:
    """All cells of a run, the full-precision ones first."""

    request: Request
    workload: Workload
    protocol: Protocol
    preset: Preset
    cells: tuple[Cell, ...] = field(default=())


def make_plan(request: Request, registry: Registry) -> Plan:
    """Resolve every name and lay out the work. Raises `UserError` before anything has run."""
    workload = _workload(request.workload, registry)
    preset = PRESETS[request.budget]
    images = request.images or preset.images
    if images < 2:
        raise UserError(f"--samples {images} is too few: a distance needs at least 2 images.")
    if not request.seeds or len(set(request.seeds)) != len(request.seeds):
        raise UserError(f"--seeds {','.join(map(str, request.seeds))} must name each seed once, and at least one.")
    for name in request.engines:
        _check_engine(name, registry)
    protocol = Protocol.of(
        workload,
        n=images,
        seeds=request.seeds,
        budget=request.budget,
        sampling_batch=preset.sampling_batch,
        resamples=preset.resamples,
    )
    compositions = _compositions(request, registry)
    cells: list[Cell] = []
    for seed in request.seeds:
        reference: Stage | None = None
        for composition in compositions:
            job = Job(
                workload, request.workload, composition, protocol, preset, request.engines, seed, request.device
            )
            cell = _cell(job, request, reference)
            reference = reference or cell.images
            cells.append(cell)
    return Plan(request, workload, protocol, preset, tuple(cells))


def _workload(name: str, registry: Registry) -> Workload:
    return registry.get("workload", name)()


def _check_engine(name: str, registry: Registry) -> None:
    engine: Engine = registry.get("engine", name)()
    missing = engine.available()
    if missing:
        raise UserError(missing)


def _compositions(request: Request, registry: Registry) -> list[Composition]:
    """The methods, with the reference method in front; the same composition is not run twice."""
    specs = parse_methods(request.methods)
    wanted = [compose(spec, registry, request.budget) for spec in specs]
    if all(composition.name != REFERENCE_METHOD for composition in wanted):
        wanted.insert(0, compose(parse_methods(REFERENCE_METHOD)[0], registry, request.budget))
    wanted.sort(key=lambda composition: composition.name != REFERENCE_METHOD)
    unique: dict[str, Composition] = {}
    for composition in wanted:
        unique.setdefault(digest(composition.canonical()), composition)
    return list(unique.values())


def _cell(job: Job, request: Request, reference: Stage | None) -> Cell:
    steps = job.composition.steps(job.workload.steps)
    model = _model(job)
    images = Stage(
        "sample",
        {
            **_base_facts(job),
            "steps": steps,
            "seed": job.seed,
            "images": job.protocol.n,
            "batch": job.preset.sampling_batch,
        },
        {"model": model},
        job,
    )
    features = Stage("features", {"extractor": job.protocol.extractor_sha256}, {"images": images}, job)
    score = Stage(
        "score",
        {"protocol": job.protocol.facts},
        {"features": features, "images": images, "reference": reference or images},
        job,
    )
    return Cell(job, steps, request.budget, model, images, score, _timing(job, model, steps) if request.timing else None)


def _model(job: Job) -> Stage:
    """The stage whose output is the packed checkpoint."""
    composition = job.composition
    if composition.quantizer is None and composition.distiller is None:
        return Stage("export", _base_facts(job), {}, job)
    model = Stage("export", _base_facts(job), {}, job)
    if composition.quantizer is not None:
        inputs = {}
        if composition.calibration is not None:
            inputs["calibration"] = _calibration(job, composition.calibration)
        model = Stage("quantize", _component_facts(job, composition.quantizer), inputs, job)
    if composition.distiller is not None:
        inputs = {"model": model}
        if composition.distiller_calibration is not None:
            inputs["calibration"] = _calibration(job, composition.distiller_calibration)
        model = Stage("distill", _component_facts(job, composition.distiller), inputs, job)
    return model


def _calibration(job: Job, part: Part[CalibrationSampler]) -> Stage:
    facts = _component_facts(job, part)
    # The bits do not change a calibration set, so methods that differ in bits share it.
    del facts["precision"]
    return Stage("calibrate", facts, {}, (job, part))


def _base_facts(job: Job) -> dict[str, Any]:
    return {"workload": job.workload.fingerprint(), "code": computing_code(), "device": job.device}


def _component_facts(job: Job, part: Part[Any]) -> dict[str, Any]:
    return {
        **_base_facts(job),
        "component": part.canonical(),
        "precision": str(job.composition.precision),
        "steps": job.workload.steps,
        "seed": job.seed,
    }


def _timing(job: Job, model: Stage, steps: int) -> Stage:
    facts = {
        "engines": list(job.engines),
        "steps": steps,
        "batches": timing_batches(job.preset),
        "seconds": job.preset.timing_seconds,
        "threads": torch.get_num_threads(),
        "code": _source("engines", "evaluation"),
        "machine": {"node": platform.node(), "processor": platform.processor(), "cores": os.cpu_count()},
    }
    return Stage("time", facts, {"model": model}, job)


def timing_batches(preset: Preset) -> list[int]:
    """Batch sizes at which latency is measured: one image, and the throughput batch."""
    return sorted({1, preset.throughput_batch})


def computing_code() -> str:
    """Hash of the parts of pqbench that decide what a component computes."""
    return _source(*_COMPUTING)


@cache
def _source(*packages: str) -> str:
    root = Path(pqbench.__file__).parent
    return source_hash([root / name for name in packages])


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read `0,1,2`. Raises `UserError` for anything but whole numbers."""
    try:
        seeds: Sequence[int] = [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds {text!r} is not a list of whole numbers: write it like 0,1,2.") from None
    return tuple(seeds)
