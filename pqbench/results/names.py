"""How the names of measurements on engines begin, and how those of latencies are read."""

from __future__ import annotations

LATENCY = "latency_ms_per_image@"
ENERGY = "energy_joules_per_image@"
PARITY = "parity@"
IMAGE_PARITY = "parity_fd@"


def latency_place(metric: str) -> tuple[str, int]:
    """Engine and batch of a latency's name: `latency_ms_per_image@openvino/8` -> ("openvino", 8)."""
    engine, _, batch = metric.partition("@")[2].rpartition("/")
    return engine, int(batch)


def latency_heading(metric: str) -> str:
    """What stands above the columns of a latency: `openvino, batch 8`."""
    engine, batch = latency_place(metric)
    return f"{engine}, batch {batch}"
