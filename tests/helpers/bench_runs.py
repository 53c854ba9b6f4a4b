"""A bench on which whole runs take a second: the tiny workload, few images, cheap methods."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from pqbench.components import Registry
from pqbench.results.records import Record
from pqbench.results.store import RunFolder
from pqbench.run.cache import StageCache
from pqbench.run.plan import Plan, Request, make_plan
from pqbench.run.runner import Mode, Runner

PLUGINS = Path(__file__).parent / "bench_plugins.py"
PAUSE = "PQBENCH_TEST_PAUSE"
"""The variable that makes a slow method of `PLUGINS` stop in the middle of its work."""


@dataclass
class Bench:
    """Runs plans into one folder with one cache, and keeps what was shown."""

    root: Path
    registry: Registry
    shown: io.StringIO = field(default_factory=io.StringIO)

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.root / "run")

    @property
    def cache(self) -> StageCache:
        return StageCache(self.root / "cache")

    def plan(self, methods: str = "cheap", **request: Any) -> Plan:
        defaults: dict[str, Any] = {"workload": "tiny", "images": 16, "engines": ()}
        return make_plan(Request(methods, **(defaults | request)), self.registry)

    def run(self, methods: str = "cheap", mode: Mode = "cached", **request: Any) -> dict[str, Record]:
        """The records by label and seed: `cheap/0`."""
        self.shown.truncate(self.shown.seek(0))
        console = Console(file=self.shown, width=200)
        plan = self.plan(methods, **request)
        records = Runner(plan, self.folder, self.cache, self.registry, console, mode).run()
        return {f"{record.label}/{record.seed}": record for record in records}

    @property
    def lines(self) -> list[str]:
        return self.shown.getvalue().splitlines()


def comparable(record: Record) -> dict[str, Any]:
    """A record without what may differ between a run and its repetition: times, memory, and what was cached."""
    content = record.model_dump(mode="json")
    content["stages"] = [(stage["stage"], stage["key"]) for stage in content["stages"]]
    content["metrics"] = {
        name: metric
        for name, metric in content["metrics"].items()
        if not name.startswith(("cost_", "latency_", "peak_memory"))
    }
    return content
