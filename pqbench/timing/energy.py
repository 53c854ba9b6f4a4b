"""Energy from the machine's own counters: RAPL for the processor and its memory, NVML for a graphics card.

What a counter says is what is reported: all of the package or card, with whatever else ran on it, and with nothing
subtracted for idling. So it belongs to a device that is held alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import Protocol, Self

from pqbench.timing import gpu

POWERCAP = Path("/sys/class/powercap")
_PACKAGE = re.compile(r"(intel|amd)-rapl:\d+")
"""Top-level zones; `intel-rapl-mmio:0` is the same package over another bus."""
_SHORTEST = 0.1
"""Seconds below which a counter that moves a thousand times a second says too little."""


class Counter(Protocol):
    """One counter of energy.

    name   what it counts: `package-0`, `dram of package-0`, `GPU NVIDIA H100`
    span   joules after which it starts again at 0
    """

    @property
    def name(self) -> str:
        """What it counts."""
        ...

    @property
    def span(self) -> float:
        """Joules after which it starts again."""
        ...

    def read(self) -> float:
        """Joules since the counter last started at 0."""
        ...


@dataclass(frozen=True)
class RaplCounter:
    """One zone of the kernel's powercap tree, in which AMD's processors are listed as Intel's are."""

    folder: Path
    name: str
    span: float

    def read(self) -> float:
        """Joules."""
        return _microjoules(self.folder / "energy_uj")


class EnergyMeter:
    """A context manager around work that is measured; `joules` afterwards, None where there is no counter."""

    def __init__(self, counters: Sequence[Counter]) -> None:
        self.counters = tuple(counters)
        self.joules: float | None = None
        self._start = 0.0
        self._before: list[float] = []

    def __enter__(self) -> Self:
        self._before = [counter.read() for counter in self.counters]
        self._start = perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.counters or perf_counter() - self._start < _SHORTEST:
            return
        after = [counter.read() for counter in self.counters]
        used = zip(self.counters, self._before, after, strict=True)
        self.joules = sum(_used(counter, start, end) for counter, start, end in used)


def energy_counters(device: str, powercap: Path = POWERCAP) -> tuple[tuple[Counter, ...], str]:
    """The counters of a device (`cpu`, `cuda`, `cuda:1`), or none and the sentence that says why."""
    if device.partition(":")[0] == "cuda":
        counter, missing = gpu.energy_counter(device)
        return ((counter,) if counter is not None else ()), missing
    return _rapl(powercap)


def _rapl(powercap: Path) -> tuple[tuple[Counter, ...], str]:
    """Packages with their memory; cores are a part of a package, and `psys` holds packages."""
    zones = sorted(powercap.iterdir()) if powercap.is_dir() else []
    found: list[Counter] = []
    for zone in zones:
        name = _text(zone / "name")
        if not _PACKAGE.fullmatch(zone.name) or not name.startswith("package"):
            continue
        parts = [(zone, name), *((part, f"dram of {name}") for part in _parts(zone) if _text(part / "name") == "dram")]
        for folder, title in parts:
            try:
                _microjoules(folder / "energy_uj")
                span = _microjoules(folder / "max_energy_range_uj")
            except PermissionError as error:
                return (), (
                    f"{error.filename} cannot be read by this user (root alone may, since the PLATYPUS attack): "
                    f"sudo chmod a+r {folder}/energy_uj"
                )
            except (OSError, ValueError) as error:
                return (), f"{folder}/energy_uj cannot be read ({error})"
            found.append(RaplCounter(folder, title, span))
    return tuple(found), "" if found else f"no RAPL counter of a package in {powercap} (virtual machines hide it)"


def _parts(zone: Path) -> list[Path]:
    return sorted(path for path in zone.iterdir() if path.name.startswith(f"{zone.name}:"))


def _used(counter: Counter, start: float, end: float) -> float:
    """Joules between two readings; a counter that has started again in between lies below its first reading."""
    return end - start if end >= start else end - start + counter.span


def _microjoules(path: Path) -> float:
    return int(path.read_text()) * 1e-6


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
