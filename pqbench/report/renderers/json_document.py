"""The table and its cells as one JSON document."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from typing import Any

from pqbench.report.tables.flat import flat_rows
from pqbench.report.tables.table import Table
from pqbench.results.comparisons import Comparison
from pqbench.results.records import SCHEMA_VERSION, Manifest, Record


def json_document(
    table: Table, records: Iterable[Record], manifest: Manifest, comparisons: Sequence[Comparison] = ()
) -> str:
    """`{"schema_version", "run", "table", "cells"}`, and "comparisons" where the run keeps any.

    Infinite values are the texts "Infinity" and "-Infinity".
    """
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "run": manifest.model_dump(mode="json"),
        "table": dataclasses.asdict(table),
        "cells": flat_rows(records),
    }
    if comparisons:
        document["comparisons"] = [comparison.model_dump(mode="json") for comparison in comparisons]
    return json.dumps(_strict(document), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _strict(value: Any) -> Any:
    """The value without the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
