"""`pqbench fetch`: the weights of extractors and metrics, fetched once and verified."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pqbench.base.errors import UserError
from pqbench.cli.shared.request import Plugins, build_registry, given_path

if TYPE_CHECKING:
    from rich.console import Console

    from pqbench.components import Registry
    from pqbench.contracts import Weights
    from pqbench.scoring.weights.download import Report
    from pqbench.scoring.weights.store import WeightStore

MEGABYTE = 1e6
_LINES = 10
"""Lines about a download's progress where there is no terminal."""


def fetch(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Extractors and metrics: fid-clean, timm:resnet50, lpips_to_fp."),
    ] = None,
    folder: Annotated[Path | None, typer.Option("--folder", parser=given_path, help="Where weights are kept.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Touch no network: only verify what is there.")] = False,
    plugins: Plugins = None,
) -> None:
    """Get the weights of extractors and metrics; without a name, list which there are and where.

    A file is in place only when its sha256 is right. A download that was interrupted goes on where it stopped. The
    folder is --folder, else the environment variable PQBENCH_WEIGHTS, else pqbench-weights in the user's cache folder.
    """
    from rich.console import Console

    from pqbench.scoring.weights.store import WeightStore

    store, registry = WeightStore(folder), build_registry(plugins)
    store.require_folder()
    if not names:
        typer.echo(_listing(registry, store))
        return
    console = Console(stderr=True)
    for name in names:
        _fetch_one(name, registry, store, offline, console)


def _fetch_one(name: str, registry: Registry, store: WeightStore, offline: bool, console: Console) -> None:
    from pqbench.scoring.weights.download import fetch as download
    from pqbench.scoring.weights.needed import needed_weights

    weights = needed_weights(name, registry)
    if weights is None:
        typer.echo(f"{name} needs no weights.")
        return
    with _progress(console, weights.file) as report:
        found = download(weights, store, offline=offline, report=report)
    pinned = "verified" if weights.sha256 else "recorded: nobody has pinned it"
    typer.echo(f"{found.path}\n  sha256 {found.sha256} ({pinned})")


def _listing(registry: Registry, store: WeightStore) -> str:
    """A table of the extractors and metrics and their files, and the folder that they are in."""
    from tabulate import tabulate

    kinds = ("extractor", "metric")
    rows = [row for found in registry.components() if found.kind in kinds for row in _rows(found.component, store)]
    headers = ("name", "file", "MB", "sha256", "state", "licence")
    table = tabulate(rows, headers=headers, disable_numparse=True)
    return f"{table}\n\nFolder: {store.folder}"


def _rows(component: type[Any], store: WeightStore) -> list[tuple[str, ...]]:
    """A row for each of the component's files; most metrics need none, and have no row."""
    from pqbench.scoring.weights.needed import offered_weights

    try:
        offered = offered_weights(component)
    except UserError:
        # timm itself: which file depends on the model
        return [(f"{component.name}:NAME", "that of the model", "", "", "", "")]
    if not offered and component.kind == "extractor":
        return [(component.name, "none", "", "", "", "")]
    return [_row(name, weights, store) for name, weights in offered.items()]


def _row(name: str, weights: Weights, store: WeightStore) -> tuple[str, ...]:
    size = f"{weights.bytes / MEGABYTE:.1f}" if weights.bytes else ""
    digest = f"{weights.sha256[:12]}…" if weights.sha256 else "not pinned"
    return name, weights.file, size, digest, store.state(weights), weights.licence


@contextmanager
def _progress(console: Console, file: str) -> Iterator[Report]:
    """A bar in a terminal, a few lines elsewhere."""
    if not console.is_terminal:
        yield _lines(console, file)
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(file, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total or None)


def _lines(console: Console, file: str) -> Callable[[int, int], None]:
    """Tells each further tenth; without a known size, each 50 MB."""
    told = -1

    def report(done: int, total: int) -> None:
        nonlocal told
        reached = int(done / (total / _LINES if total else 50 * MEGABYTE))
        if reached > told:
            told = reached
            of = f" of {total / MEGABYTE:.1f}" if total else ""
            console.print(f"{file}: {done / MEGABYTE:.1f}{of} MB", highlight=False, markup=False, soft_wrap=True)

    return report
