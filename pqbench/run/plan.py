"""From what the user asked for to cells. Nothing runs here."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from pqbench.base.errors import UserError
from pqbench.components import Registered, Registry
from pqbench.components.grammar import parse_methods
from pqbench.contracts import Budget, Component, Workload
from pqbench.engines.choice import AUTO, choose_engines
from pqbench.methods.composition import Composition, compose
from pqbench.results.hashing import digest
from pqbench.run.cell import REFERENCE_METHOD, Cell, is_reference
from pqbench.run.graph import cell_of
from pqbench.run.job import Job
from pqbench.run.planning.budgets import PRESETS, Preset
from pqbench.run.planning.calibration_files import check_calibration_files, shared_by_seeds
from pqbench.run.planning.judge import choose_judge
from pqbench.scoring.libraries import libraries_of, with_versions
from pqbench.scoring.protocol import SIMULATION, RunProtocol
from pqbench.scoring.resolver import ScoringRequest, ScoringResolver, image_shape

ACCEPTED_BY = "fd"
"""The metric by which a full-precision model is accepted: always computed."""


@dataclass(frozen=True)
class Request:
    """What the user asked for, before any name is resolved.

    methods     in the grammar of `pqbench.components.grammar`
    images      for each cell, instead of the budget's
    engines     that latency is measured on (see `pqbench.engines.choice`); none: no timing
    scoring     by what the images are judged
    exclusive   seconds that a timing may wait for a quiet machine
    judge       whose images are judged: simulation, engine or auto (see `pqbench.run.planning.judge`)
    """

    methods: str
    workload: str = "fashion"
    seeds: tuple[int, ...] = (0,)
    budget: Budget = "quick"
    images: int | None = None
    engines: tuple[str, ...] = (AUTO,)
    device: str = "cpu"
    scoring: ScoringRequest = field(default_factory=ScoringRequest)
    exclusive: float = 0.0
    judge: str = SIMULATION


@dataclass(frozen=True)
class Plan:
    """All cells of a run, the full-precision ones first.

    notes   for the user: what was asked for and is not done, and what results leave out, one sentence each
    """

    request: Request
    workload: Workload
    workload_facts: dict[str, Any]
    protocol: RunProtocol
    preset: Preset
    cells: tuple[Cell, ...] = ()
    notes: tuple[str, ...] = ()


def make_plan(request: Request, registry: Registry) -> Plan:
    """Resolve every name and lay out the work. Raises `UserError` before anything has run."""
    _check_seeds(request.seeds)
    preset = _preset(request)
    found = registry.find("workload", request.workload)
    engines = choose_engines(request.engines, request.device, registry)
    judge = choose_judge(request.judge, engines.every, request.device, preset.images, registry)
    compositions, notes = _compositions(request, registry)
    _check_devices(request, found.component, compositions)
    workload = found.component()
    resolver = ScoringResolver(
        request.scoring,
        registry,
        image_shape(workload),
        preset.images,
        workload.name,
        workload=workload,
        device=request.device,
        seeds=request.seeds,
    )
    scoring = resolver.scoring(request.budget, always=ACCEPTED_BY)
    protocol = RunProtocol.of(
        workload,
        n=preset.images,
        seeds=request.seeds,
        budget=request.budget,
        sampling_batch=preset.sampling_batch,
        resamples=preset.resamples,
        scoring=scoring.facts,
        judge=judge.words if judge else SIMULATION,
    )
    check_calibration_files(workload, compositions)
    facts = workload_facts(found, workload)
    jobs = [
        Job(
            workload,
            request.workload,
            facts,
            composition,
            protocol,
            scoring,
            request.budget,
            preset,
            engines.of(composition),
            seed,
            request.device,
            exclusive=request.exclusive,
            judge=judge,
        )
        for seed in request.seeds
        for composition in compositions
    ]
    cells = tuple(_cells(jobs, timing=bool(engines.every)))
    notes = (*notes, *shared_by_seeds(compositions, request.seeds), *scoring.notes)
    return Plan(request, workload, facts, protocol, preset, cells, notes)


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read `0,1,2`. Raises `UserError` for anything but whole numbers."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"--seeds {text!r} is not a list of whole numbers: write it like 0,1,2.") from None


def _cells(jobs: list[Job], timing: bool) -> Iterable[Cell]:
    """The cells of all seeds' full-precision models, then the others, each compared with that of its seed."""
    reference: dict[int, Cell] = {}
    for job in sorted(jobs, key=lambda job: not is_reference(job.composition)):
        cell = cell_of(job, reference.get(job.seed), timing)
        reference.setdefault(job.seed, cell)
        yield cell


def _check_seeds(seeds: tuple[int, ...]) -> None:
    if not seeds or len(set(seeds)) != len(seeds):
        raise UserError(f"--seeds {','.join(map(str, seeds))} must name each seed once, and at least one.")


def _preset(request: Request) -> Preset:
    preset = PRESETS[request.budget]
    if request.images is None:
        return preset
    if request.images < 2:
        raise UserError(f"--samples {request.images} is too few: a distance needs at least 2 images.")
    return replace(preset, images=request.images)


def _compositions(request: Request, registry: Registry) -> tuple[list[Composition], tuple[str, ...]]:
    """The methods, with the reference method in front, and a note for each composition that is not run twice."""
    asked = [compose(spec, registry, request.budget) for spec in parse_methods(request.methods)]
    (reference,) = (compose(spec, registry, request.budget) for spec in parse_methods(REFERENCE_METHOD))
    same: dict[str, list[Composition]] = {}
    for composition in asked:
        same.setdefault(digest(composition.canonical()), []).append(composition)
    notes = tuple(_repeated([each.label for each in group]) for group in same.values() if len(group) > 1)
    same.setdefault(digest(reference.canonical()), [reference])
    unique = sorted((group[0] for group in same.values()), key=lambda composition: not is_reference(composition))
    return unique, notes


def _repeated(labels: list[str]) -> str:
    """`rtn is asked for twice: it runs once`, whatever the spellings."""
    first, *others = dict.fromkeys(labels)
    times = "twice" if len(labels) == 2 else f"{len(labels)} times"
    spelt = f" (as {', '.join((first, *others))})" if others else ""
    return f"{first} is asked for {times}{spelt}: it runs once"


def _check_devices(request: Request, workload: type[Workload], compositions: Iterable[Composition]) -> None:
    parts = [part.component for composition in compositions for part in composition.parts().values()]
    require_device(request.device, (workload, *parts))


def require_device(device: str, components: Iterable[Component | type[Component]]) -> None:
    """Raise `UserError` when one of the components does not run on this device."""
    for component in components:
        if device not in component.devices:
            raise UserError(
                f"The {component.kind} {component.name} does not run on {device}: "
                f"use --device {' or '.join(component.devices)}."
            )


def workload_facts(found: Registered[Workload], workload: Workload) -> dict[str, Any]:
    """What identifies a workload in keys, records and manifests, the libraries that its net is built from included."""
    libraries = with_versions(libraries_of(workload))
    return {
        "name": found.name,
        "distribution": found.provenance.distribution,
        "version": found.provenance.version,
        "source_hash": found.provenance.source_hash,
        "fingerprint": workload.fingerprint(),
        **({"libraries": libraries} if libraries else {}),
    }
