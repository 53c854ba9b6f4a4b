"""The processor: its model, its cores and the instruction sets that decide which kernels run."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

CPUINFO: Final = Path("/proc/cpuinfo")
CAPS: Final = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
"""Environment variables that keep torch and oneDNN from using all instructions that the CPU has."""
_INSTRUCTIONS = re.compile(r"^(avx|amx|asimd|sve)|vnni|bf16|i8mm")
"""Flags of instruction sets that decide which kernels an engine chooses."""
_WIDEST = ("avx512f", "avx2", "avx", "sve2", "sve", "asimd")
_SHORT = {"avx512f": "avx512"}
_SUPPLEMENTS = ("vnni", "amx", "bf16", "i8mm")


def cpu_facts(cpuinfo: Path = CPUINFO) -> dict[str, Any]:
    """Model, cores that this process may use, and the instruction set (None where it cannot be read)."""
    entries: dict[str, str] = {}
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            entries.setdefault(key.strip(), value.strip())
    flags = entries.get("flags", entries.get("Features"))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "model": entries.get("model name") or platform.processor() or platform.machine(),
        "cores": cores,
        "flags": None if flags is None else sorted(filter(_INSTRUCTIONS.search, flags.split())),
        "caps": {name: os.environ[name] for name in CAPS if os.environ.get(name)},
    }


def instruction_set(cpuinfo: Path = CPUINFO) -> tuple[str, ...]:
    """The flags and caps that decide which kernels run: `("avx", "avx2", "ONEDNN_MAX_CPU_ISA=AVX2")`."""
    return instructions_of(cpu_facts(cpuinfo))


def instructions_of(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The same from what `cpu_facts` found."""
    return (*(facts["flags"] or ()), *(f"{name}={value}" for name, value in facts["caps"].items()))


def instruction_words(instructions: tuple[str, ...]) -> str:
    """The same in a few words for people: `avx512, vnni, bf16`."""
    widest = next((_SHORT.get(flag, flag) for flag in _WIDEST if flag in instructions), "")
    more = [word for word in _SUPPLEMENTS if any(word in flag for flag in instructions if "=" not in flag)]
    caps = [each for each in instructions if "=" in each]
    return ", ".join(filter(None, [widest, *more, *caps]))
