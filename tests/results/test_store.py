"""The run folder: what survives kills, full disks, other versions and other people's folders."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spawned import append_many, record

from pqbench.base.errors import NoSpaceError, UserError
from pqbench.results.records import Manifest, Metric
from pqbench.results.store import MANIFEST, RECORDS, RunFolder

REUSED_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)


def manifest(**fields: object) -> Manifest:
    base: dict[str, object] = {
        "pqbench_version": "0.1.0",
        "command": "pqbench run",
        "created": "2026-01-01T00:00:00Z",
        "workload": {"name": "fashion"},
        "budget": "quick",
        "methods": ("rtn",),
        "seeds": (0,),
        "protocols": {},
        "plugins": (),
        "environment": {},
        "cells": ("c1",),
    }
    return Manifest.model_validate(base | fields)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.write_manifest(manifest())
    return folder


def test_manifest_and_records_come_back_as_they_were(run: RunFolder) -> None:
    first, second = record("c1"), record("c2", status="failed", reason="NaN | \\ & «x»\nsecond line")
    run.append(first)
    run.append(second)
    again = RunFolder.existing(run.path)
    assert again.manifest() == manifest()
    assert again.records() == [first, second]
    assert again.contents().notes == ()


def test_infinite_metrics_survive_as_strict_json(run: RunFolder) -> None:
    infinite = Metric(value=math.inf, unit="dB", direction="higher", n=4, protocol="p")
    run.append(record(metrics={"psnr_to_fp": infinite}))
    json.loads(run.records_path.read_text(), parse_constant=pytest.fail)
    assert run.records()[0].metrics["psnr_to_fp"].value == math.inf


def test_last_record_of_a_cell_wins_and_keeps_the_cells_place(run: RunFolder) -> None:
    for each in (record("c1", status="failed", reason="x"), record("c2"), record("c1", steps=7)):
        run.append(each)
    assert [(r.cell, r.status, r.steps) for r in run.records()] == [("c1", "ok", 7), ("c2", "ok", 20)]


def test_cells_that_the_manifest_no_longer_lists_are_not_current(run: RunFolder) -> None:
    for cell in ("replaced", "c1"):
        run.append(record(cell))
    assert [r.cell for r in run.records()] == ["replaced", "c1"]
    assert [r.cell for r in run.current_records()] == ["c1"]


@REUSED_FOLDER
@given(data=st.data())
def test_killed_at_any_byte_keeps_every_whole_line_and_goes_on(tmp_path: Path, data: st.DataObject) -> None:
    run = RunFolder(tmp_path / "run")
    run.records_path.unlink(missing_ok=True)
    run.write_manifest(manifest())
    texts = data.draw(st.lists(st.text(max_size=20), min_size=1, max_size=4))
    cells = [record(f"c{i}", status="failed", reason=text) for i, text in enumerate(texts)]
    for each in cells:
        run.append(each)
    whole = run.records_path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    run.records_path.write_bytes(whole[:cut])
    survivors = cells[: whole[:cut].count(b"\n")]
    contents = run.contents()
    assert list(contents.records) == survivors
    assert bool(contents.notes) == (cut > 0 and whole[cut - 1 : cut] != b"\n")

    run.append(record("after the kill"))
    assert run.contents().notes == ()
    assert run.records() == [*survivors, record("after the kill")]


def test_cut_line_longer_than_a_block_is_removed(run: RunFolder) -> None:
    run.append(record("c1"))
    with run.records_path.open("ab") as file:
        file.write(b"{" + b"x" * 200_000)
    run.append(record("c2"))
    assert [r.cell for r in run.records()] == ["c1", "c2"]


@pytest.mark.parametrize("damage", [b"{ not json", b"[1, 2]", b"\xff\xfe", b'{"schema_version": 1, "cell": "x"}'])
def test_corrupt_line_in_the_middle_is_named(run: RunFolder, damage: bytes) -> None:
    run.append(record("c1"))
    with run.records_path.open("ab") as file:
        file.write(damage + b"\n")
    run.append(record("c2"))
    with pytest.raises(UserError, match=r"records\.jsonl, line 2"):
        run.records()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema_version": 2}, "newer pqbench.*upgrade"),
        ({"pqbench_version": "99.0"}, r"newer pqbench \(99\.0.*upgrade"),
        ({"schema_version": 0}, "schema 0.*new folder"),
        ({"schema_version": None}, "schema None.*new folder"),
        ({"surprise": 1}, "does not fit the schema.*surprise"),
    ],
)
def test_folders_of_other_versions_are_refused(run: RunFolder, changes: dict[str, object], words: str) -> None:
    fields = json.loads(run.manifest_path.read_text()) | changes
    run.manifest_path.write_text(json.dumps(fields))
    with pytest.raises(UserError, match=words):
        RunFolder(run.path)


def test_same_version_with_trailing_zeros_is_not_newer(run: RunFolder) -> None:
    run.write_manifest(manifest(pqbench_version="0.1.0.0"))
    assert RunFolder(run.path).manifest().pqbench_version == "0.1.0.0"


def test_damaged_manifest_is_named(run: RunFolder) -> None:
    run.manifest_path.write_text(run.manifest_path.read_text()[:40])
    with pytest.raises(UserError, match=r"manifest\.json is not JSON"):
        RunFolder(run.path)


def test_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="not a run"):
        RunFolder(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]


def test_file_in_the_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="is a file"):
        RunFolder(tmp_path / "run")


def test_what_a_kill_leaves_before_the_manifest_does_not_block_the_next_run(tmp_path: Path) -> None:
    (tmp_path / ".manifest.json.abc.partial").write_text("{")
    RunFolder(tmp_path).write_manifest(manifest())
    assert RunFolder.existing(tmp_path).records() == []


def test_report_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        RunFolder.existing(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").touch()
    with pytest.raises(
        UserError, match=r"images holds no run \(no manifest\.json\): give the folder that `pqbench run`"
    ):
        RunFolder.existing(tmp_path / "images")


def test_full_disk_is_said_and_loses_nothing(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    run.append(record("c1"))
    write = os.write

    def half_then_full(file: int, data: bytes) -> int:
        if len(data) < 50:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half_then_full)
        with pytest.raises(UserError, match=r"No space left.*records\.jsonl.*Nothing already computed is lost"):
            run.append(record("c2"))
    assert run.contents().notes == ()
    assert [r.cell for r in run.records()] == ["c1"]
    run.append(record("c2"))
    assert [r.cell for r in run.records()] == ["c1", "c2"]


def test_full_disk_keeps_the_old_manifest(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left"):
            run.write_manifest(manifest(budget="full"))
    assert run.manifest() == manifest()
    assert [item.name for item in run.path.iterdir()] == [MANIFEST]


def test_other_errors_of_the_disk_are_not_hidden(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "write", broken)
    with pytest.raises(UserError, match=r"records\.jsonl cannot be written \(Input/output error\)") as caught:
        run.append(record())
    assert not isinstance(caught.value, NoSpaceError)


def test_processes_append_whole_lines_at_the_same_time(run: RunFolder) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=append_many, args=(run.path, writer)) for writer in range(2)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
    assert sorted(r.cell for r in run.records()) == sorted(f"{w}-{i}" for w in range(2) for i in range(20))
    assert run.records_path.name == RECORDS
