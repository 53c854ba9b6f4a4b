"""The options that `run` and `plan` share, and what they mean."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pqbench.components import Registry
    from pqbench.methods.ablation import AblationRow
    from pqbench.run.plan import Plan, Request
    from pqbench.scoring.resolver import ScoringRequest


class BudgetName(StrEnum):
    """How much work is spent."""

    QUICK = "quick"
    STANDARD = "standard"
    FULL = "full"


def given_path(text: str) -> Path:
    """A path on the command line. Raises `UserError` for an empty one, which would stand for the current folder."""
    from pqbench.base.errors import UserError

    if not text:
        raise UserError(
            'A path that was given is empty ("", perhaps a variable that is not set): name a file or a folder, with . '
            "for the current one."
        )
    return Path(text)


Methods = Annotated[
    str, typer.Option("--methods", "-m", help="Methods and their options: pqcad,ptq4dm[a=8]. fp is always added.")
]
Ablation = Annotated[
    str | None, typer.Option("--ablation", help="A method: its declared variants run as well, see methods ablation.")
]
WorkloadName = Annotated[str, typer.Option("--workload", "-w", help="What is compressed and judged.")]
BudgetOption = Annotated[BudgetName, typer.Option("--budget", "-b", help="Preset of the work: minutes, hours, days.")]
Seeds = Annotated[str, typer.Option("--seeds", help="Base seeds, separated by commas.")]
Samples = Annotated[int | None, typer.Option("--samples", "-n", help="Images for each cell, instead of the budget's.")]
Engines = Annotated[
    str,
    typer.Option(
        "--engines",
        help="Engines that latency is measured on; auto: torch, openvino and, for full precision alone, openvino-bf16 "
        "where the CPU has bfloat16, and on a GPU torch, torch-int8 and torch-compile; none: no timing.",
    ),
]
Metrics = Annotated[
    str, typer.Option("--metrics", help="Metrics of the images: fd,is[splits=5], or all that can be computed.")
]
ProtocolName = Annotated[
    str | None,
    typer.Option("--protocol", help="Extractor: fid-clean, timm:NAME [default: the workload's]."),
]
ReferencePath = Annotated[
    Path | None,
    typer.Option(
        "--reference", parser=given_path, help="Real images: a folder, .npz or .safetensors of images or of statistics."
    ),
]
WeightsPath = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        parser=given_path,
        help="File of the extractor's weights, or the folder that weights were fetched into.",
    ),
]
HalfFeatures = Annotated[bool, typer.Option("--half-features", help="Keep features in float16: half the bytes.")]
Judge = Annotated[
    str, typer.Option("--judge", help="Whose images are judged: simulation, engine, or auto (from 5000 images on).")
]
Device = Annotated[str, typer.Option("--device", help="cpu or cuda.")]
CacheFolder = Annotated[Path | None, typer.Option("--cache", parser=given_path, help="Folder of the stage cache.")]
Plugins = Annotated[list[str] | None, typer.Option("-p", help="no:NAME leaves the plugin NAME out.")]


def build_request(
    methods: str,
    workload: str,
    budget: BudgetName,
    seeds: str,
    samples: int | None,
    engines: str,
    device: str,
    scoring: ScoringRequest | None = None,
    judge: str = "simulation",
) -> Request:
    """The request behind the options. Raises `UserError` for options that mean nothing."""
    from pqbench.base.devices import require_usable_device
    from pqbench.run.plan import Request, parse_seeds
    from pqbench.scoring.resolver import ScoringRequest

    require_usable_device(device)
    return Request(
        methods=methods,
        workload=workload,
        seeds=parse_seeds(seeds),
        budget=budget.value,
        images=samples,
        engines=() if engines.strip().lower() == "none" else tuple(name.strip() for name in engines.split(",")),
        device=device,
        scoring=scoring or ScoringRequest(),
        judge=judge.strip().lower(),
    )


def build_scoring(
    metrics: str, protocol: str | None, reference: Path | None, weights: Path | None, half_features: bool
) -> ScoringRequest:
    """By what images are judged. Raises `UserError` for weights without a protocol."""
    from pqbench.scoring.resolver import ScoringRequest

    return ScoringRequest(metrics, protocol, reference, weights, "float16" if half_features else "float32")


def with_ablation(methods: str, ablation: str | None, budget: BudgetName, registry: Registry) -> str:
    """The methods that are asked for: those of --methods, then the variants that the method --ablation declares.

    Raises `UserError` when neither is given, and for a method without an ablation.
    """
    from pqbench.base.errors import UserError

    if ablation is None:
        if not methods.strip():
            raise UserError("No method is asked for: give --methods, for instance --methods rtn, or --ablation METHOD.")
        return methods
    from pqbench.methods.ablation import ablation_rows

    rows = ablation_rows(ablation, registry, budget.value)
    say_left_out(ablation, rows)
    return ",".join([*([methods] if methods.strip() else []), *(row.spec for row in rows if row.runs)])


def say_left_out(method: str, rows: Iterable[AblationRow]) -> None:
    """One line on stderr for each variant that cannot run here."""
    for row in rows:
        if row.problem:
            typer.echo(f"Left out of the ablation of {method}: {row.description} ({row.problem})", err=True)


def build_registry(plugins: list[str] | None) -> Registry:
    """The registry without the plugins that `-p no:NAME` leaves out."""
    from pqbench.components import Registry, blocked_names

    return Registry.discover(blocked=blocked_names(plugins or ()))


def warn_before_work(plan: Plan, registry: Registry) -> None:
    """One line on stderr for each note of the plan, and one for plugins that could not be loaded."""
    from pqbench.base.text import shortened

    for note in plan.notes:
        typer.echo(note, err=True)
    broken = registry.plugin_failures()
    if broken:
        names = "; ".join(f"{failure.entry_point} ({shortened(failure.error)})" for failure in broken)
        count = "1 plugin" if len(broken) == 1 else f"{len(broken)} plugins"
        typer.echo(f"{count} could not be loaded: {names}; see pqbench plugins list", err=True)
