"""`pqbench calibrate`: draw a calibration set into a file that any method can use."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pqbench.cli.shared.request import (
    BudgetName,
    BudgetOption,
    CacheFolder,
    Device,
    Plugins,
    WorkloadName,
    build_registry,
    given_path,
)

if TYPE_CHECKING:
    from pqbench.commands.calibrate import Drawn

SUFFIX, PLOT_SUFFIX = ".safetensors", ".png"


def calibrate(
    sampler: Annotated[
        str,
        typer.Argument(
            metavar="SAMPLER", help="A calibration sampler and its options: ndtc[preset=text].", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            parser=given_path,
            help="The set's file; its name ends in .safetensors.",
            show_default=False,
        ),
    ],
    workload: WorkloadName = "fashion",
    budget: BudgetOption = BudgetName.QUICK,
    seed: Annotated[int, typer.Option("--seed", help="Base seed, as in the run's --seeds.")] = 0,
    steps: Annotated[
        int | None, typer.Option("--steps", help="Sampling steps that it is drawn at [default: the workload's].")
    ] = None,
    device: Device = "cpu",
    cache: CacheFolder = None,
    plugins: Plugins = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """Draw a calibration set: the one that a run with the same facts works on.

    Writes the set (safetensors) and beside it a plot of its time steps (PNG). METHOD[calibration=FILE] uses it.
    """
    from rich.console import Console

    from pqbench.base.devices import require_usable_device
    from pqbench.commands.calibrate import CalibrationRequest, draw_set
    from pqbench.run.cache import StageCache, default_cache_folder

    _require_free(output, force)
    require_usable_device(device)
    stage_cache = StageCache(cache or default_cache_folder())
    stage_cache.require_writable()
    request = CalibrationRequest(sampler, workload, budget.value, seed, steps, device)
    with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints is no result
        drawn = draw_set(request, build_registry(plugins), stage_cache, Console(stderr=True))
    _write(drawn, output)
    facts = _facts(drawn, output, workload)
    typer.echo(json.dumps(facts, indent=2) if as_json else "\n".join(_lines(facts)))


def _require_free(output: Path, force: bool) -> None:
    """Raise `UserError`, before any work, for a name that no method would take for a file or that is in use."""
    from pqbench.base.errors import UserError

    if output.suffix != SUFFIX:
        raise UserError(f"-o {output} must end in {SUFFIX}: give {output.with_suffix(SUFFIX)}.")
    for path in (output, output.with_suffix(PLOT_SUFFIX)):
        if path.is_dir():
            raise UserError(f"{path} is a folder: give the name of a file in it.")
        if path.exists() and not force:
            raise UserError(f"{path} is there already: give another -o, or --force to replace it.")


def _write(drawn: Drawn, output: Path) -> None:
    from pqbench.base.files import write_atomically
    from pqbench.report.figures.calibration import Panel, time_steps_figure

    drawn.write(output)
    write_atomically(output.with_suffix(PLOT_SUFFIX), time_steps_figure([Panel.of(drawn.time_steps)]))


def _facts(drawn: Drawn, output: Path, workload: str) -> dict[str, Any]:
    found = drawn.calibration
    return {
        "file": str(output),
        "plot": str(output.with_suffix(PLOT_SUFFIX)),
        "digest": found.digest,
        "samples": len(found),
        "shape": list(found.x_t.shape[1:]),
        "sampler": drawn.time_steps["sampler"],
        "workload": workload,
        "fingerprint": found.workload,
        "time_steps": {"first": int(found.t.min()), "last": int(found.t.max())},
        "facts": found.facts,
    }


def _lines(facts: dict[str, Any]) -> list[str]:
    from pqbench.components.grammar import MethodSpec

    shape, span = facts["shape"], facts["time_steps"]
    made = {key: value for key, value in facts["facts"].items() if key not in ("drawn_by", "sampler")}
    rows = [
        ("Digest (sha256)", facts["digest"]),
        ("Samples", f"{facts['samples']} of shape {'x'.join(map(str, shape))}"),
        ("Sampler", facts["sampler"]),
        ("Facts", ", ".join(f"{key} {value}" for key, value in sorted(made.items()))),
        ("Workload", f"{facts['workload']} (fingerprint {facts['fingerprint'][:12]}…)"),
        ("Time steps", f"{span['first']} to {span['last']}"),
        ("Written", f"{facts['file']}, {facts['plot']}"),
    ]
    width = max(len(name) for name, _ in rows)
    return [
        *(f"{name:<{width}}  {value}" for name, value in rows),
        f"{'Use':<{width}}  {MethodSpec('METHOD', (('calibration', facts['file']),))}",
    ]
