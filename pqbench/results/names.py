"""How the names of latencies are read."""

from __future__ import annotations

LATENCY = "latency_ms_per_image@"


def latency_place(metric: str) -> tuple[str, int]:
    """Engine and batch of a latency's name: `latency_ms_per_image@openvino/8` -> ("openvino", 8)."""
    engine, _, batch = metric.partition("@")[2].rpartition("/")
    return engine, int(batch)


def latency_heading(metric: str) -> str:
    """What stands above the columns of a latency: `openvino, batch 8`."""
    engine, batch = latency_place(metric)
    return f"{engine}, batch {batch}"
