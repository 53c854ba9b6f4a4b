"""Kills, full disks and neighbours: the run that goes on ends with the same records and images, bit for bit."""

from __future__ import annotations

import csv
import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from bench_runs import PAUSE, PLUGINS, Bench, comparable
from processes import HANG_SECONDS, started
from safetensors.torch import load_file, save_file

from pqbench.base.errors import NoSpaceError
from pqbench.contracts.context import silent
from pqbench.report.write import write_report
from pqbench.results.store import RunFolder
from pqbench.run.stages.compress import SCRATCH
from pqbench.run.stages.images import sample
from pqbench.training import resume

ROOT = Path(__file__).parents[2]
METHODS = "cheap,cheap[a=8,slow=0.6],failing"
HEADING_LINES = 3


class Killed(BaseException):
    """Passes every handler of errors, as a kill would."""


def dying_at(write: int) -> Callable[[int], None]:
    """An `os.fsync` that kills at its n-th call: every file and folder that matters is forced to the disk once."""
    left = iter(range(write, -1, -1))
    fsync = os.fsync

    def force(handle: int) -> None:
        if next(left) == 0:
            raise Killed
        fsync(handle)

    return force


def outputs(root: Path) -> dict[str, bytes]:
    """The images and packed models in a cache."""
    names = ("images.safetensors", "model.safetensors", "features.safetensors")
    return {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for path in sorted(root.glob("*/*.safetensors"))
        if path.name in names and not path.parent.name.endswith(".partial")
    }


@pytest.mark.parametrize("methods", ["cheap,failing", "cheap[distiller=learns]"])
@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_write_it_ends_with_the_same_bytes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, stride: int, methods: str
) -> None:
    """The first attempt dies at its first write, the next `stride` writes later, until one gets through."""
    monkeypatch.setattr(resume, "SECONDS_APART", 0.0)  # a state after every iteration of a distillation
    monkeypatch.setattr(resume, "COST_APART", 0.0)
    whole = Bench(bench.root / "whole", bench.registry)
    expected = whole.run(methods, images=130)  # three batches
    finished: set[str] = set()
    for attempt in range(200):
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", dying_at(attempt * stride))
            try:
                records = bench.run(methods, images=130)
            except Killed:
                now = {path.name for path in bench.cache.root.glob("?" * 64)}
                assert finished <= now
                finished = now
                continue
        break
    assert attempt > 4
    assert list(records) == list(expected)
    assert [comparable(r) for r in records.values()] == [comparable(r) for r in expected.values()]
    assert bench.folder.current_records() == list(records.values())
    assert outputs(bench.cache.root) == outputs(whole.cache.root)
    assert not list(bench.cache.root.glob("*/.*"))
    assert not list(bench.cache.root.glob(f"*/{SCRATCH}"))
    for record in expected.values():
        if record.samples:
            strip = Path(record.samples)
            assert (bench.folder.path / strip).read_bytes() == (whole.folder.path / strip).read_bytes()


def test_batches_that_were_finished_are_not_sampled_again(bench: Bench, tmp_path: Path) -> None:
    cell = bench.plan("fp", images=130).cells[0]
    bench.run("fp", images=130)
    inputs = {"model": bench.cache.folder(cell.model.key)}
    expected = load_file(bench.cache.folder(cell.images.key) / "images.safetensors")["images"]
    marked = expected[:64] ^ 255
    save_file({"images": marked}, tmp_path / "images-00000000.safetensors")
    sample(cell.images, tmp_path, inputs, silent)
    images = load_file(tmp_path / "images.safetensors")["images"]
    assert torch.equal(images, torch.cat([marked, expected[64:]]))
    assert [path.name for path in tmp_path.glob("*.safetensors")] == ["images.safetensors"]


def test_every_method_starts_from_the_same_noise_whatever_the_batch(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pqbench.run.stages.images as stage
    from pqbench.diffusion.ddim import ddim_sample
    from pqbench.run import plan as plans

    started: list[torch.Tensor] = []

    def spy(net: Any, schedule: Any, timesteps: Any, noise: torch.Tensor, **options: Any) -> torch.Tensor:
        started.append(noise.clone())
        return ddim_sample(net, schedule, timesteps, noise, **options)

    monkeypatch.setattr(stage, "ddim_sample", spy)
    seen = []
    for batch in (64, 7):
        preset = plans.replace(plans.PRESETS["quick"], sampling_batch=batch)
        monkeypatch.setitem(plans.PRESETS, "quick", preset)
        started.clear()
        bench.run("cheap,cheap[distiller=copy]", images=21)
        noise = torch.cat(started)
        assert len(noise) == 3 * 21
        seen += noise.split(21)
    assert all(torch.equal(each, seen[0]) for each in seen)


@pytest.mark.parametrize("when", [2, 9, 17, 30])
def test_a_full_disk_stops_the_run_with_one_sentence_and_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    calls = iter(range(1000))
    fsync = os.fsync

    def full(handle: int) -> None:
        if next(calls) >= when:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(NoSpaceError, match=r"^No space (is )?left [^\n]*\.$"):
            bench.run("cheap")
    finished = {path.name for path in bench.cache.root.glob("?" * 64)}
    records = bench.run("cheap")
    assert {record.status for record in records.values()} == {"ok"}
    assert {stage.key for r in records.values() for stage in r.stages if not stage.cached}.isdisjoint(finished)


def test_a_full_disk_below_a_component_is_not_the_methods_failure(bench: Bench) -> None:
    with pytest.raises(NoSpaceError, match="No space is left on the disk during quantize: free some"):
        bench.run("failing[how=full],cheap")
    assert [record.label for record in bench.folder.records()] == ["fp"]


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_real_full_disk(bench: Bench, tmp_path: Path) -> None:
    """On each of some small disks the run stops with one sentence; on a larger one it goes on to the end."""
    disk = bench.root / "cache"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=True)
    try:
        for kilobytes in (64, 256, 320, 512):
            subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", disk], check=True)
            with pytest.raises(NoSpaceError, match=r"^No space (is )?left [^\n]*\.$"):
                bench.run("cheap,cheap[a=8]", images=400)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        records = bench.run("cheap,cheap[a=8]", images=400)
        assert {record.status for record in records.values()} == {"ok"}
    finally:
        subprocess.run(["umount", disk], check=True)


@contextmanager
def run_started(folder: Path, paused: bool = False) -> Iterator[subprocess.Popen[str]]:
    """`pqbench run` as a user starts it.

    paused   `cheap[a=8]` stops in the middle of its work, says so on stderr and goes on when stdin ends
    """
    arguments = ["run", "-m", METHODS, "-w", "tiny", "-n", "200", "--engines", "none", "-o", "run"]
    environment = os.environ | {
        "PQBENCH_CACHE": str(folder / "cache"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        PAUSE: "1" if paused else "",
    }
    with started(
        [sys.executable, "-u", "-m", "pqbench", *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        yield process


def killed_while_it_works(folder: Path) -> None:
    """Kill a run in the middle of a stage."""
    with run_started(folder, paused=True) as process:
        assert process.stderr is not None
        next(line for line in process.stderr if line == f"{PAUSE}\n")
        process.kill()
        process.communicate(timeout=HANG_SECONDS)
        assert process.returncode == -signal.SIGKILL


def killed_after(folder: Path, lines: int | None, seconds: float) -> bool:
    """Kill so long after so many lines of progress, or (None) after the last; False when it was too late."""
    with run_started(folder) as process:
        assert process.stderr is not None
        if lines is None:
            next(line for line in process.stderr if re.match(r"\[(\d+)/\1\]", line))
        else:
            for _ in range(HEADING_LINES + lines):
                process.stderr.readline()
        time.sleep(seconds)  # any instant: no event stands for it
        process.kill()
        process.communicate(timeout=HANG_SECONDS)
        return process.returncode == -signal.SIGKILL


def check_killed_run(bench: Bench, folder: Path) -> None:
    """Two at once bring a killed run to the end, which is that of a run never interrupted."""
    left = {path.name for path in (folder / "cache").glob("?" * 64)}
    with run_started(folder) as one, run_started(folder) as other:
        said = [process.communicate(timeout=HANG_SECONDS) for process in (one, other)]
        assert [one.returncode, other.returncode] == [1, 1], said  # one method fails
    made = [line for _, log in said for line in log.splitlines() if re.search(r": \w+  [0-9.]+ s$", line)]
    expected = bench.run(METHODS, images=200)
    write_report(bench.folder)
    stages = {stage.key for record in expected.values() for stage in record.stages}
    assert len(made) == len(stages - left)

    folders = RunFolder.existing(folder / "run"), bench.folder
    records = [[comparable(record) for record in each.current_records()] for each in folders]
    assert records[0] == records[1]
    assert outputs(folder / "cache") == outputs(bench.cache.root)
    for name in ("samples.png", *(record.samples for record in expected.values() if record.samples)):
        assert (folder / "run" / name).read_bytes() == (bench.folder.path / name).read_bytes()
    assert without_cost(folder / "run" / "table.csv") == without_cost(bench.folder.path / "table.csv")


@pytest.fixture
def fresh(tmp_path: Path) -> Path:
    """A folder for a run, with the test's methods."""
    folder = tmp_path / "killed"
    folder.mkdir()
    shutil.copy(PLUGINS, folder / "pqbench_plugins.py")
    return folder


def without_cost(table: Path) -> list[dict[str, str]]:
    with table.open() as file:
        return [{key: value for key, value in row.items() if "cost" not in key} for row in csv.DictReader(file)]


def test_a_run_killed_for_real_goes_on(bench: Bench, fresh: Path) -> None:
    killed_while_it_works(fresh)
    check_killed_run(bench, fresh)


def check_instants(bench: Bench, folder: Path, instants: list[tuple[int | None, float]]) -> None:
    kills = sum(killed_after(folder, *instant) for instant in instants)
    assert kills >= len(instants) / 2
    check_killed_run(bench, folder)


@pytest.mark.slow
def test_a_run_killed_many_times_goes_on(bench: Bench, fresh: Path) -> None:
    check_instants(bench, fresh, [(i % 10, random.random() * 0.7) for i in range(16)])


@pytest.mark.slow
def test_a_run_killed_while_it_writes_its_report_goes_on(bench: Bench, fresh: Path) -> None:
    check_instants(bench, fresh, [(None, random.random()) for _ in range(6)])
