"""The machine and the packages that results depend on, for `pqbench env` and for manifests."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from pqbench.base.cpu import cpu_facts
from pqbench.base.packages import installed_version, package_versions


def environment() -> dict[str, Any]:
    """All facts, as plain data: packages, python, platform, cpu, memory_bytes, threads, gpus, energy, notes.

    `notes` are sentences about what is amiss and what pqbench does about it. Imports torch.
    """
    return {
        "packages": package_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_facts(),
        "memory_bytes": _memory_bytes(),
        "threads": _threads(),
        "gpus": _gpus(),
        "energy": energy_facts(),
        "notes": _notes(),
    }


def energy_facts(powercap: Path | None = None) -> dict[str, dict[str, Any]]:
    """For each kind of device that is there, the energy counters that can be read, and why there are none."""
    from pqbench.timing.energy import POWERCAP, energy_counters

    facts = {}
    for device in ("cpu", "cuda") if _gpus() else ("cpu",):
        counters, missing = energy_counters(device, powercap or POWERCAP)
        facts[device] = {"counters": [counter.name for counter in counters], "missing": missing}
    return facts


def torchvision_note() -> str:
    """What is wrong with the installed torchvision and what pqbench does about it; empty when nothing is."""
    from pqbench.base.torchvision_shim import declare_missing_operators

    if not declare_missing_operators():
        return ""
    return (
        f"torchvision {installed_version('torchvision')} was built for another torch than the installed "
        f"{installed_version('torch')}, so "
        'its compiled operators do not load ("operator torchvision::nms does not exist"). pqbench declares them '
        "without an implementation before it imports torchvision, which is enough for all it uses; to mend the "
        "installation, install the torchvision that belongs to this torch."
    )


def _memory_bytes() -> int:
    import psutil

    return int(psutil.virtual_memory().total)


def _threads() -> dict[str, int]:
    import torch

    return {"torch": torch.get_num_threads(), "torch_interop": torch.get_num_interop_threads()}


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _notes() -> list[str]:
    return [note for note in (torchvision_note(),) if note]
