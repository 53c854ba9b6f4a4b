"""What tests do in processes of their own, where those can import it."""

from __future__ import annotations

from multiprocessing.synchronize import Event
from pathlib import Path

from processes import HANG_SECONDS

from pqbench.results.records import Record
from pqbench.results.store import RunFolder
from pqbench.run.cache import StageCache


def record(cell: str = "c1", **fields: object) -> Record:
    base: dict[str, object] = {
        "cell": cell,
        "method": "rtn",
        "label": "rtn",
        "precision": "w4a4",
        "workload": "fashion",
        "steps": 20,
        "seed": 0,
        "budget": "quick",
        "status": "ok",
    }
    return Record.model_validate(base | fields)


def append_many(path: Path, writer: int) -> None:
    """Append twenty long records to a run folder."""
    for i in range(20):
        RunFolder(path).append(record(f"{writer}-{i}", reason="x" * 5000))


def make_slowly(root: Path, begun: Event, may_end: Event, made: Path) -> None:
    """Make the output "k" of a stage cache, and end when told to."""

    def work(folder: Path) -> None:
        begun.set()
        with made.open("a") as file:
            file.write("x")
        may_end.wait(HANG_SECONDS)
        (folder / "a").write_text("whole")

    StageCache(root).produce("k", work)
