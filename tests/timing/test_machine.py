"""A timing knows that its machine was its own: one at a time, and others are noticed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from processes import started

from pqbench.base import devices
from pqbench.results.records import Metric
from pqbench.timing import child as timing_child
from pqbench.timing import machine
from pqbench.timing.machine import OtherWork, device_alone, is_busy, lock_name, wait_until_quiet
from pqbench.timing.metrics import metrics_of
from pqbench.timing.spec import BatchTimes, CallTimes, EnergyUse, TimingResult, TimingSpec

HOLDER = """
import sys, time
from pqbench.timing.machine import device_alone
with device_alone(sys.argv[1]):
    print(time.monotonic(), flush=True)
    time.sleep(0.3)
    print(time.monotonic(), flush=True)
"""


class Fake:
    """Other work, as told."""

    def __init__(self, cores: float) -> None:
        self._cores = cores

    def share(self) -> float:
        return self._cores / 64

    def cores(self) -> float:
        return self._cores


def test_a_busy_core_is_noticed() -> None:
    """On a machine that is busy already, it and the others together are."""
    code = "import time; end = time.monotonic() + 30; print(flush=True)\nwhile time.monotonic() < end: pass"
    with started([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        others = OtherWork()
        time.sleep(1.0)  # what is measured is the clock's
        cores, share = others.cores(), others.share()
    assert cores > 0.5
    assert is_busy(share, cores)


def test_a_core_of_many_counts() -> None:
    assert is_busy(1 / 64, 1.0)
    assert not is_busy(0.3 / 64, 0.3)
    assert is_busy(0.3 / 2, 0.3)


def test_two_timings_never_overlap(tmp_path: Path) -> None:
    """Three processes at once, one of them with a temporary folder of its own, as jobs on a cluster have."""
    device = f"test-{os.getpid()}"
    environments = [os.environ | {"TMPDIR": str(tmp_path)}, dict(os.environ), dict(os.environ)]
    command = [sys.executable, "-c", HOLDER, device]
    with ExitStack() as stack:
        holders = [stack.enter_context(started(command, env=env, stdout=subprocess.PIPE)) for env in environments]
        spans = sorted(tuple(map(float, process.communicate()[0].split())) for process in holders)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    (machine._lock_folder() / f"pqbench-timing-{device}.lock").unlink()


def test_a_waiting_timing_sleeps() -> None:
    """Waiting for the device takes no processor time from the one that has it."""
    device, used, held = f"test-sleep-{os.getpid()}", psutil.Process(), threading.Event()

    def hold() -> None:
        with device_alone(device):
            held.set()
            time.sleep(0.5)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    before = used.cpu_times().user
    with device_alone(device):
        waited = used.cpu_times().user - before
    thread.join()
    assert waited < 0.2
    (machine._lock_folder() / f"pqbench-timing-{device}.lock").unlink()


def test_cuda_is_its_first_card() -> None:
    assert lock_name("cuda") == lock_name("cuda:0") != lock_name("cuda:1")


def test_a_latency_on_a_card_names_the_card_and_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = machine.processor()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.processor("cuda") == cpu
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Card of {device}")
    monkeypatch.setattr(devices, "driver", lambda: "550.54")
    assert machine.processor("cpu") == cpu
    assert machine.processor("cuda") == f"{cpu}, Card of cuda (driver 550.54)"
    monkeypatch.setattr(devices, "driver", lambda: "")
    assert machine.processor("cuda") == f"{cpu}, Card of cuda"


def test_the_drivers_version_is_read_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("550.54.15\n")
    assert devices.driver(tmp_path / "version") == "550.54.15"
    assert devices.driver(tmp_path / "nowhere") == ""


@pytest.mark.parametrize(("cores", "waited"), [([0.0], 1.0), ([2.0, 2.0, 0.1], 3.0), ([2.0] * 99, 5.0)])
def test_it_waits_for_a_quiet_second_but_not_for_ever(cores: list[float], waited: float) -> None:
    now, seen = [0.0], iter(cores)

    def sleep(seconds: float) -> None:
        now[0] += seconds

    assert (
        wait_until_quiet(5.0, watch=lambda: Fake(next(seen)), sleep=sleep, clock=lambda: now[0])  # type: ignore[arg-type,return-value]
        == waited
    )


def times(**fields: Any) -> BatchTimes:
    calls = CallTimes(first=0.02, median=0.01, p95=0.0101, runs=10)
    given = {"batch": 4, "compile_seconds": 1.0, "step": calls, "sampling": calls, "layer_precisions": {}}
    return BatchTimes(**{**given, "other_work": 0.0, **fields})


SPEC = TimingSpec(workload="tiny", checkpoint="x", engine="torch", steps=1, batches=(4,), threads=1)


def figures(measured: BatchTimes, spec: TimingSpec = SPEC) -> dict[str, Metric]:
    return metrics_of(spec, [TimingResult(machine="64 x Test", batches=(measured,))])


def test_a_busy_core_of_many_makes_a_latency_noisy() -> None:
    name = "latency_ms_per_image@torch/4"
    assert not figures(times(other_work=0.005, other_cores=0.3))[name].detail["noisy"]
    assert figures(times(other_work=1 / 64, other_cores=1.0))[name].detail["noisy"]
    named = figures(times(other_processes=("python (pid 7)",)))[name]
    assert named.detail["noisy"]
    assert named.detail["other_processes"] == ["python (pid 7)"]


def test_energy_is_a_metric_where_it_was_measured() -> None:
    name = "energy_joules_per_image@torch/4"
    assert name not in figures(times())
    energy = figures(times(energy=EnergyUse(joules=1.5, runs=10, counters=("package-0",))))[name]
    assert (energy.value, energy.unit, energy.n) == (1.5, "J", 10)
    assert energy.detail["protocol"]["counters"] == ["package-0"]
    others = figures(times(energy=EnergyUse(joules=1.5, runs=10, counters=("package-0", "dram of package-0"))))[name]
    assert others.protocol != energy.protocol  # two counts that no column may hold together
    assert not energy.detail["noisy"]


class FakeBench(timing_child._Bench):
    """Times without a model: the given cores of others, one after the other."""

    def __init__(self, exclusive: float, cores: list[float]) -> None:
        import torch

        self.spec = SPEC.model_copy(update={"exclusive": exclusive})
        self.device = torch.device("cpu")
        self.cores = iter(cores)
        self.timed = 0

    def time(self, batch: int, executable: Any, compile_seconds: float, first: float | None) -> BatchTimes:
        self.timed += 1
        calls = CallTimes(first=first or self.timed, median=0.01, p95=0.0101, runs=10)
        return times(other_cores=next(self.cores), sampling=calls)


@pytest.mark.parametrize(
    ("exclusive", "cores", "timed", "noisy"),
    [(0.0, [2.0], 1, True), (60.0, [2.0, 2.0, 0.0], 3, False), (60.0, [0.0], 1, False), (25.0, [2.0] * 9, 3, True)],
)
def test_a_disturbed_timing_is_made_again_while_there_is_time(
    monkeypatch: pytest.MonkeyPatch, exclusive: float, cores: list[float], timed: int, noisy: bool
) -> None:
    monkeypatch.setattr(timing_child, "wait_until_quiet", lambda limit: min(limit, 10.0))
    bench = FakeBench(exclusive, cores)
    found = bench.time_alone(4, None, 0.0)  # type: ignore[arg-type]
    assert bench.timed == timed
    latency = figures(found)["latency_ms_per_image@torch/4"]
    assert latency.detail["noisy"] is noisy
    assert found.sampling.first == 1  # what is made again is no first call any more
    assert found.waited <= exclusive + 1
