"""The machine while something is timed on it: one timing at a time, and how busy others keep it."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import psutil

from pqbench.base.cpu import cpu_facts, instruction_set, instruction_words

BUSY_SHARE = 0.1
"""Other processes that take more of the machine than this make a timing noisy."""
BUSY_CORES = 0.5
"""So do those that take more than this of one core: of many cores, a busy one is a small share, and may be ours."""
_WATCH = 1.0
"""Seconds over which the machine is watched; clocks tick a hundred times a second."""
_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")


@contextmanager
def device_alone(device: str) -> Iterator[None]:
    """Hold the device against every other timing on this machine; waits asleep until it is free.

    The kernel gives the lock back when the process ends, however it ends.
    """
    path = _lock_folder() / f"pqbench-timing-{lock_name(device)}.lock"
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # another user's file: reading it is enough to lock it
        file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def lock_name(device: str) -> str:
    """One name for one device: `cuda` is `cuda:0`."""
    return ("cuda:0" if device == "cuda" else device).replace(":", "-")


def _lock_folder() -> Path:
    """The same for every user and job: clusters give each job a temporary folder of its own."""
    shared = Path("/tmp")
    return shared if os.access(shared, os.W_OK) else Path(tempfile.gettempdir())


class OtherWork:
    """What share of the machine's CPU time other processes take, from construction on."""

    def __init__(self) -> None:
        self._start = perf_counter(), _busy_seconds(), _own_seconds()

    def share(self) -> float:
        """0 (the machine is ours) to 1. Clocks tick a hundred times a second, so look at spans well above that."""
        return min(1.0, self.cores() / (os.cpu_count() or 1))

    def cores(self) -> float:
        """The same in cores: 1 for a process that never sleeps."""
        start, busy, own = self._start
        others = (_busy_seconds() - busy) - (_own_seconds() - own)
        return max(0.0, others / (perf_counter() - start))


def is_busy(share: float, cores: float) -> bool:
    """Whether other processes took so much that a timing is noisy."""
    return share > BUSY_SHARE or cores > BUSY_CORES


def wait_until_quiet(
    limit: float,
    *,
    watch: Callable[[], OtherWork] = OtherWork,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = perf_counter,
) -> float:
    """Sleep until others leave the machine alone for a second, at most about `limit` seconds; returns those waited."""
    start = clock()
    while True:
        others = watch()
        sleep(_WATCH)
        waited = clock() - start
        if waited >= limit or not is_busy(others.share(), others.cores()):
            return waited


def load_average() -> float:
    """Processes that were running or waiting to, averaged over the last minute."""
    return os.getloadavg()[0]


def processor(device: str = "cpu") -> str:
    """What a device computes on, for people: `2 x AMD EPYC (avx512, vnni, bf16)`.

    The CPU's name as its maker spells it, the number of CPUs and their instruction set; for a CUDA device also the
    card's name with its driver.
    """
    instructions = instruction_words(instruction_set())
    kind = f" ({instructions})" if instructions else ""
    return f"{os.cpu_count()} x {cpu_facts()['model']}{kind}{_card(device)}"


def _card(device: str) -> str:
    if device == "cpu":
        return ""
    from pqbench.base.devices import driver, graphics_card

    card, version = graphics_card(device), driver()
    return f", {card}{f' (driver {version})' if version else ''}" if card else ""


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return sum(float(getattr(times, kind, 0.0)) for kind in _BUSY)


def _own_seconds() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)
