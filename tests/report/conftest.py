"""A run folder with the records of `report_runs`."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_runs import make_manifest, typical_records

from pqbench.results.records import Manifest, Record
from pqbench.results.store import RunFolder


@pytest.fixture
def records() -> list[Record]:
    return typical_records()


@pytest.fixture
def manifest() -> Manifest:
    return make_manifest()


@pytest.fixture
def run(tmp_path: Path, records: list[Record]) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.write_manifest(make_manifest(cells=tuple(record.cell for record in records)))
    for each in records:
        folder.append(each)
    return folder
