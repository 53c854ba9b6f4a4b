"""`pqbench diagnose`: where, in the net and in time, quantization does its damage."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pqbench.cli.shared.request import CacheFolder, Plugins, build_registry, given_path

if TYPE_CHECKING:
    from pqbench.components import Registry
    from pqbench.inspection.diagnostics_result import Diagnosis

FOLDER = "diagnosis"


def diagnose(
    target: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            parser=given_path,
            help="A run's folder, or a packed checkpoint with --workload.",
            show_default=False,
        ),
    ],
    workload: Annotated[
        str | None, typer.Option("--workload", "-w", help="Whose model a checkpoint is; a run knows it.")
    ] = None,
    images: Annotated[int, typer.Option("--images", "-n", min=1, help="Full-precision runs that are followed.")] = 16,
    seed: Annotated[int, typer.Option("--seed", help="Seed of their noise.")] = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", parser=given_path, help="Folder of the files [default: RUN/diagnosis]."),
    ] = None,
    cache: CacheFolder = None,
    plugins: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the data as JSON.")] = False,
) -> None:
    """Measure error and SNR by layer and time step, along the full-precision model's own denoising runs.

    Writes data (JSON, CSV) and figures (PNG) for each cell whose checkpoint is in the stage cache.
    """
    registry = build_registry(plugins)
    if target.is_dir():
        found = _of_run(target, registry, cache, images, seed)
    else:
        found = _of_file(target, registry, workload, images, seed)
    folder = output or (target / FOLDER if target.is_dir() else Path(f"{target.stem}-{FOLDER}"))
    _show(found, folder, as_json)


def _of_run(path: Path, registry: Registry, cache: Path | None, images: int, seed: int) -> dict[str, Diagnosis]:
    from pqbench.base.errors import UserError
    from pqbench.commands.diagnose import compressed, diagnose_file, workload_of
    from pqbench.results.store import RunFolder
    from pqbench.run.cache import StageCache, default_cache_folder
    from pqbench.run.checkpoints import checkpoints
    from pqbench.run.runner import readable_name

    folder = RunFolder.existing(path)
    facts = folder.manifest().workload
    model = workload_of(registry, str(facts["name"]), facts.get("fingerprint"))
    diagnoses = {}
    for cell in compressed(checkpoints(folder.current_records(), StageCache(cache or default_cache_folder()))):
        if cell.path is None:
            typer.echo(f"{cell.title}: {cell.missing}", err=True)
            continue
        typer.echo(f"{cell.title}: following {images} runs of {cell.record.steps} steps", err=True)
        diagnoses[readable_name(cell.title, cell.record.cell)] = diagnose_file(
            cell.path, model, cell.title, cell.record.steps, images=images, seed=seed
        )
    if not diagnoses:
        raise UserError(f"No compressed cell of {path} has its checkpoint in the cache: run it again, or give --cache.")
    return diagnoses


def _of_file(path: Path, registry: Registry, workload: str | None, images: int, seed: int) -> dict[str, Diagnosis]:
    from pqbench.base.errors import UserError
    from pqbench.commands.diagnose import diagnose_file, workload_of

    if not path.exists():
        raise UserError(f"There is nothing at {path}: give the folder of a run, or a packed checkpoint.")
    if workload is None:
        raise UserError(f"{path} does not say whose model it is: give --workload NAME.")
    model = workload_of(registry, workload)
    return {path.stem: diagnose_file(path, model, path.name, model.steps, images=images, seed=seed)}


def _show(diagnoses: dict[str, Diagnosis], folder: Path, as_json: bool) -> None:
    from pqbench.report.pages.diagnosis import summary, write_diagnoses

    written = write_diagnoses(folder, diagnoses)
    if as_json:
        typer.echo("[" + ",\n".join(diagnosis.model_dump_json(indent=2) for diagnosis in diagnoses.values()) + "]")
    else:
        for diagnosis in diagnoses.values():
            typer.echo(summary(diagnosis))
    typer.echo(f"Wrote {len(written)} files into {folder}", err=True)
