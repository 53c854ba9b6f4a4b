"""The stages of a cell and what their keys hold."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from pqbench.base.cpu import instruction_set
from pqbench.base.devices import card_facts, device_of, driver
from pqbench.base.errors import UserError
from pqbench.base.packages import package_versions
from pqbench.components.provenance import source_hash
from pqbench.contracts import CalibrationSampler, ImageMetric
from pqbench.methods.composition import Part
from pqbench.run.cell import Cell
from pqbench.run.job import Job
from pqbench.run.planning.budgets import Preset
from pqbench.run.planning.judge import PARITY_IMAGES
from pqbench.run.stage import Stage
from pqbench.scoring.resolver import Scoring

Metrics = tuple[Part[ImageMetric], ...]

_ROOT = Path(__file__).parents[1]
"""Of pqbench, below which the places are whose code is in keys."""

_COMPUTING = (
    "calibration",
    "components/grammar.py",
    "contracts",
    "diffusion",
    "distillation",
    "inspection",
    "methods",
    "quantization",
    "training",
)
"""Places in pqbench whose code decides what components compute; reports and engines are not among them."""

_SCORING = ("scoring", "timing")
"""Packages of pqbench whose code decides the values of metrics."""


def cell_of(job: Job, reference: Cell | None, timing: bool) -> Cell:
    """Lay out one job's stages. `reference` is the full-precision model's cell; None: this one is."""
    model = _model(job)
    images = _images(job, model)
    features = Stage(
        "features", {**extractor_facts(job.scoring), "workload": dict(job.workload_facts)}, job, {"images": images}
    )
    statistics = _present(statistics=_statistics(job))
    outputs = {
        "features": features,
        "images": images,
        **statistics,
        "fp_images": reference.images if reference else images,
        "fp_features": reference.features if reference else features,
    }
    together, *apart = _scored_together(job.scoring)
    score = _score(job, together, outputs)
    parity = None if job.judge is None else _parity(job, {"model": model, "images": images, **statistics})
    timing_stage = _timing(job, model) if timing else None
    return Cell(
        job, model, images, features, score, timing_stage, parity, tuple(_score(job, each, outputs) for each in apart)
    )


def _scored_together(scoring: Scoring) -> list[Metrics]:
    """The metrics without weights, which are cheap, in one stage; each of the others in its own."""
    heavy = [part for part in scoring.metrics if part.component.name in scoring.grounds.weights]
    return [tuple(part for part in scoring.metrics if part not in heavy), *((part,) for part in heavy)]


def _score(job: Job, metrics: Metrics, outputs: dict[str, Stage]) -> Stage:
    grounds = {part.component.name: job.scoring.grounds.facts(part.component) for part in metrics}
    grounds = {name: facts for name, facts in grounds.items() if facts}
    # Releases of libraries are in these words alone.
    fixed = {part.component.name: dict(part.component.fixes()) for part in metrics}
    fixed = {name: words for name, words in fixed.items() if words}
    facts = {
        "protocol": job.protocol.facts,
        "metrics": [metric.canonical() for metric in metrics],
        "code": _source(*_SCORING),
        **({"grounds": grounds} if grounds else {}),
        **({"fixes": fixed} if fixed else {}),
    }
    return Stage("score", facts, job, outputs, metrics)


def _statistics(job: Job) -> Stage | None:
    """The stage whose output are the statistics of real images, for all cells of a run.

    None for the workload's own, which are always there; statistics from a user's file are kept too, for rows are
    compared by them when the file may be gone.
    """
    return None if job.scoring.is_own else Stage("reference", statistics_facts(job.scoring), job)


def statistics_facts(scoring: Scoring) -> dict[str, Any]:
    """What decides the statistics of real images that the user gave.

    No stage's key is behind it, as that of the images is behind other features: it says itself where it computes.
    """
    computes = scoring.source is not None
    return {
        **extractor_facts(scoring),
        **(_place(device_of(scoring.extractor.net).type) if computes else {}),
        **_libraries(str(scoring.facts.get("libraries", ""))),
        "reference": scoring.reference_sha256,
        "statistics": _source("scoring/reference.py", "scoring/images/sources.py", "scoring/formulas/frechet.py"),
    }


def extractor_facts(scoring: Scoring) -> dict[str, Any]:
    """What decides the outputs of the extractor. Metrics do not: adding one keeps the features."""
    code = _source("scoring/features.py", "scoring/gathering.py")
    facts: dict[str, Any] = {"extractor": scoring.extractor.sha256, "code": code}
    if scoring.extractor_code:
        extractor = scoring.extractor
        facts |= {"name": extractor.name, "pixels": extractor.pixels, "plugin": scoring.extractor_code}
        facts |= _libraries(scoring.libraries)
    if scoring.features != "float32":
        facts["features"] = scoring.features
    return facts


def _libraries(used: str) -> dict[str, str]:
    """Nothing where none is used: keys from before they were looked at stay."""
    return {"libraries": used} if used else {}


def timing_batches(preset: Preset) -> list[int]:
    """Batch sizes at which latency is measured: one image, and the throughput batch."""
    return sorted({1, preset.throughput_batch})


def computing_code() -> str:
    """Hash of the parts of pqbench that decide what a component computes."""
    return _source(*_COMPUTING)


def _model(job: Job) -> Stage:
    """The stage whose output is the packed checkpoint."""
    composition = job.composition
    calibration = None if composition.calibration is None else _calibration(job, composition.calibration)
    model = Stage("export", _base_facts(job), job)
    if composition.quantizer is not None:
        model = _component_stage("quantize", job, composition.quantizer, _present(calibration=calibration))
    if composition.distiller is not None:
        own = composition.distiller_calibration
        drawn = calibration if own is None else _calibration(job, own)
        if drawn is None:
            raise UserError(
                f"{composition.label}: the distiller {composition.distiller.component.name} gets no calibration set "
                "from a quantizer here: give distiller_calibration=NAME."
            )
        # Drawn first: what is wrong with it is said before anything is quantized for hours.
        model = _component_stage("distill", job, composition.distiller, {"calibration": drawn, "model": model})
    if composition.correction is not None:
        model = _component_stage("correct", job, composition.correction, {"model": model})
    return model


def _images(job: Job, model: Stage) -> Stage:
    facts = {
        **_base_facts(job),
        "steps": job.steps,
        "seed": job.seed,
        "images": job.protocol.n,
        "batch": job.preset.sampling_batch,
        **_judge(job),
    }
    return Stage("sample", facts, job, {"model": model})


def _parity(job: Job, inputs: dict[str, Stage]) -> Stage:
    facts = {
        **_base_facts(job),
        "steps": job.steps,
        "seed": job.seed,
        "images": min(PARITY_IMAGES, job.protocol.n),
        "batch": job.preset.sampling_batch,
        "extractor": job.protocol.extractor_sha256,
        "protocol": job.protocol.id,
        "evaluation": _source(*_SCORING),
        **_judge(job),
    }
    return Stage("parity", facts, job, inputs)


def _judge(job: Job) -> dict[str, Any]:
    """What decides the images when an engine makes them; nothing otherwise, as before there was a choice."""
    if job.judge is None:
        return {}
    return {"judge": {**job.judge.facts, "code": _source("engines")}}


def _calibration(job: Job, part: Part[Any]) -> Stage:
    facts = calibration_facts(part, job.workload_facts, steps=job.workload.steps, seed=job.seed, device=job.device)
    return Stage("calibrate", facts, job, component=part.component)


def _component_stage(name: Any, job: Job, part: Part[Any], inputs: dict[str, Stage]) -> Stage:
    return Stage(name, _component_facts(job, part), job, inputs, part.component)


def calibration_facts(
    part: Part[CalibrationSampler], workload_facts: Mapping[str, Any], *, steps: int, seed: int, device: str
) -> dict[str, Any]:
    """What decides a calibration set. Bits do not change it, so methods that differ in bits share it."""
    base = _facts_of_place(workload_facts, device)
    return {**base, "component": part.canonical(), "steps": steps, "seed": seed}


def _component_facts(job: Job, part: Part[Any]) -> dict[str, Any]:
    return {
        **_base_facts(job),
        "component": part.canonical(),
        "precision": str(job.composition.precision),
        "steps": job.workload.steps,
        "seed": job.seed,
    }


def _base_facts(job: Job) -> dict[str, Any]:
    return _facts_of_place(job.workload_facts, job.device)


def _facts_of_place(workload_facts: Mapping[str, Any], device: str) -> dict[str, Any]:
    return {"workload": dict(workload_facts), "code": computing_code(), **_place(device)}


def _place(device: str) -> dict[str, str]:
    """Another torch rounds differently, and so does another card: outputs are others."""
    return {"torch": torch.__version__, "device": device, **card_facts(device)}


def _timing(job: Job, model: Stage) -> Stage:
    card = card_facts(job.device)
    facts = {
        "workload": dict(job.workload_facts),
        "engines": sorted(job.engines),
        "steps": job.steps,
        "batches": timing_batches(job.preset),
        "processes": job.preset.timing_processes,
        "seconds": job.preset.timing_seconds,
        "threads": torch.get_num_threads(),
        "device": job.device,
        "code": _source("engines", *_SCORING, "results/names.py"),
        "versions": package_versions(),
        **({"exclusive": job.exclusive} if job.exclusive else {}),
        "machine": {
            "node": platform.node(),
            "processor": platform.processor(),
            "cores": os.cpu_count(),
            "instructions": list(instruction_set()),
        },
        **card,
        **({"driver": driver()} if card else {}),
    }
    return Stage("time", facts, job, {"model": model})


def _present(**inputs: Stage | None) -> dict[str, Stage]:
    return {role: stage for role, stage in inputs.items() if stage is not None}


@cache
def _source(*places: str) -> str:
    """Hash of the code at these places in pqbench. Raises FileNotFoundError for a place that does not exist."""
    for place in places:
        (_ROOT / place).stat()
    return source_hash([_ROOT / place for place in places])
