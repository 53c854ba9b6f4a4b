"""Energy from a powercap tree and from NVML, both made for the test."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pqbench.run import environment
from pqbench.timing import gpu
from pqbench.timing.energy import EnergyMeter, energy_counters

RANGE = 262_143_328_850
"""Microjoules: the range of a server's counter."""


def zone(folder: Path, name: str, energy: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return folder


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages with their parts, and what would count them twice."""
    (tmp_path / "intel-rapl").mkdir()
    for package in (0, 1):
        top = zone(tmp_path / f"intel-rapl:{package}", f"package-{package}", 1_000_000 * (package + 1))
        zone(top / f"intel-rapl:{package}:0", "core", 7)
        zone(top / f"intel-rapl:{package}:1", "dram", 500_000)
    zone(tmp_path / "intel-rapl:2", "psys", 9_000_000)
    zone(tmp_path / "intel-rapl-mmio:0", "package-0", 1_000_000)
    return tmp_path


def add(folder: Path, microjoules: int) -> None:
    path = folder / "energy_uj"
    path.write_text(f"{(int(path.read_text()) + microjoules) % RANGE}\n")


def measured(meter: EnergyMeter, work: Any) -> float | None:
    with meter:
        time.sleep(0.11)
        work()
    return meter.joules


def test_packages_and_their_memory_are_added_up(powercap: Path) -> None:
    counters, missing = energy_counters("cpu", powercap)
    assert missing == ""
    assert [counter.name for counter in counters] == [
        "package-0", "dram of package-0", "package-1", "dram of package-1"
    ]  # fmt: skip

    def work() -> None:
        add(powercap / "intel-rapl:0", 30_000_000)
        add(powercap / "intel-rapl:0" / "intel-rapl:0:0", 20_000_000)  # a part of the package
        add(powercap / "intel-rapl:1" / "intel-rapl:1:1", 2_500_000)
        add(powercap / "intel-rapl:2", 40_000_000)

    assert measured(EnergyMeter(counters), work) == pytest.approx(32.5)


def test_a_counter_that_starts_again_is_followed(powercap: Path) -> None:
    package = powercap / "intel-rapl:0"
    (package / "energy_uj").write_text(f"{RANGE - 4_000_000}\n")
    joules = measured(EnergyMeter(energy_counters("cpu", powercap)[0]), lambda: add(package, 10_000_000))
    assert joules == pytest.approx(10.0)


def test_amd_is_listed_as_intel_is(tmp_path: Path) -> None:
    zone(tmp_path / "intel-rapl:0", "package-0", 1)
    zone(tmp_path / "amd-rapl:0", "package-0", 1)
    assert len(energy_counters("cpu", tmp_path)[0]) == 2


def test_too_short_a_span_and_no_counter_give_nothing(powercap: Path) -> None:
    with EnergyMeter(energy_counters("cpu", powercap)[0]) as meter:
        pass
    assert meter.joules is None
    assert measured(EnergyMeter(()), lambda: None) is None


def test_why_there_is_none_is_said(powercap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counters, missing = energy_counters("cpu", tmp_path / "nothing")
    assert counters == ()
    assert "virtual machines hide it" in missing

    def refuse(self: Path, *args: Any, **kwargs: Any) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        with self.open() as file:
            return file.read()

    monkeypatch.setattr(Path, "read_text", refuse)  # root reads what others may not
    counters, missing = energy_counters("cpu", powercap)
    assert counters == ()
    assert "sudo chmod a+r" in missing
    assert environment.energy_facts(powercap)["cpu"] == {"counters": [], "missing": missing}


class FakeNvml(SimpleNamespace):
    """As much of pynvml as is used, under its names; energy in millijoules."""

    def __init__(self) -> None:
        pids = (os.getpid(), os.getppid(), 1, 2**30)
        super().__init__(
            energy=5_000,
            open=0,
            asked=[],
            nvmlInit=lambda: self._count(1),
            nvmlShutdown=lambda: self._count(-1),
            nvmlDeviceGetHandleByUUID=lambda uuid: self.asked.append(uuid) or "handle",
            nvmlDeviceGetName=lambda handle: b"NVIDIA H100",
            nvmlDeviceGetTotalEnergyConsumption=lambda handle: self.energy,
            nvmlDeviceGetComputeRunningProcesses=lambda handle: [SimpleNamespace(pid=pid) for pid in pids],
        )

    def _count(self, step: int) -> None:
        self.open += step


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNvml]:
    monkeypatch.setattr("os.getppid", lambda: 2**29)  # in a container, process 1 may have started this one
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(gpu, "device_uuid", lambda device: "GPU-1234")
    yield fake
    assert fake.open == 0


def test_a_card_s_energy_comes_from_nvml(nvml: FakeNvml) -> None:
    counters, missing = energy_counters("cuda:1")
    assert [counter.name for counter in counters] == ["GPU NVIDIA H100"]
    assert missing == ""
    assert measured(EnergyMeter(counters), lambda: setattr(nvml, "energy", 8_250)) == pytest.approx(3.25)
    assert set(nvml.asked) == {b"GPU-1234"}


def test_other_processes_on_a_card_are_named(nvml: FakeNvml) -> None:
    import psutil

    assert gpu.other_processes("cuda") == (f"{psutil.Process(1).name()} (pid 1)", f"pid {2**30}")


def test_without_nvml_a_card_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # type: ignore[arg-type]
    assert energy_counters("cuda") == ((), "NVML needs the package nvidia-ml-py: pip install nvidia-ml-py")
    assert gpu.other_processes("cuda") == ()
