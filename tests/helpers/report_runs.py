"""Records as the harness leaves them: full precision, three methods, a failure, several seeds."""

from __future__ import annotations

from typing import Any

from pqbench.report.tables.results import results_table
from pqbench.report.tables.table import Section, TableCell
from pqbench.results.records import Audit, Manifest, Metric, Record

PROTOCOL = "3fa21b70"
OTHER_PROTOCOL = "99e0c0de"
TIMING = "t1meb0x1"
SHA256 = "ab12" * 16

FACTS: dict[str, Any] = {
    "family": "image-quality",
    "workload": "fashion",
    "budget": "quick",
    "n": 1024,
    "seeds": [0],
    "distance": "FD",
    "extractor": "fashion-classifier",
    "extractor_sha256": SHA256,
    "pixels": "uint8, not resized",
}


def metric(value: float, spread: float | None = None, direction: str = "lower", protocol: str = PROTOCOL) -> Metric:
    low, high = (None, None) if spread is None else (value - spread, value + spread)
    return Metric.model_validate(
        {"value": value, "unit": "", "direction": direction, "n": 1024, "protocol": protocol, "low": low, "high": high}
    )


def make_metrics(
    fd: float, latency: float | None, size: float, psnr: float | None, protocol: str = PROTOCOL, eager: bool = False
) -> dict[str, Metric]:
    metrics = {
        "fd": metric(fd, 0.04 * fd, protocol=protocol),
        "kid": metric(fd / 4000, fd / 60000, protocol=protocol),
        "stored_bytes": metric(size * 1e6, protocol="bytes"),
        "peak_memory_bytes": metric(310e6 + fd * 1e5, protocol="memory"),
        "cost_seconds": metric(3 * size + fd, protocol="cost"),
    }
    if psnr is not None:
        metrics["psnr_to_fp"] = metric(psnr, 0.3, "higher", protocol)
    if latency is not None:
        for batch, factor in ((1, 1.0), (16, 0.7)):
            metrics[f"latency_ms_per_image@openvino/{batch}"] = metric(latency * factor, latency / 50, protocol=TIMING)
            metrics[f"latency_ms_per_step@openvino/{batch}"] = metric(latency * factor / 20, protocol=TIMING)
    if eager and latency is not None:
        metrics["latency_ms_per_image@torch/1"] = metric(latency * 1.6, latency / 40, protocol=TIMING)
    return metrics


def make_record(method: str, **fields: Any) -> Record:
    base: dict[str, Any] = {
        "method": method,
        "label": method,
        "precision": "w4a4",
        "workload": "fashion",
        "steps": 20,
        "seed": 0,
        "budget": "quick",
        "status": "ok",
        "components": {"quantizer": {"name": method, "deviations": []}},
    }
    base |= fields
    base["cell"] = f"{base['label']}/{base['precision']}/{base['seed']}/{base['budget']}/{base['steps']}"
    return Record.model_validate(base)


def make_audit(weight: float, activation: float) -> Audit:
    return Audit(
        average_weight_bits=weight,
        average_activation_bits=activation,
        full_precision_layers=("time_embedding.linear_1", "time_embedding.linear_2"),
        wider_layers={"conv_in": "w8a8", "conv_out": "w8a8"},
        activation_parameter_sets=31,
        full_precision_operations=("group normalisation", "SiLU"),
    )


def make_manifest(**fields: Any) -> Manifest:
    base: dict[str, Any] = {
        "pqbench_version": "0.1.0",
        "command": "pqbench run --methods rtn,ptq4dm,pqcad",
        "created": "2026-11-23T00:00:00Z",
        "workload": {"name": "fashion", "distance": "FD"},
        "budget": "quick",
        "methods": ("fp", "rtn", "ptq4dm", "pqcad"),
        "seeds": (0,),
        "protocols": {PROTOCOL: FACTS, TIMING: {"family": "latency", "threads": 2, "warm_up": 3}},
        "plugins": (),
        "environment": {},
        "cells": (),
    }
    return Manifest.model_validate(base | fields)


def full_precision(**fields: Any) -> Record:
    metrics = make_metrics(13.2, 24.0, 4.45, None, eager=True)
    return make_record("fp", precision="w32a32", metrics=metrics, components={}, **fields)


def typical_records() -> list[Record]:
    audit = make_audit(4.31, 4.12)
    trace = {"quantize": make_trace()}
    strong = ["The bits of the first and the last layer are 8, not 4."]
    return [
        make_record("rtn", metrics=make_metrics(212.7, 14.1, 0.61, 9.8), audit=audit),
        full_precision(audit=make_audit(32, 32)),
        make_record(
            "ptq4dm",
            metrics=make_metrics(93.4, 14.2, 0.61, 13.1),
            audit=audit,
            components={"quantizer": {"name": "ptq4dm", "deviations": strong}},
        ),
        make_record("pqcad", steps=10, metrics=make_metrics(31.9, 7.1, 0.58, 16.4), audit=audit, trace=trace),
        make_record(
            "pqcad", label="pqcad[w=2,a=2]", precision="w2a2", status="failed", reason="the loss is NaN at block 3"
        ),
    ]


def make_trace() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for block in ("down.0", "mid", "up.1"):
        momentum = 1.0
        for width in (8, 7, 6, 5, 4):
            for iteration in range(0, 30, 5):
                loss = 0.02 * 2 ** (8 - width) / (1 + iteration / 10)
                momentum = 0.9 * momentum + 0.1 * loss
                event = "transition" if iteration == 25 else ""
                rows.append(
                    {
                        "block": block,
                        "iteration": iteration,
                        "width": width,
                        "loss": loss,
                        "momentum": momentum,
                        "event": event,
                    }
                )
    return rows


def only(records: list[Record], manifest: Manifest | None = None) -> Section:
    """The one section of their table."""
    (section,) = results_table(records, manifest or make_manifest()).sections
    return section


def cell(section: Section, method: str, column: str) -> TableCell:
    """Where the row of a method and a column meet."""
    keys = [each.key for each in section.columns]
    (row,) = (row for row in section.rows if row[0].value == method)
    return row[keys.index(column)]
