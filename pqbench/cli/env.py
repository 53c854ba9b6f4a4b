"""`pqbench env`: the environment that results depend on, to be pasted into a bug report."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

GIB = 2**30


def env(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show versions, processor, memory, graphics cards, engines, energy counters, and what is amiss."""
    from pqbench.run.environment import environment

    engines = _engines()
    missing = {name: _missing(engine) for name, engine in engines.items()}
    usable = {name: engine for name, engine in engines.items() if not missing[name]}
    facts = environment() | {"engines": missing, "kernels": _kernels(usable)}
    typer.echo(json.dumps(facts, indent=2) if as_json else "\n".join(_lines(facts)))


def _engines() -> dict[str, type[Any]]:
    from pqbench.components import Registry

    return {entry.name: entry.component for entry in Registry.discover().components() if entry.kind == "engine"}


def _kernels(engines: dict[str, type[Any]]) -> dict[str, dict[str, str]]:
    """What engines that can run say about their kernels on this machine."""
    facts = {name: dict(engine().kernels()) for name, engine in engines.items()}
    return {name: kernels for name, kernels in facts.items() if kernels}


def _missing(engine: type[Any]) -> str:
    """Why an engine cannot run here; empty for one that can."""
    try:
        return str(engine().available())
    except Exception as error:  # a plugin's own bug is a fact about this installation
        return f"fails when asked: {type(error).__name__}: {error}"


def _energy(found: dict[str, Any]) -> str:
    return ", ".join(found["counters"]) or f"not measured: {found['missing']}"


def _lines(facts: dict[str, Any]) -> list[str]:
    cpu, threads = facts["cpu"], facts["threads"]
    flags = "cannot be read" if cpu["flags"] is None else " ".join(cpu["flags"]) or "none that matters"
    caps = " ".join(f"{name}={value}" for name, value in cpu["caps"].items())
    rows = [
        ("Python", facts["python"]),
        ("Platform", facts["platform"]),
        ("CPU", f"{cpu['model']}, {cpu['cores']} cores"),
        ("CPU flags", flags),
        *([("CPU caps", caps)] if caps else []),
        ("Memory", f"{facts['memory_bytes'] / GIB:.1f} GiB"),
        ("Threads", f"torch {threads['torch']}, between operators {threads['torch_interop']}"),
        ("GPU", ", ".join(facts["gpus"]) or "none"),
        *((f"Engine {name}", missing or "can run here") for name, missing in facts["engines"].items()),
        *((f"Kernels {name}", ", ".join(map(" ".join, found.items()))) for name, found in facts["kernels"].items()),
        *((f"Energy of {device}", _energy(found)) for device, found in facts["energy"].items()),
        *((name, version or "not installed") for name, version in facts["packages"].items()),
    ]
    width = max(len(name) for name, _ in rows)
    return [*(f"{name:<{width}}  {value}" for name, value in rows), *(f"\nNote: {note}" for note in facts["notes"])]
