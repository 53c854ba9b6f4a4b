"""`pqbench export`: a finished model in a folder that runs without pqbench."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pqbench.cli.shared.request import CacheFolder, Plugins, build_registry, given_path

if TYPE_CHECKING:
    from pqbench.commands.export import Source
    from pqbench.components import Registry
    from pqbench.contracts import Workload

ANY = "any"


def export(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN METHOD DIR",
            help="A run's folder, one of its methods (pqcad, pqcad@w4a4) and a new folder; or CHECKPOINT DIR.",
            show_default=False,
        ),
    ],
    engine: Annotated[str, typer.Option("--engine", help="Whose files are written.")] = "openvino",
    seed: Annotated[
        int | None, typer.Option("--seed", help="Which of the method's cells, where there are several.")
    ] = None,
    batch: Annotated[
        str, typer.Option("--batch", help="Images that go through the model together; any: as many as come, slower.")
    ] = "16",
    workload: Annotated[
        str | None, typer.Option("--workload", "-w", help="Whose model a checkpoint is; a run knows it.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Sampling steps of a checkpoint [default: the workload's].")
    ] = None,
    cache: CacheFolder = None,
    plugins: Plugins = None,
) -> None:
    """Write a model into a folder that runs without pqbench: its files, an example and a card.

    The example, sample.py, needs the packages in requirements.txt alone. The written files are opened again and one
    step is held against the engine before the folder is kept.
    """
    from pqbench.base.errors import UserError
    from pqbench.commands.export import export as write
    from pqbench.commands.export import require_exporting, require_free

    if len(names) not in (2, 3):
        raise UserError("An export needs RUN METHOD DIR, or CHECKPOINT DIR: give two or three names.")
    registry, folder, size = build_registry(plugins), given_path(names[-1]), _batch(batch)
    require_free(folder)
    executing = registry.get("engine", engine)()
    require_exporting(executing, [found.component for found in registry.components() if found.kind == "engine"])
    if len(names) == 2:
        source, model = _of_file(given_path(names[0]), registry, workload, steps)
    else:
        source, model = _of_run(names, registry, seed, cache, workload, steps)
    command = shlex.join(["pqbench", *sys.argv[1:]])
    difference = write(source, model, executing, size, folder, command)
    typer.echo(f"{source.title} is in {folder}; one step of its files differs from the engine by {difference:.2g}.")
    typer.echo(f"Try it: cd {shlex.quote(str(folder))} && pip install -r requirements.txt && python sample.py")


def _batch(text: str) -> int | None:
    from pqbench.base.errors import UserError

    if text == ANY:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--batch {text} is not a batch size: give a whole number from 1 on, or {ANY}.")
    return int(text)


def _of_run(
    names: list[str], registry: Registry, seed: int | None, cache: Path | None, workload: str | None, steps: int | None
) -> tuple[Source, Workload]:
    from pqbench.base.errors import UserError
    from pqbench.commands.diagnose import workload_of
    from pqbench.commands.export import cell_source
    from pqbench.results.store import RunFolder
    from pqbench.run.cache import StageCache, default_cache_folder

    if workload is not None or steps is not None:
        raise UserError("--workload and --steps are for checkpoints by themselves: a run knows both.")
    run = RunFolder.existing(given_path(names[0]))
    source = cell_source(run, names[1], seed, StageCache(cache or default_cache_folder()))
    facts = run.manifest().workload
    return source, workload_of(registry, str(facts["name"]), facts.get("fingerprint"))


def _of_file(path: Path, registry: Registry, workload: str | None, steps: int | None) -> tuple[Source, Workload]:
    from pqbench.base.errors import UserError
    from pqbench.commands.diagnose import workload_of
    from pqbench.commands.export import Source

    if path.is_dir():
        raise UserError(
            f"{path} is a folder: give RUN METHOD DIR to export a cell of a run, for instance {path} fp DIR."
        )
    if not path.exists():
        raise UserError(f"There is nothing at {path}: give the folder of a run, or a packed checkpoint.")
    if workload is None:
        raise UserError(f"{path} does not say whose model it is: give --workload NAME.")
    model = workload_of(registry, workload)
    return Source(path, path.name, steps or model.steps), model
