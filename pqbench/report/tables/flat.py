"""One flat row for each cell, at full precision: what programs and spreadsheets read."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable

from pqbench.results.names import LATENCY, latency_place
from pqbench.results.records import Metric, Record
from pqbench.results.rows import quality_names, quality_protocol

INTEGERS = ("stored_bytes", "peak_memory_bytes", "cost_peak_memory_bytes")

FlatValue = str | int | float | None

COLUMNS = (
    "method",
    "label",
    "precision",
    "workload",
    "steps",
    "seed",
    "budget",
    "status",
    "reason",
    "fd",
    "fd_low",
    "fd_high",
    "kid",
    "kid_low",
    "kid_high",
    "psnr_to_fp",
    "latency_ms_per_image",
    "latency_engine",
    "latency_ms_per_step",
    "stored_bytes",
    "peak_memory_bytes",
    "avg_weight_bits",
    "avg_act_bits",
    "act_parameter_sets",
    "cost_seconds",
    "cost_peak_memory_bytes",
    "protocol",
    "n",
    "cell",
    "latency_batch",
    "latency_noisy",
)
"""Names of the columns, in order. Columns are only ever added, at the end."""


def columns_of(records: Iterable[Record]) -> tuple[str, ...]:
    """`COLUMNS`, then value and interval of every other metric of images that some record has."""
    others = (name for name in quality_names(records) if name not in COLUMNS)
    return (*COLUMNS, *(column for name in others for column in (name, f"{name}_low", f"{name}_high")))


def flat_rows(records: Iterable[Record]) -> list[dict[str, FlatValue]]:
    """One row for each record, with the keys of `columns_of`; None where nothing was measured."""
    records = list(records)
    columns = columns_of(records)
    return [_flat_row(record, columns) for record in records]


def cells_csv(records: Iterable[Record]) -> str:
    """`flat_rows` as CSV with a header; nothing measured is an empty field."""
    records = list(records)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns_of(records), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat_rows(records))
    return text.getvalue()


def fastest_latency(record: Record) -> tuple[str, Metric] | None:
    """The batch-1 latency of the fastest engine that really ran the cell: (engine, ms per image)."""
    found = {n: m for n, m in record.metrics.items() if n.startswith(LATENCY) and latency_place(n)[1] == 1}
    if not found:
        return None
    name = min(found, key=lambda each: found[each].value)
    return latency_place(name)[0], found[name]


def _flat_row(record: Record, columns: tuple[str, ...]) -> dict[str, FlatValue]:
    row: dict[str, FlatValue] = dict.fromkeys(columns)
    row |= {name: getattr(record, name) for name in COLUMNS if name in Record.model_fields}
    row |= {name: record.metrics[name].value for name in columns if name in record.metrics}
    row |= {name: int(record.metrics[name].value) for name in INTEGERS if name in record.metrics}
    row |= _intervals(record, columns) | _latency(record) | _audit(record)
    row["protocol"] = quality_protocol(record)
    row["n"] = record.metrics["fd"].n if "fd" in record.metrics else None
    return row


def _intervals(record: Record, columns: tuple[str, ...]) -> dict[str, FlatValue]:
    named = {name: metric for name, metric in record.metrics.items() if f"{name}_low" in columns}
    lows = {f"{name}_low": metric.low for name, metric in named.items()}
    return {**lows, **{f"{name}_high": metric.high for name, metric in named.items()}}


def _latency(record: Record) -> dict[str, FlatValue]:
    fastest = fastest_latency(record)
    if fastest is None:
        return {}
    engine, per_image = fastest
    per_step = record.metrics.get(f"latency_ms_per_step@{engine}/1")
    return {
        "latency_engine": engine,
        "latency_ms_per_image": per_image.value,
        "latency_batch": 1,
        "latency_noisy": bool(per_image.detail.get("noisy")),
        "latency_ms_per_step": None if per_step is None else per_step.value,
    }


def _audit(record: Record) -> dict[str, FlatValue]:
    if record.audit is None:
        return {}
    return {
        "avg_weight_bits": record.audit.average_weight_bits,
        "avg_act_bits": record.audit.average_activation_bits,
        "act_parameter_sets": record.audit.activation_parameter_sets,
    }
