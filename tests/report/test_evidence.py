"""Kept comparisons decide the table's order and its bold figures; without them intervals do."""

from __future__ import annotations

import pytest
from report_runs import full_precision, make_manifest, make_metrics, make_record

from pqbench.report.pages.comparison_tables import order_sections
from pqbench.report.tables.results import results_table
from pqbench.report.tables.table import Section
from pqbench.results.comparisons import Comparison, Verdict
from pqbench.results.records import Record


def compared(
    a: Record, b: Record, verdict: Verdict, metric: str = "fd", between_seeds: Verdict | None = None
) -> Comparison:
    sides = {
        name: {
            "label": r.label,
            "precision": r.precision,
            "steps": r.steps,
            "seeds": (r.seed,),
            "cells": (r.cell,),
            "value": r.metrics[metric].value,
        }
        for name, r in (("a", a), ("b", b))
    }
    difference = a.metrics[metric].value - b.metrics[metric].value
    finding = {"test": "the test", "over": "images", "difference": difference, "low": -9, "high": 9, "verdict": verdict}
    facts = {"metric": metric, "direction": "lower", "unit": "", "n": 1024}
    findings = [finding]
    if between_seeds is not None:
        findings.append({**finding, "test": "the seeds' test", "over": "seeds", "verdict": between_seeds})
    return Comparison.model_validate({**facts, **sides, "findings": findings})


@pytest.fixture
def rows() -> list[Record]:
    return [
        full_precision(),
        *(make_record(n, metrics=make_metrics(fd, 9, 1, 9)) for n, fd in (("rtn", 20.0), ("ptq4dm", 20.5), ("x", 60))),
    ]


def section_of(rows: list[Record], *comparisons: Comparison) -> Section:
    (section,) = results_table(rows, make_manifest(), comparisons).sections
    return section


def best(section: Section) -> list[object]:
    column = [each.key for each in section.columns].index("fd")
    return [row[0].value for row in section.rows if row[column].is_best]


def test_a_test_tells_apart_what_intervals_cannot(rows: list[Record]) -> None:
    _, rtn, ptq4dm, x = rows
    assert best(section_of(rows)) == []
    section = section_of(rows, compared(ptq4dm, rtn, "worse"), compared(rtn, x, "better"))
    assert best(section) == ["rtn"]
    caption = " ".join(section.caption)
    assert "fp w32a32 < rtn w4a4 < ptq4dm w4a4 < x w4a4" in caption
    assert "by the test of their images, or, where their images were not compared, by intervals" in caption
    assert "(the test)" in caption


def test_a_test_without_evidence_outweighs_intervals_that_do_not_overlap(rows: list[Record]) -> None:
    _, rtn, ptq4dm, x = rows
    section = section_of(rows, compared(rtn, ptq4dm, "better"), compared(rtn, x, "no evidence"))
    assert best(section) == []
    section = section_of(rows, compared(ptq4dm, x, "no evidence"))
    assert "ptq4dm w4a4 ≈ x w4a4" in " ".join(section.caption)


def test_where_seeds_were_compared_both_tests_must_call_a_row_better(rows: list[Record]) -> None:
    _, rtn, ptq4dm, x = rows

    def section(images: Verdict, seeds: Verdict) -> Section:
        return section_of(
            rows, compared(rtn, ptq4dm, images, between_seeds=seeds), compared(rtn, x, "better", between_seeds="better")
        )

    agreed = section("better", "better")
    assert best(agreed) == ["rtn"]
    caption = " ".join(agreed.caption)
    assert "rtn w4a4 < ptq4dm w4a4" in caption
    assert "by the test of their images and, from three common seeds on, by that between seeds" in caption
    assert "The test between seeds (the seeds' test) holds it" in caption
    assert "the test of their images and that between seeds say better than each other one" in caption
    for images, seeds in (("better", "no evidence"), ("no evidence", "better"), ("better", "worse")):
        doubtful = section(images, seeds)  # type: ignore[arg-type]
        assert best(doubtful) == []
        assert "rtn w4a4 ≈ ptq4dm w4a4" in " ".join(doubtful.caption)


def test_comparisons_of_other_cells_say_nothing(rows: list[Record]) -> None:
    stale = compared(rows[1], rows[2], "better")
    renewed = [*rows[:2], rows[2].model_copy(update={"cell": "another"}), rows[3]]
    assert section_of(renewed, stale) == section_of(renewed)


def test_rows_stand_in_their_order_by_the_comparison_with_most_seeds(rows: list[Record]) -> None:
    _, rtn, ptq4dm, x = rows
    pairs = [compared(x, rtn, "worse"), compared(ptq4dm, rtn, "no evidence"), compared(ptq4dm, x, "better")]
    order, matrix = order_sections(pairs, "FD")
    assert [row[1].text for row in order.rows] == ["rtn w4a4", "ptq4dm w4a4", "x w4a4"]
    assert [[cell.text for cell in row[2:]] for row in matrix.rows] == [["", "≈", "+"], ["≈", "", "+"], ["−", "−", ""]]
    assert [row[4].text for row in order.rows] == ["–", "no evidence", "worse"]
