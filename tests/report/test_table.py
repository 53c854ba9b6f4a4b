"""The results table: what stands in it, what is averaged, what is kept apart."""

from __future__ import annotations

import json

import pytest
from report_runs import (
    FACTS,
    OTHER_PROTOCOL,
    PROTOCOL,
    TIMING,
    cell,
    full_precision,
    make_audit,
    make_manifest,
    make_metrics,
    make_record,
    metric,
    only,
    typical_records,
)

from pqbench.report.tables.flat import flat_rows
from pqbench.report.tables.results import results_table
from pqbench.report.tables.table import DASH, TableCell
from pqbench.results.records import Record


def test_full_precision_comes_first_then_the_order_the_user_gave(records: list[Record]) -> None:
    assert [row[0].value for row in only(records).rows] == ["fp", "rtn", "ptq4dm", "pqcad", "pqcad[w=2,a=2]"]


def test_numbers_of_a_row(records: list[Record]) -> None:
    section = only(records)
    assert cell(section, "pqcad", "fd").text == "31.9 [30.6, 33.2]"
    assert cell(section, "pqcad", "precision").text == "4/4"
    assert cell(section, "pqcad", "stored_bytes").value == pytest.approx(0.58)
    assert cell(section, "pqcad", "size_ratio").value == pytest.approx(4.45 / 0.58)
    assert cell(section, "pqcad", "speed_up@openvino/1").value == pytest.approx(24.0 / 7.1)
    assert cell(section, "pqcad", "avg_weight_bits").text == "4.31"


def test_speed_up_is_against_full_precision_on_the_same_engine(records: list[Record]) -> None:
    keys = [column.key for column in only(records).columns]
    assert "speed_up@openvino/1" in keys
    assert "latency_ms_per_image@torch/1" in keys
    assert "speed_up@torch/1" not in keys


def with_bf16(row: Record, latencies: dict[int, float], machine: str = "", noisy: bool = False) -> Record:
    """The row with latencies on openvino-bf16 by batch, under a protocol that says on which machine."""
    detail = {"protocol": {"machine": machine, "engine": "openvino-bf16"} if machine else {}, "noisy": noisy}
    measured = {
        f"latency_ms_per_image@openvino-bf16/{batch}": metric(value, 0.2, protocol="bf16").model_copy(
            update={"detail": detail}
        )
        for batch, value in latencies.items()
    }
    return row.model_copy(update={"metrics": row.metrics | measured})


def test_speed_up_stands_beside_that_over_the_strongest_full_precision_line() -> None:
    # Openvino has 24 ms at batch 1 and 16.8 at batch 16: bf16 is faster at batch 1 alone.
    fp, rtn = with_bf16(full_precision(), {1: 12.0, 16: 20.0}), typical_records()[0]
    section = only([fp, rtn])
    keys = [column.key for column in section.columns]
    assert cell(section, "rtn", "speed_up@openvino/1").value == pytest.approx(24.0 / 14.1)
    strongest = cell(section, "rtn", "vs_strongest_fp@openvino/1")
    assert strongest.value == pytest.approx(12.0 / 14.1)
    assert strongest.low == pytest.approx(11.8 / (14.1 + 14.1 / 50))
    assert cell(section, "fp", "vs_strongest_fp@openvino/1").value == pytest.approx(0.5)
    assert "vs_strongest_fp@openvino/16" not in keys
    assert not [key for key in keys if "bf16" in key and not key.startswith("latency")]
    assert cell(section, "rtn", "latency_ms_per_image@openvino-bf16/1").text == DASH
    (said,) = (line for line in section.caption if line.startswith("Strongest full-precision line"))
    assert "openvino-bf16 at batch 1 (12 ms/image), openvino at batch 16 (16.8 ms/image), of openvino, torch" in said


def test_the_only_full_precision_line_is_called_so_and_gets_no_second_column() -> None:
    fp = make_record("fp", precision="w32a32", metrics=make_metrics(13.2, 24.0, 4.45, None), components={})
    section = only([fp, typical_records()[0]])
    assert not [column.key for column in section.columns if column.key.startswith("vs_strongest")]
    (said,) = (line for line in section.caption if line.startswith("Strongest full-precision line"))
    assert said.endswith("openvino at batch 1 (24 ms/image), openvino at batch 16 (16.8 ms/image), the only one.")


def test_a_full_precision_line_of_another_machine_is_not_beside_a_latency() -> None:
    section = only([with_bf16(full_precision(), {1: 12.0}, machine="a faster one"), typical_records()[0]])
    assert "vs_strongest_fp@openvino/1" not in [column.key for column in section.columns]


def test_a_ratio_to_a_noisy_strongest_line_is_marked() -> None:
    section = only([with_bf16(full_precision(), {1: 12.0}, noisy=True), typical_records()[0]])
    assert cell(section, "rtn", "vs_strongest_fp@openvino/1").notes
    assert not cell(section, "rtn", "speed_up@openvino/1").notes


def test_what_was_not_measured_is_a_dash(records: list[Record]) -> None:
    section = only(records)
    assert cell(section, "rtn", "latency_ms_per_image@torch/1") == TableCell(DASH)
    assert cell(section, "fp", "psnr_to_fp") == TableCell(DASH)


def test_simulated_only_method_has_no_latency_at_all() -> None:
    simulated = make_record("rtn", metrics=make_metrics(50.0, None, 0.6, 12.0))
    section = only([full_precision(), simulated])
    latencies = [c.key for c in section.columns if c.key.startswith(("latency", "speed_up"))]
    assert latencies
    assert {cell(section, "rtn", key).text for key in latencies} == {DASH}


def test_failed_row_says_so_and_why(records: list[Record]) -> None:
    section = only(records)
    assert cell(section, "pqcad[w=2,a=2]", "fd").text == "failed"
    (note,) = cell(section, "pqcad[w=2,a=2]", "method").notes
    assert section.footnotes[note - 1] == "pqcad[w=2,a=2] failed: the loss is NaN at block 3"


def test_run_in_which_all_cells_failed_still_has_its_table() -> None:
    section = only([make_record("rtn", status="failed", reason="no luck")])
    assert section.footnotes == ("rtn failed: no luck",)


def test_exempt_layers_and_deviations_are_footnotes(records: list[Record]) -> None:
    section = only(records)
    notes = {section.footnotes[i - 1] for i in cell(section, "ptq4dm", "method").notes}
    assert "Not at the stated bits: conv_in, conv_out at w8a8." in notes
    assert "Weights in full precision: time_embedding.linear_1, time_embedding.linear_2." in notes
    assert "ptq4dm differs from its paper: The bits of the first and the last layer are 8, not 4." in notes
    assert len(set(section.footnotes)) == len(section.footnotes)


def test_long_lists_of_layers_are_whole() -> None:
    audit = make_audit(5, 5).model_copy(update={"full_precision_layers": tuple(f"l{i}" for i in range(70))})
    section = only([make_record("rtn", metrics=make_metrics(50, 9, 1, 9), audit=audit)])
    assert f"Weights in full precision: {', '.join(f'l{i}' for i in range(70))}." in section.footnotes


def test_a_latency_says_in_what_arithmetic_and_whether_on_a_busy_machine() -> None:
    latency = metric(9.0, protocol=TIMING)
    quiet = latency.model_copy(update={"detail": {"layer_precisions": {"u8": 63, "f32": 2}, "noisy": False}})
    busy = latency.model_copy(
        update={
            "detail": {
                "layer_precisions": {"u8": 63, "f32": 2},
                "noisy": True,
                "other_work": 0.52,
                "p95": 12.0,
                "thirds": [10.0, 12.0, 11.0],
            }
        }
    )
    metrics = make_metrics(50, None, 1, 9)
    metrics |= {"latency_ms_per_image@openvino/1": quiet, "latency_ms_per_image@openvino/16": busy}
    record = make_record("rtn", metrics=metrics)
    notes = only([record]).footnotes
    assert "Arithmetic of openvino, read back from what ran: layers 2 in f32, 63 in u8." in notes
    (noisy,) = cell(only([record]), "rtn", "latency_ms_per_image@openvino/16").notes
    assert "other work took 52 %" in notes[noisy - 1]
    assert "thirds of the runs differ by 20 %" in notes[noisy - 1]
    assert not cell(only([record]), "rtn", "latency_ms_per_image@openvino/1").notes
    assert (flat_rows([record])[0]["latency_batch"], flat_rows([record])[0]["latency_noisy"]) == (1, False)


def test_processes_that_disagree_are_said_and_how_many_there_were() -> None:
    processes = [{"value": 9.0, "thirds": [9.0, 9.0, 9.9]}, {"value": 9.0, "thirds": []}, {"value": 12.6, "thirds": []}]
    detail = {"layer_precisions": {"u8": 63}, "noisy": True, "other_work": 0.01, "p95": 12.6, "processes": processes}
    latency = metric(9.0, protocol=TIMING).model_copy(update={"detail": detail})
    name = "latency_ms_per_image@openvino/1"
    section = only([make_record("rtn", metrics=make_metrics(50, None, 1, 9) | {name: latency})])
    (noisy,) = cell(section, "rtn", name).notes
    assert "its 3 processes differ by 40 %" in section.footnotes[noisy - 1]
    assert "thirds of the runs differ by 10 %" in section.footnotes[noisy - 1]
    assert any("median over 3 processes" in line for line in section.caption)
    assert not any("processes" in line for line in only([full_precision()]).caption)


def test_layers_that_fell_back_and_a_failed_parity_are_footnotes() -> None:
    detail = {"layer_precisions": {"u8": 3, "f32": 2}, "weights_held": {"i8": 3, "f32": 1}, "fell_back": ["mid", "out"]}
    latency = metric(9.0, protocol=TIMING).model_copy(update={"detail": detail})
    metrics = make_metrics(50, None, 1, 9) | {"latency_ms_per_image@openvino/1": latency}
    failed = "No latency on openvino, which does not agree with the simulation: a step is 50 % from full precision."
    notes = only([make_record("rtn", metrics=metrics), make_record("b", notes=(failed,))]).footnotes
    assert (
        "Arithmetic of openvino, read back from what ran: layers 2 in f32, 3 in u8; weights held: 1 in f32, 3 in i8."
        in notes
    )
    assert "Quantized in the checkpoint, but in floating point on openvino: mid, out." in notes
    assert failed in notes


def test_what_reads_the_same_does_not_stand_out() -> None:
    rows = [make_record(name, metrics=make_metrics(50, 9, size, 9)) for name, size in (("a", 1.4041), ("b", 1.4049))]
    sizes = [cell(only(rows), name, "stored_bytes") for name in ("a", "b")]
    assert sizes[0].text == sizes[1].text
    assert not any(size.is_best for size in sizes)


def test_two_protocols_never_share_a_column() -> None:
    other = make_record("ptq4dm", metrics=make_metrics(80.0, 14.0, 0.6, 13.0, protocol=OTHER_PROTOCOL))
    records = [*typical_records()[:2], other]
    sections = results_table(records, make_manifest()).sections
    assert [[row[0].value for row in section.rows] for section in sections] == [["fp", "rtn"], ["ptq4dm"]]
    for section, ours, others in zip(sections, (PROTOCOL, OTHER_PROTOCOL), (OTHER_PROTOCOL, PROTOCOL), strict=True):
        assert ours in section.title
        assert others not in section.title + " ".join(section.caption)


def test_two_protocols_of_timing_get_columns_of_their_own() -> None:
    slow, fast = (make_record(name, metrics=make_metrics(50.0, 9.0, 0.6, 13.0)) for name in ("rtn", "ptq4dm"))
    name = "latency_ms_per_image@openvino/1"
    fast = fast.model_copy(update={"metrics": fast.metrics | {name: metric(3.0, protocol="t2")}})
    section = only([slow, fast])
    assert cell(section, "rtn", f"{name}#t2").text == DASH
    assert cell(section, "ptq4dm", f"{name}#t2").value == 3.0


def test_caption_names_protocol_count_budget_seeds_and_extractor(records: list[Record]) -> None:
    first = only(records).caption[0]
    for fact in (PROTOCOL, "n = 1024", "budget quick", "seeds 0", "fashion-classifier (sha256 ab12ab12ab12…)"):
        assert fact in first


def test_what_average_bits_leave_out_is_said_where_they_are_shown(records: list[Record]) -> None:
    said = "Scales and zero-points (of channels, groups of weights, inputs, time steps)"
    assert said in " ".join(only(records).caption)
    assert said not in " ".join(only([typical_records()[3].model_copy(update={"audit": None})]).caption)


def test_distance_has_the_name_its_protocol_gives_it_and_else_the_workload(records: list[Record]) -> None:
    named = make_manifest(protocols={PROTOCOL: {**FACTS, "distance": "FID"}})
    older = make_manifest(workload={"name": "cifar10", "distance": "FID"}, protocols={})
    for manifest in (named, older):
        assert "FID" in [column.title for column in only(records, manifest).columns]
    text = json.dumps([column.title for column in only(records).columns])
    assert "FD" in text
    assert "FID" not in text


def test_order_by_distance_tells_evidence_from_none() -> None:
    rows = [(20.0, "rtn"), (20.5, "ptq4dm"), (60.0, "pqcad")]
    caption = " ".join(only([make_record(n, metrics=make_metrics(fd, 9, 1, 9)) for fd, n in rows]).caption)
    assert "rtn w4a4 ≈ ptq4dm w4a4 < pqcad w4a4" in caption


@pytest.mark.parametrize(
    ("notes", "marks"), [((), ""), ((4,), "4"), ((1, 2), "1,2"), ((1, 2, 3, 5), "1-3,5"), ((1, 3, 4, 5, 6), "1,3-6")]
)
def test_marks_of_footnotes_are_short(notes: tuple[int, ...], marks: str) -> None:
    assert TableCell("x", notes=notes).marks == marks
