"""`pqbench audit`: what packed checkpoints really hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pqbench.cli.shared.request import CacheFolder, given_path

EXIT_PROBLEM = 1


def audit(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            parser=given_path, help="A packed checkpoint, or a run's folder for all of its cells.", show_default=False
        ),
    ],
    cache: CacheFolder = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count the bits of a packed checkpoint from its file alone: layers, grids, averages, bytes.

    Of a run, every cell's checkpoint is found in the stage cache, its place printed, and the file held against the
    record. Exit code 1 when one is damaged or differs from its record.
    """
    if checkpoint.is_dir():
        _audit_run(checkpoint, cache, as_json)
    else:
        _audit_file(checkpoint, as_json)


def _audit_file(path: Path, as_json: bool) -> None:
    from pqbench.inspection.stored_bits import audit_file

    found = audit_file(path)
    if as_json:
        typer.echo(found.model_dump_json(indent=2))
        return
    from pqbench.report.pages.audit import print_file

    print_file(found)


def _audit_run(path: Path, cache: Path | None, as_json: bool) -> None:
    from pqbench.commands.audit import audit_cells
    from pqbench.results.store import RunFolder
    from pqbench.run.cache import StageCache, default_cache_folder

    records = RunFolder.existing(path).current_records()
    cells = list(audit_cells(records, StageCache(cache or default_cache_folder())))
    if as_json:
        typer.echo(json.dumps({"run": str(path), "cells": [cell.model_dump(mode="json") for cell in cells]}, indent=2))
    else:
        from pqbench.report.pages.audit import print_cells

        print_cells(cells)
    problems = [cell for cell in cells if cell.problem]
    for cell in problems:
        typer.echo(f"{cell.label} {cell.precision} seed {cell.seed}: {cell.problem}", err=True)
    if problems:
        raise typer.Exit(EXIT_PROBLEM)
