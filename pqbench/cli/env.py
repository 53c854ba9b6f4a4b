"""`pqbench env`: the environment that results depend on, to be pasted into a bug report."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

GIB = 2**30


def env(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show versions, processor, memory, graphics cards, and what is amiss with the installation."""
    from pqbench.environment import environment

    facts = environment()
    typer.echo(json.dumps(facts, indent=2) if as_json else "\n".join(_lines(facts)))


def _lines(facts: dict[str, Any]) -> list[str]:
    cpu, threads = facts["cpu"], facts["threads"]
    flags = "cannot be read" if cpu["flags"] is None else " ".join(cpu["flags"]) or "none that matters"
    rows = [
        ("Python", facts["python"]),
        ("Platform", facts["platform"]),
        ("CPU", f"{cpu['model']}, {cpu['cores']} cores"),
        ("CPU flags", flags),
        ("Memory", f"{facts['memory_bytes'] / GIB:.1f} GiB"),
        ("Threads", f"torch {threads['torch']}, between operators {threads['torch_interop']}"),
        ("GPU", ", ".join(facts["gpus"]) or "none"),
        *((name, version or "not installed") for name, version in facts["packages"].items()),
    ]
    width = max(len(name) for name, _ in rows)
    return [*(f"{name:<{width}}  {value}" for name, value in rows), *(f"\nNote: {note}" for note in facts["notes"])]
