"""The table for programs (CSV, JSON) and on a terminal."""

from __future__ import annotations

import csv
import io
import json
import math

import pytest
from report_runs import (
    PROTOCOL,
    make_record,
    metric,
)
from rich.console import Console

from pqbench.report.renderers.json_document import json_document
from pqbench.report.renderers.terminal import TerminalTable
from pqbench.report.tables.flat import COLUMNS, cells_csv
from pqbench.report.tables.results import results_table
from pqbench.results.records import Manifest, Record


def test_flat_csv_has_a_row_a_cell_at_full_precision(records: list[Record]) -> None:
    rows = list(csv.DictReader(io.StringIO(cells_csv(records))))
    assert len(rows) == len(records)
    asked = (
        "method,precision,workload,steps,seed,status,fd,fd_low,fd_high,kid,latency_ms_per_image,latency_engine,"
        "stored_bytes,peak_memory_bytes,avg_weight_bits,avg_act_bits,protocol,n"
    )
    assert set(asked.split(",")) <= set(COLUMNS) == set(rows[0])
    (pqcad,) = (row for row in rows if row["label"] == "pqcad")
    source = records[3].metrics
    assert float(pqcad["fd"]) == source["fd"].value
    assert float(pqcad["fd_low"]) == source["fd"].low
    assert (pqcad["protocol"], pqcad["n"], pqcad["seed"]) == (PROTOCOL, "1024", "0")
    (failed,) = (row for row in rows if row["status"] == "failed")
    assert (failed["fd"], failed["latency_engine"], failed["reason"]) == ("", "", "the loss is NaN at block 3")


def test_flat_latency_is_batch_one_of_the_fastest_engine() -> None:
    names = {"openvino/1": 9.0, "torch-compile/1": 8.0, "openvino/16": 1.0}
    timed = make_record("fp", metrics={f"latency_ms_per_image@{name}": metric(v) for name, v in names.items()})
    (row,) = csv.DictReader(io.StringIO(cells_csv([timed])))
    assert (row["latency_engine"], row["latency_ms_per_image"]) == ("torch-compile", "8.0")


def test_json_is_strict_and_holds_values_with_intervals(records: list[Record], manifest: Manifest) -> None:
    infinite = make_record("rtn", label="twin", metrics={"psnr_to_fp": metric(math.inf, direction="higher")})
    text = json_document(results_table([*records, infinite], manifest), [*records, infinite], manifest)
    document = json.loads(text, parse_constant=pytest.fail)
    first = document["table"]["sections"][0]
    keys = [column["key"] for column in first["columns"]]
    fp = dict(zip(keys, first["rows"][0], strict=True))
    assert fp["fd"]["low"] == pytest.approx(13.2 * 0.96)
    assert document["cells"][-1]["psnr_to_fp"] == "Infinity"


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_terminal_cuts_no_value_and_keeps_to_the_window(records: list[Record], manifest: Manifest, width: int) -> None:
    table = results_table(records, manifest)
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(TerminalTable(table))
    lines = text.getvalue().splitlines()
    assert all(len(line) <= width for line in lines)
    assert "…" not in text.getvalue().replace("ab12ab12ab12…", "").replace("12…", "")
    for row in table.sections[0].rows:
        for each in row:
            assert each.text in text.getvalue()
