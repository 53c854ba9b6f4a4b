"""Peak memory of a piece of work: resident memory of this process, or what torch allocated on a GPU."""

from __future__ import annotations

import ctypes
import gc
import resource
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")

Window = Literal["run", "process"]


@dataclass(frozen=True)
class Peak:
    """bytes, and whether they are the peak of the work alone or, where no peak can be reset, of the whole process."""

    bytes: int
    window: Window


class PeakMemory:
    """Watches the peak from construction on; garbage is returned to the system first."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            return
        _return_free_memory()
        self._is_reset = _reset_high_water_mark()

    def read(self) -> Peak:
        """The peak so far."""
        if self._device.type == "cuda":
            return Peak(torch.cuda.max_memory_allocated(self._device), "run")
        return Peak(_high_water_mark(), "run") if self._is_reset else Peak(process_peak(), "process")


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(psutil.Process().memory_info().rss)


def process_peak() -> int:
    """Highest resident memory of this process since it started, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _return_free_memory() -> None:
    """Ask glibc to give back what was freed while the model was loaded and compiled."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # absent from other C libraries
        if trim is not None:
            trim(0)


def _reset_high_water_mark() -> bool:
    """Start the kernel's peak anew from what is resident now, where it can (Linux, own process)."""
    try:
        _CLEAR.write_text("5")
        _high_water_mark()
    except (OSError, StopIteration):
        return False
    return True


def _high_water_mark() -> int:
    lines = _STATUS.read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
