"""The machine while something is timed on it: one timing at a time, and how busy others keep it."""

from __future__ import annotations

import fcntl
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import psutil

_BUSY = ("user", "nice", "system", "irq", "softirq", "steal")


@contextmanager
def device_alone(device: str) -> Iterator[None]:
    """Hold the device against every other timing on this machine; waits asleep until it is free.

    The kernel gives the lock back when the process ends, however it ends.
    """
    path = Path(tempfile.gettempdir()) / f"pqbench-timing-{device.replace(':', '-')}.lock"
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except PermissionError:  # another user's file: reading it is enough to lock it
        file = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


class OtherWork:
    """What share of the machine's CPU time other processes take, from construction on."""

    def __init__(self) -> None:
        self._start = perf_counter(), _busy_seconds(), _own_seconds()

    def share(self) -> float:
        """0 (the machine is ours) to 1. Clocks tick a hundred times a second, so look at spans well above that."""
        start, busy, own = self._start
        available = (perf_counter() - start) * (os.cpu_count() or 1)
        others = (_busy_seconds() - busy) - (_own_seconds() - own)
        return min(1.0, max(0.0, others / available))


def load_average() -> float:
    """Processes that were running or waiting to, averaged over the last minute."""
    return os.getloadavg()[0]


def processor() -> str:
    """The CPU's name as its maker spells it, with the number of CPUs that this machine has of it."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{os.cpu_count()} x {names[0] if names else name}"


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    return sum(float(getattr(times, kind, 0.0)) for kind in _BUSY)


def _own_seconds() -> float:
    times = psutil.Process().cpu_times()
    return float(times.user + times.system)
