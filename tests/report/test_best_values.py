"""Which values of a table stand out: the best of a column, where there is evidence for it."""

from __future__ import annotations

from report_runs import (
    TIMING,
    cell,
    full_precision,
    make_metrics,
    make_record,
    metric,
    only,
    typical_records,
)

from pqbench.report.tables.table import Section
from pqbench.results.records import Record


def best_methods(section: Section, column: str) -> list[object]:
    return [row[0].value for row in section.rows if cell(section, str(row[0].value), column).is_best]


def test_best_is_marked_where_intervals_do_not_overlap(records: list[Record]) -> None:
    section = only(records)
    assert best_methods(section, "fd") == ["pqcad"]
    assert best_methods(section, "psnr_to_fp") == ["pqcad"]
    assert best_methods(section, "latency_ms_per_image@openvino/1") == ["pqcad"]
    assert best_methods(section, "stored_bytes") == ["pqcad"]


def test_nothing_is_marked_without_evidence() -> None:
    close = [make_record(n, metrics=make_metrics(fd, 9.0, 0.6, 9.0)) for fd, n in ((20.0, "rtn"), (20.5, "ptq4dm"))]
    section = only([full_precision(), *close])
    for column in section.columns:
        if column.direction != "none":
            assert best_methods(section, column.key) == [], column.key


def test_measured_values_without_intervals_are_never_marked() -> None:
    pair = [make_record(n, metrics={"fd": metric(fd)}) for fd, n in ((20.0, "rtn"), (80.0, "ptq4dm"))]
    assert best_methods(only(pair), "fd") == []


def test_a_single_method_is_not_the_best_of_anything() -> None:
    section = only([full_precision(), typical_records()[0]])
    assert not any(each.is_best for row in section.rows for each in row)


def timed(method: str, latency: float, noisy: bool) -> Record:
    figure = metric(latency, 0.1, protocol=TIMING)
    detail = {"noisy": noisy, "other_work": 0.45, "p95": 2 * latency}
    metrics = {"latency_ms_per_image@openvino/1": figure.model_copy(update={"detail": detail})}
    return make_record(method, metrics=metrics)


def test_noisy_latencies_and_their_ratios_are_marked_and_never_best() -> None:
    keys = ("latency_ms_per_image@openvino/1", "speed_up@openvino/1")
    noisy = only([full_precision(), timed("rtn", 5.0, noisy=True), timed("ptq4dm", 9.0, noisy=False)])
    quiet = only([full_precision(), timed("rtn", 5.0, noisy=False), timed("ptq4dm", 9.0, noisy=False)])
    for key in keys:
        assert cell(noisy, "rtn", key).notes
        assert not cell(noisy, "ptq4dm", key).notes
        assert best_methods(noisy, key) == []
        assert best_methods(quiet, key) == ["rtn"]


def test_a_ratio_to_a_noisy_reference_is_marked() -> None:
    reference = full_precision()
    name = "latency_ms_per_image@openvino/1"
    busy = reference.metrics[name].model_copy(update={"detail": {"noisy": True}})
    reference = reference.model_copy(update={"metrics": reference.metrics | {name: busy}})
    section = only([reference, timed("rtn", 5.0, noisy=False)])
    assert cell(section, "rtn", "speed_up@openvino/1").notes
    assert not cell(section, "rtn", name).notes


def test_images_without_difference_are_called_identical() -> None:
    same = make_record("rtn", metrics={"psnr_to_fp": metric(100.0, direction="higher")})
    assert cell(only([same]), "rtn", "psnr_to_fp").text == "identical"
