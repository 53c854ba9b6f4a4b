"""From a finished cell of a run, or a packed checkpoint, to a folder that runs without pqbench."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.base.files import TEMPORARY_SUFFIX, explained_writing
from pqbench.base.packages import package_versions
from pqbench.base.text import did_you_mean
from pqbench.commands.compare import split_name
from pqbench.contracts import Component, Engine, Workload
from pqbench.diffusion.noise import initial_noise
from pqbench.engines.exporting import Exportable, ExportingEngine
from pqbench.inspection.stored_bits import FileAudit, audit_file
from pqbench.quantization.checkpoint.io import load_checkpoint
from pqbench.report.pages.export_card import ExportFacts, card
from pqbench.results.records import Manifest, Record
from pqbench.results.rows import quality_protocol
from pqbench.results.store import RunFolder
from pqbench.run.cache import StageCache
from pqbench.run.checkpoints import checkpoints

CARD = "README.md"
EXAMPLE_ROWS = 16
"""Conditions that the example of a conditional model has."""
LARGEST_DIFFERENCE = 0.1
"""Of one step between the written files and the engine, relative. Files for a fixed batch differ by nothing, those for
any batch by what rounding flips in a net of few bits amplify to; a damaged file is off by more.
"""
_CHECKED_STEPS = 3
"""First, middle and last of the run."""


@dataclass(frozen=True)
class Source:
    """What is exported.

    checkpoint   the packed file
    steps        sampling steps of the model
    seed         whose conditions the example has
    record       of the cell, None for a checkpoint by itself
    manifest     of the cell's run
    """

    checkpoint: Path
    title: str
    steps: int
    seed: int = 0
    record: Record | None = None
    manifest: Manifest | None = None


def cell_source(folder: RunFolder, name: str, seed: int | None, cache: StageCache) -> Source:
    """The cell `LABEL[@PRECISION][#PROTOCOL]` of a run; `seed` may be None where the row has only one.

    Raises `UserError` for a cell that the run does not have, with the nearest names, for one that failed, and for one
    whose checkpoint is no longer in the cache.
    """
    record = _of_seed(_rows(folder.current_records(), name, folder.path), name, seed)
    title = f"{record.label} {record.precision} seed {record.seed}"
    if record.status != "ok":
        raise UserError(f"{title} {record.status}, and only finished cells are exported: {record.reason}")
    found = next(checkpoints([record], cache))
    if found.path is None:
        raise UserError(f"{title} has no checkpoint to export: {found.missing}.")
    return Source(found.path, title, record.steps, record.seed, record, folder.manifest())


def require_exporting(engine: Engine, others: Sequence[type[Component]] = ()) -> ExportingEngine:
    """The engine as one that can export. Raises `UserError` for one that cannot, or that cannot run here."""
    if not isinstance(engine, ExportingEngine):
        able = [other.name for other in others if issubclass(other, ExportingEngine)]
        instead = f": use --engine {' or '.join(able)}." if able else "."
        raise UserError(f"The engine {engine.name} has no file format to export into{instead}")
    if missing := engine.available():
        raise UserError(missing)
    return engine


def require_free(folder: Path) -> None:
    """Raise `UserError` unless a folder is empty or can still be made."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file: give a folder that is new or empty.")
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(
            f"{folder} has files in it, which an export would mix with its own: give a new or empty folder."
        )


def export(source: Source, workload: Workload, engine: Engine, batch: int | None, folder: Path, command: str) -> float:
    """Write the folder, whole or not at all, and return by how much one step of its files differs from the engine's.

    batch     the batch size of the files; None: any
    command   what the user typed, for the card

    Raises `UserError` when the folder is not free, the model cannot be converted, the files do not answer as the engine
    does, or the disk is full.
    """
    require_free(folder)
    exporting = require_exporting(engine)
    audit = audit_file(source.checkpoint)
    timesteps = workload.timesteps(source.steps)
    model = Exportable(
        net=load_checkpoint(source.checkpoint, workload.architecture()).eval(),
        decode=workload.decode,
        shape=workload.shape,
        batch=batch,
        condition=workload.condition(source.seed, range(batch or EXAMPLE_ROWS)),
        timesteps=timesteps,
        alphas_cumprod=workload.schedule().alphas_cumprod[timesteps],
        prediction=workload.prediction,
    )
    with _whole(folder) as place:
        exporting.export(model, place)
        difference = _difference(model, workload, engine, exporting.open_exported(place, torch.get_num_threads()))
        if not difference <= LARGEST_DIFFERENCE:
            raise UserError(
                f"One step of the exported files differs from the engine {engine.name} by {difference:.1%}, more than "
                f"{LARGEST_DIFFERENCE:.0%}: they are not this model, so the export is not kept. Report this."
            )
        facts = _facts(source, workload, engine, audit, model, difference, command, place)
        with explained_writing(folder):
            (place / CARD).write_text(card(facts))
    return difference


def _rows(records: Sequence[Record], name: str, path: Path) -> list[Record]:
    """The records of one row."""
    label, protocol = split_name(name, "#")
    label, precision = split_name(label, "@")
    fits = [
        each for each in records if precision in ("", each.precision) and quality_protocol(each).startswith(protocol)
    ]
    found = [each for each in fits if each.label == label] or [each for each in fits if each.method == label]
    if not found:
        labels = list(dict.fromkeys(each.label for each in records))
        hint = did_you_mean(label, labels, most=1, cutoff=0)
        raise UserError(f"No cell of {path} is called {name}.{hint} Its methods are {', '.join(labels) or 'none'}.")
    rows = dict.fromkeys((each.label, each.precision, quality_protocol(each)) for each in found)
    if len(rows) > 1:
        choices = ", ".join(f"{row[0]}@{row[1]}{f'#{row[2]}' if row[2] else ''}" for row in rows)
        raise UserError(f"{name} may be any of {choices}: give one of these.")
    return found


def _of_seed(records: Sequence[Record], name: str, seed: int | None) -> Record:
    seeds = [record.seed for record in records]
    if seed is None and len(seeds) == 1:
        return records[0]
    if seed not in seeds:
        listed = ", ".join(map(str, sorted(seeds)))
        asked = "has several seeds" if seed is None else f"has no seed {seed}"
        raise UserError(f"{name} {asked}: give --seed with one of {listed}.")
    return records[seeds.index(seed)]


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder to work in beside `folder`, which becomes it unless an error comes first."""
    with explained_writing(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=TEMPORARY_SUFFIX, dir=folder.parent))
    try:
        yield place
        with explained_writing(folder):
            place.chmod(0o755)
            place.replace(folder)  # also onto an empty folder
    finally:
        shutil.rmtree(place, ignore_errors=True)


@torch.no_grad()
def _difference(model: Exportable, workload: Workload, engine: Engine, exported: Callable[..., Tensor]) -> float:
    """|files - engine| / |engine| of one step, the largest over some time steps."""
    count = model.batch or 1
    x, condition = initial_noise(0, range(count), workload.shape), workload.condition(0, range(count))
    conditional: dict[str, Any] = {"condition": condition} if condition else {}
    net: nn.Module = model.net
    executable = engine.compile(net, workload.shape, count, torch.get_num_threads(), **conditional)
    places = torch.linspace(0, len(model.timesteps) - 1, _CHECKED_STEPS).long()
    differences = []
    for t in model.timesteps[places]:
        inputs = x, t.repeat(count), *condition
        expected = executable(*inputs)
        differences.append(float((exported(*inputs) - expected).norm() / expected.norm()))
    return max(differences)


def _facts(
    source: Source,
    workload: Workload,
    engine: Engine,
    audit: FileAudit,
    model: Exportable,
    difference: float,
    command: str,
    place: Path,
) -> ExportFacts:
    return ExportFacts(
        title=source.title,
        steps=source.steps,
        workload=workload.name,
        workload_summary=workload.summary,
        fingerprint=workload.fingerprint(),
        workload_card=dict(workload.card()),
        references=workload.references,
        engine=engine.name,
        batch=model.batch,
        condition=tuple((tuple(each.shape[1:]), str(each.dtype).removeprefix("torch.")) for each in model.condition),
        audit=audit,
        record=source.record,
        protocols={} if source.manifest is None else source.manifest.protocols,
        run_command="" if source.manifest is None else source.manifest.command,
        command=command,
        difference=difference,
        versions=package_versions(),
        files={path.name: path.stat().st_size for path in sorted(place.iterdir())},
    )
