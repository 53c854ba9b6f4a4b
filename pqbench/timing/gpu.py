"""What NVML says of a graphics card: its energy, and whose processes are on it. Needs the package nvidia-ml-py."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_MODULE = "pynvml"
_NEVER = float("inf")
"""The counter has 64 bits of millijoules."""


@dataclass(frozen=True)
class NvmlCounter:
    """The total energy of one card, since its driver was loaded."""

    name: str
    uuid: str
    span: float = _NEVER

    def read(self) -> float:
        """Joules."""
        with _library() as nvml:
            return float(nvml.nvmlDeviceGetTotalEnergyConsumption(_handle(nvml, self.uuid))) * 1e-3


def energy_counter(device: str) -> tuple[NvmlCounter | None, str]:
    """The counter of a CUDA device, or None and the sentence that says why."""
    try:
        with _library() as nvml:
            uuid = device_uuid(device)
            handle = _handle(nvml, uuid)
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
            return NvmlCounter(f"GPU {_as_text(nvml.nvmlDeviceGetName(handle))}", uuid), ""
    except ImportError:
        return None, "NVML needs the package nvidia-ml-py: pip install nvidia-ml-py"
    except Exception as error:  # every failure of NVML has its own class, made when the library is loaded
        return None, f"NVML gives no energy of {device} ({error})"


def other_processes(device: str) -> tuple[str, ...]:
    """Processes of others that compute on a CUDA device, `python (pid 7)`; none where NVML cannot be asked."""
    try:
        with _library() as nvml:
            running = nvml.nvmlDeviceGetComputeRunningProcesses(_handle(nvml, device_uuid(device)))
            # The process that started this one sleeps, and may still have its memory there.
            ours = (os.getpid(), os.getppid())
            return tuple(_process(each.pid) for each in running if each.pid not in ours)
    except Exception:  # as above, and no timing fails because a library is not there
        return ()


def device_uuid(device: str) -> str:
    """The card's own name, which `CUDA_VISIBLE_DEVICES` does not change."""
    import torch

    return f"GPU-{torch.cuda.get_device_properties(torch.device(device)).uuid}"


@contextmanager
def _library() -> Iterator[Any]:
    nvml = importlib.import_module(_MODULE)
    nvml.nvmlInit()
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def _handle(nvml: Any, uuid: str) -> Any:
    return nvml.nvmlDeviceGetHandleByUUID(uuid.encode())


def _process(pid: int) -> str:
    import psutil

    try:
        return f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:  # of another container, or gone
        return f"pid {pid}"


def _as_text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name
