"""Runs as a whole: what is done, what is done again, and what a failing cell leaves behind."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from bench_plugins import TRACE_ROWS
from bench_runs import Bench, comparable
from safetensors.torch import load_file

from pqbench.base.errors import UserError
from pqbench.results.records import Record
from pqbench.run.execution.trace import MOST_ROWS
from pqbench.scoring.formulas.frechet import FeatureStatistics, frechet_distance
from pqbench.testing.tiny import TinyWorkload


def ran(record: Record) -> list[str]:
    return [stage.stage for stage in record.stages if not stage.cached]


def own_images(bench: Bench, record: Record) -> torch.Tensor:
    """The cell's own images: its record's first `sample` stage, the second is that of full precision."""
    key = next(stage.key for stage in record.stages if stage.stage == "sample")
    return load_file(bench.cache.folder(key) / "images.safetensors")["images"]


def test_a_run_measures_what_it_kept(bench: Bench) -> None:
    records = bench.run("cheap,cheap[distiller=copy]")
    assert list(records) == ["fp/0", "cheap/0", "cheap[distiller=copy]/0"]
    assert {record.status for record in records.values()} == {"ok"}
    assert [record.steps for record in records.values()] == [4, 4, 2]
    workload = TinyWorkload()
    for record in records.values():
        features = workload.extractor().net(own_images(bench, record))
        statistics = FeatureStatistics(features.shape[1])
        statistics.add(features)
        reference = workload.reference()
        expected = frechet_distance(statistics.mean, statistics.covariance, reference.mean, reference.covariance)
        assert record.metrics["fd"].value == pytest.approx(expected, rel=1e-6)
        assert (bench.folder.path / record.samples).is_file()
        assert record.audit is not None
    assert "psnr_to_fp" not in records["fp/0"].metrics
    fp, cheap = own_images(bench, records["fp/0"]).double(), own_images(bench, records["cheap/0"]).double()
    psnr = (10 * torch.log10(255**2 / (fp - cheap).square().mean((1, 2, 3)))).mean()
    assert records["cheap/0"].metrics["psnr_to_fp"].value == pytest.approx(float(psnr), rel=1e-6)
    packed = records["cheap/0"].metrics["stored_bytes"].value
    assert packed < records["fp/0"].metrics["stored_bytes"].value / 2
    assert bench.folder.current_records() == list(records.values())


def test_the_same_command_again_does_nothing(bench: Bench) -> None:
    first = bench.run("cheap")
    kept = bench.folder.records_path.read_bytes(), bench.folder.manifest().created
    assert bench.run("cheap") == first
    assert [line.split(": ")[1] for line in bench.lines] == ["ok, already recorded"] * 2
    assert (bench.folder.records_path.read_bytes(), bench.folder.manifest().created) == kept


def test_another_method_runs_alone(bench: Bench) -> None:
    first = bench.run("cheap")
    both = bench.run("cheap[a=8],cheap")
    assert [both["fp/0"], both["cheap/0"]] == [first["fp/0"], first["cheap/0"]]
    # Its calibration set is the other's, since bits do not change it, and full precision's images are there.
    assert ran(both["cheap[a=8]/0"]) == ["quantize", "sample", "features", "score"]
    assert [record.label for record in bench.folder.current_records()] == ["fp", "cheap", "cheap[a=8]"]


def test_another_seed_keeps_the_images_of_the_first(bench: Bench) -> None:
    one = bench.run("cheap")
    two = bench.run("cheap", seeds=(0, 1))
    assert list(two) == ["fp/0", "fp/1", "cheap/0", "cheap/1"]
    assert ran(two["cheap/0"]) == ["score"]  # the protocol names the seeds
    assert torch.equal(own_images(bench, one["cheap/0"]), own_images(bench, two["cheap/0"]))
    assert not torch.equal(own_images(bench, two["fp/0"]), own_images(bench, two["fp/1"]))


def test_a_label_that_is_replaced_leaves_the_table_and_the_others_stay(bench: Bench) -> None:
    bench.run("cheap,cheap[a=8]")
    bench.run("cheap", images=8)
    current = {(record.label, record.metrics["fd"].n) for record in bench.folder.current_records()}
    assert current == {("fp", 8), ("cheap", 8), ("cheap[a=8]", 16)}


def test_a_folder_holds_one_workload(bench: Bench) -> None:
    bench.run("fp")
    with pytest.raises(UserError, match="results of the workload tiny, not of windowed"):
        bench.run("fp", workload="windowed")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("raises", r"^quantize raised RuntimeError: the sum of 2 \| 2 is 5$"),
        ("exits", "^quantize raised SystemExit: bye$"),
        ("reads", "^quantize raised FileNotFoundError.*nonexistent"),
        ("memory", "^quantize ran out of memory: "),
        ("torch-memory", "^quantize ran out of memory: "),
        ("nan", r"^sample: failing\[how=nan\] made NaN or infinite values in image 0: "),
    ],
)
def test_a_failing_method_has_a_row_and_the_others_finish(bench: Bench, how: str, reason: str) -> None:
    records = bench.run(f"failing[how={how}],cheap")
    assert [record.status for record in records.values()] == ["ok", "failed", "ok"]
    failed = records[f"failing[how={how}]/0"]
    assert re.search(reason, failed.reason)
    assert "\n" not in failed.reason
    (log,) = (bench.folder.path / "logs").iterdir()
    assert "Traceback" in log.read_text()
    assert failed.notes == (f"traceback in logs/{log.name}",)
    assert bench.folder.current_records() == list(records.values())
    assert any("FAILED" in line for line in bench.lines)
    done, total = re.findall(r"^\[(\d+)/(\d+)\]", bench.lines[-1])[0]
    assert done == total


def test_a_failed_cell_runs_again_only_when_asked(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = bench.run("failing[how=memory]")
    assert bench.run("failing[how=memory]") == first
    assert "failed, already recorded" in bench.lines[-1]
    plan = bench.plan("failing[how=memory]")
    quantizer = type(plan.cells[1].model.component)
    sound = bench.registry.get("quantizer", "round")

    monkeypatch.setattr(quantizer, "quantize", lambda self, *given: sound().quantize(*given))
    again = bench.run("failing[how=memory]", mode="retry")
    assert again["fp/0"] == first["fp/0"]
    assert again["failing[how=memory]/0"].status == "ok"


def test_a_stage_that_failed_is_not_tried_again_by_the_next_cell(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[None] = []

    def fail(*_: object) -> None:
        attempts.append(None)
        raise RuntimeError("no noise today")

    monkeypatch.setattr(bench.registry.get("calibration", "noise"), "sample", fail)
    records = bench.run("cheap,cheap[a=8]")
    assert [record.reason for record in records.values()][1:] == ["calibrate raised RuntimeError: no noise today"] * 2
    assert len(attempts) == 1


def test_outside_its_window_full_precision_fails_and_no_method_runs(bench: Bench) -> None:
    records = bench.run("cheap", workload="windowed", seeds=(0, 1))
    assert [record.status for record in records.values()] == ["failed"] + ["skipped"] * 3
    assert "outside its acceptance window from 5.00 to 6.00" in records["fp/0"].reason
    assert records["fp/0"].metrics["fd"].value < 5
    assert records["cheap/1"].reason.startswith("not run because the full-precision model failed: ")
    assert bench.run("cheap", workload="windowed", seeds=(0, 1)) == records


def test_a_damaged_workload_is_found_before_anything_is_written(bench: Bench) -> None:
    with pytest.raises(UserError, match=r"damaged\.safetensors is truncated"):
        bench.run("cheap", workload="damaged")
    assert not bench.folder.path.exists()


def test_force_does_every_stage_once_more(bench: Bench) -> None:
    first = bench.run("cheap,cheap[a=8]")
    again = bench.run("cheap,cheap[a=8]", mode="force")
    made = [stage.key for record in again.values() for stage in record.stages if not stage.cached]
    assert sorted(made) == sorted({stage.key for cell in bench.plan("cheap,cheap[a=8]").cells for stage in cell})
    assert [comparable(record) for record in again.values()] == [comparable(record) for record in first.values()]


def test_read_only_writes_nothing(bench: Bench) -> None:
    bench.run("cheap")
    before = {path: path.read_bytes() for path in sorted(bench.root.rglob("*")) if path.is_file()}
    records = bench.run("cheap,cheap[a=8]", mode="read-only")
    assert [record.status for record in records.values()] == ["ok", "ok", "skipped"]
    assert before == {path: path.read_bytes() for path in sorted(bench.root.rglob("*")) if path.is_file()}


def test_a_lost_picture_is_made_again_from_the_cache(bench: Bench) -> None:
    first = bench.run("cheap")
    picture = bench.folder.path / first["cheap/0"].samples
    content = picture.read_bytes()
    picture.unlink()
    assert ran(bench.run("cheap")["cheap/0"]) == []
    assert picture.read_bytes() == content


def test_seconds_of_a_cached_stage_are_those_that_it_took(bench: Bench) -> None:
    first = bench.run("cheap[slow=0.2]")["cheap[slow=0.2]/0"]
    bench.folder.records_path.unlink()
    again = bench.run("cheap[slow=0.2]")["cheap[slow=0.2]/0"]
    assert ran(again) == []
    assert [stage.seconds for stage in again.stages] == [stage.seconds for stage in first.stages]
    assert next(stage.seconds for stage in again.stages if stage.stage == "quantize") >= 0.2
    assert again.metrics["cost_seconds"] == first.metrics["cost_seconds"]


def truncated(content: bytes) -> bytes:
    return content[:-7]


def changed(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("stage", "damage"),
    [
        ("export", truncated),
        ("calibrate", truncated),
        ("quantize", changed),
        ("sample", changed),
        ("features", truncated),
        ("score", changed),
    ],
)
def test_a_damaged_output_is_made_again(bench: Bench, stage: str, damage: Callable[[bytes], bytes]) -> None:
    first = bench.run("cheap")
    key = next(run.key for run in first["cheap/0"].stages if run.stage == stage)
    victim = max(
        (p for p in bench.cache.folder(key).iterdir() if p.name != "contents.json"), key=lambda p: p.stat().st_size
    )
    content = victim.read_bytes()
    victim.write_bytes(damage(content))
    bench.folder.records_path.unlink()
    again = bench.run("cheap")
    assert any(f"damaged ({victim.name} is missing, truncated or changed) and is made again" in x for x in bench.lines)
    made = [run.stage for record in again.values() for run in record.stages if not run.cached]
    assert made == [stage]
    assert [comparable(record) for record in again.values()] == [comparable(record) for record in first.values()]
    if victim.suffix == ".safetensors":
        assert victim.read_bytes() == content


def test_long_traces_are_thinned_and_keep_their_events(bench: Bench) -> None:
    record = bench.run("cheap")["cheap/0"]
    rows = record.trace["quantize"]
    assert len(rows) == MOST_ROWS
    assert [row["event"] for row in rows if row["event"]] == ["begin", "halfway", "end"]
    assert [row["iteration"] for row in rows] == sorted(row["iteration"] for row in rows)
    assert rows[-1]["iteration"] == TRACE_ROWS - 1
    assert len(record.model_dump_json()) < 200_000


def test_full_precision_bits_change_no_image(bench: Bench) -> None:
    records = bench.run("cheap[w=32,a=32]")
    same = (own_images(bench, record) for record in records.values())
    assert torch.equal(*same)
    assert records["cheap[w=32,a=32]/0"].metrics["fd"] == records["fp/0"].metrics["fd"]


def test_everything_written_is_strict_json(bench: Bench) -> None:
    bench.run("cheap[w=32,a=32],failing")
    for path in bench.root.rglob("*.json*"):
        for line in path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]:
            json.loads(line, parse_constant=pytest.fail)


def test_components_cannot_be_told_apart_by_what_ran_before_them(bench: Bench, tmp_path: Path) -> None:
    """One that draws global random numbers gives the same result after any history of the process."""
    first = bench.run("cheap[quantizer=careless]")["cheap[quantizer=careless]/0"]
    torch.rand(17)
    other = Bench(tmp_path / "other", bench.registry)
    again = other.run("cheap[a=8],cheap[quantizer=careless]")["cheap[quantizer=careless]/0"]
    assert comparable(first) == comparable(again)
