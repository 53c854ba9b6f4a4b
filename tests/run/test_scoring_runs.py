"""Metrics, protocols and references in whole runs."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bench_runs import Bench
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pqbench.base.errors import UserError
from pqbench.commands.compare import RowComparer, find_row, rows_of
from pqbench.contracts.context import ProgressCallback
from pqbench.report.tables.flat import flat_rows
from pqbench.report.tables.results import results_table
from pqbench.report.write import figures_of
from pqbench.results.records import Record
from pqbench.run.cell import Cell
from pqbench.run.comparisons import compare_run
from pqbench.run.execution.progress import RunProgress
from pqbench.run.stages.images import FEATURES, IMAGES, STATISTICS, kept_outputs
from pqbench.run.stages.stored import write_tensors
from pqbench.scoring.formulas.frechet import frechet_distance
from pqbench.scoring.resolver import ScoringRequest
from pqbench.testing.tiny import TinyWorkload

ALL = ScoringRequest(metrics="all")


def real_images(n: int = 40, size: int = 8, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (n, channels, size, size), generator=generator, dtype=torch.uint8)


@pytest.fixture
def real(tmp_path: Path) -> Path:
    path = tmp_path / "real.safetensors"
    save_file({"images": real_images()}, path)
    return path


def three(real: Path, **changes: Any) -> ScoringRequest:
    return ScoringRequest(**({"metrics": "all", "protocol": "three", "reference": real} | changes))


def key(record: Record, stage: str) -> str:
    return next(run.key for run in record.stages if run.stage == stage)


def test_adding_metrics_keeps_features_and_the_values_of_the_others(bench: Bench) -> None:
    first = bench.run("cheap")["cheap/0"]
    second = bench.run("cheap", scoring=ALL)["cheap/0"]
    assert list(first.metrics)[:3] == ["fd", "kid", "psnr_to_fp"]
    for name in ("fd", "kid", "psnr_to_fp"):
        assert first.metrics[name] == second.metrics[name]
    for stage in ("sample", "features"):
        assert key(first, stage) == key(second, stage)
    assert {run.stage for run in second.stages if not run.cached} == {"score"}
    assert {"fd_to_fp", "precision", "recall"} <= second.metrics.keys()
    assert {"is", "sfid", "ssim_to_fp"}.isdisjoint(second.metrics)
    notes = bench.plan("cheap", scoring=ALL).notes
    assert any("sfid (the extractor tiny has no spatial output)" in note for note in notes)


def test_the_full_precision_model_is_no_pair_of_itself(bench: Bench) -> None:
    records = bench.run("cheap", scoring=ALL)
    assert "fd_to_fp" not in records["fp/0"].metrics
    cheap = records["cheap/0"]
    ours, fp = (
        load_file(bench.cache.folder(key(record, "features")) / FEATURES)["features"].double()
        for record in (cheap, records["fp/0"])
    )
    expected = frechet_distance(ours.mean(0), ours.T.cov(), fp.mean(0), fp.T.cov())
    assert cheap.metrics["fd_to_fp"].value == pytest.approx(expected, rel=1e-9)


def test_every_metric_under_a_protocol_and_a_reference_of_images(bench: Bench, real: Path) -> None:
    record = bench.run("cheap", images=32, scoring=three(real))["cheap/0"]
    assert record.status == "ok", record.reason
    assert {
        "fd",
        "kid",
        "psnr_to_fp",
        "fd_to_fp",
        "sfid",
        "is",
        "precision",
        "recall",
        "fd_infinity",
        "brightness",
    } <= (record.metrics.keys())
    outputs = load_file(bench.cache.folder(key(record, "features")) / FEATURES)
    x = real_images().float() / 255
    theirs = torch.cat([x.mean((2, 3)), x.flatten(1).std(1, keepdim=True)], 1).double()
    own = outputs["features"].double()
    expected = frechet_distance(own.mean(0), own.T.cov(), theirs.mean(0), theirs.T.cov())
    assert record.metrics["fd"].value == pytest.approx(expected, rel=1e-6)
    assert all(math.isfinite(metric.value) for metric in record.metrics.values())
    facts = bench.folder.manifest().protocols[record.metrics["fd"].protocol]
    assert (facts["extractor"], facts["pixels"], facts["reference_n"]) == ("three", "as they are", 40)
    assert facts["distance"] == "FD"
    assert any("No acceptance window is known for this protocol" in note for note in bench.folder.records()[0].notes)


def test_statistics_of_a_reference_are_computed_once_and_can_be_given_themselves(bench: Bench, real: Path) -> None:
    records = bench.run("cheap", scoring=three(real))
    assert [run.cached for r in records.values() for run in r.stages if run.stage == "reference"] == [False, True]
    moved = real.with_name("moved.safetensors")
    shutil.copy(real, moved)
    again = bench.run("cheap", scoring=three(moved))["cheap/0"]
    assert again.metrics["fd"] == records["cheap/0"].metrics["fd"]
    statistics = real.with_name("statistics.safetensors")
    shutil.copy(bench.cache.folder(key(again, "reference")) / STATISTICS, statistics)
    known = bench.run("cheap", scoring=three(statistics))["cheap/0"]
    for name in ("fd", "kid", "sfid", "recall"):
        assert known.metrics[name].value == again.metrics[name].value
    assert known.metrics["fd"].protocol != again.metrics["fd"].protocol


def test_statistics_that_another_torch_or_device_computed_are_not_found(
    bench: Bench, real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def statistics(path: Path) -> str:
        return bench.plan("cheap", scoring=three(path, metrics="fd")).cells[-1].score.inputs["statistics"].key

    given = real.with_name("stats.npz")
    np.savez(given, mu=np.zeros(4), sigma=np.eye(4))
    before, kept = statistics(real), statistics(given)
    with monkeypatch.context() as patch:
        patch.setattr("pqbench.run.graph.torch.__version__", "1.0")
        assert statistics(real) != before
        # Nothing is computed of statistics.
        assert statistics(given) == kept
    with monkeypatch.context() as patch:
        patch.setattr("pqbench.run.graph.device_of", lambda _: torch.device("cuda"))
        assert statistics(real) != before
    assert statistics(real) == before


def test_statistics_alone_leave_out_what_needs_features(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    np.savez(path, mu=np.zeros(4), sigma=np.eye(4))
    record = bench.run("cheap", images=20, scoring=three(path))["cheap/0"]
    assert {"kid", "precision", "recall", "sfid"}.isdisjoint(record.metrics)
    assert "is" in record.metrics
    with pytest.raises(UserError, match="The metric kid cannot be computed here: the reference holds statistics alone"):
        bench.plan("cheap", scoring=three(path, metrics="fd,kid"))
    np.savez(path, mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(UserError, match="statistics of 5 features, and the extractor three has 4"):
        bench.plan("cheap", scoring=three(path))


def test_two_protocols_never_share_a_column(bench: Bench, real: Path) -> None:
    bench.run("cheap")
    bench.run("cheap", images=32, scoring=three(real), seeds=(1,))
    manifest = bench.folder.manifest()
    sections = results_table(bench.folder.records(), manifest).sections
    assert len(sections) == 2
    shown = " ".join(sections[1].caption)
    assert "extractor three" in shown
    assert "Protocol" in shown
    (brightness,) = (column for column in sections[1].columns if column.key == "brightness")
    assert (brightness.heading, brightness.direction) == ("Brightness (levels) ↑", "higher")
    assert "(IS) fixes: images" in shown
    assert "parameters.splits 10" in shown


def test_another_parameter_of_a_metric_is_another_column(bench: Bench) -> None:
    bench.run("cheap", scoring=ScoringRequest(metrics="brightness"))
    bench.run("cheap[w=8,a=8]", scoring=ScoringRequest(metrics="brightness[scale=2]"))
    (section,) = results_table(bench.folder.records(), bench.folder.manifest()).sections
    titles = [column.title for column in section.columns if column.key.startswith("brightness")]
    assert len(titles) == 2
    assert all(title.startswith("Brightness under ") for title in titles)
    assert section.footnotes.count("Brightness is no quality.") == 1
    rows = flat_rows(bench.folder.records())
    assert all(row["brightness"] is not None and row["brightness_low"] is None for row in rows)


def test_a_metric_that_fails_fails_the_cell_with_its_words(bench: Bench) -> None:
    record = bench.run("cheap", scoring=ScoringRequest(metrics="brightness[raises=true]"))["fp/0"]
    assert record.reason == "score raised ValueError: too dark"


def test_features_in_half_precision_take_half_the_bytes_and_another_protocol(bench: Bench) -> None:
    whole = bench.run("cheap")["cheap/0"]
    half = bench.run("cheap", scoring=ScoringRequest(features="float16"))["cheap/0"]
    paths = [bench.cache.folder(key(record, "features")) / FEATURES for record in (whole, half)]
    dtypes = []
    for path in paths:
        with safe_open(path, "pt") as file:
            dtypes.append(file.get_tensor("features").dtype)
    assert dtypes == [torch.float32, torch.float16]
    assert whole.metrics["fd"].protocol != half.metrics["fd"].protocol
    assert half.metrics["fd"].value == pytest.approx(whole.metrics["fd"].value, rel=0.01)


def test_half_features_are_never_held_in_float32(bench: Bench) -> None:
    """Nothing that grows with the number of images is wider than what is kept."""
    scoring = bench.plan("cheap", scoring=ScoringRequest(features="float16")).cells[0].job.scoring
    largest, batches = 0, 40

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            found = func(*args, **(kwargs or {}))
            if isinstance(found, Tensor) and found.dtype == torch.float32:
                largest = max(largest, len(found) if found.dim() else 0)
            return found

    with Watch():
        kept = kept_outputs(scoring, (real_images(8) for _ in range(batches)), 8 * batches)
    assert {name: (values.dtype, len(values)) for name, values in kept.items()} == {"features": (torch.float16, 320)}
    assert 8 <= largest < 320


@pytest.mark.parametrize("metadata", [None, {"extractor": "tiny"}])
def test_tensors_are_written_from_where_they_are(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    tensors = {
        "n": torch.tensor(7),
        "mean": torch.arange(3, dtype=torch.float64),
        "features": torch.arange(15).reshape(5, 3).half(),
        "none": torch.zeros(0, 3),
        "turned": torch.arange(8.0).reshape(4, 2).T,
    }
    write_tensors(tmp_path / "ours.safetensors", tensors, metadata)
    found = load_file(tmp_path / "ours.safetensors")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0)
    with safe_open(tmp_path / "ours.safetensors", "pt") as file:
        assert file.metadata() == metadata


def test_rows_are_compared_by_new_metrics_under_a_given_reference(bench: Bench, real: Path) -> None:
    bench.run("cheap,cheap[w=2,a=2]", images=32, scoring=three(real))
    bench.folder.write_comparisons(compare_run(bench.folder, bench.cache, TinyWorkload(), bench.registry))
    labels = ("cheap", "cheap[w=2,a=2]")
    kept = {each.metric: each for each in bench.folder.comparisons() if (each.a.label, each.b.label) == labels}
    assert {"fd", "kid", "psnr_to_fp", "sfid", "is", "precision", "fd_to_fp", "brightness"} == set(kept)
    assert kept["brightness"].title == "Brightness"
    assert kept["psnr_to_fp"].verdict == "better"
    rows = rows_of(bench.folder)
    a, b = (find_row(rows, name) for name in ("cheap[w=2,a=2]", "cheap"))
    flipped = RowComparer(bench.cache, TinyWorkload(), bench.registry).compare(a, b)
    assert {each.metric: each.verdict for each in flipped}["psnr_to_fp"] == "worse"
    (bench.folder.path / "comparisons.json").unlink()
    again = RowComparer(bench.cache, TinyWorkload(), bench.registry).compare(b, a)
    for each in again:
        assert each == kept[each.metric]


def test_rows_are_compared_by_statistics_from_a_file_that_may_be_gone(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    np.savez(path, mu=np.zeros(8), sigma=np.eye(8))
    bench.run("cheap", scoring=ScoringRequest(metrics="fd", reference=path))
    path.unlink()
    a, b = (find_row(rows_of(bench.folder), name) for name in ("fp", "cheap"))
    (found,) = RowComparer(bench.cache, TinyWorkload(), bench.registry).compare(a, b)
    records = {record.label: record for record in bench.folder.records()}
    assert found.a.value == pytest.approx(records["fp"].metrics["fd"].value)
    assert found.b.value == pytest.approx(records["cheap"].metrics["fd"].value)


def test_rows_are_not_compared_by_a_metric_with_other_parameters(bench: Bench, tmp_path: Path) -> None:
    other = Bench(tmp_path / "other", bench.registry)
    bench.run("cheap", scoring=ScoringRequest(metrics="fd,precision[k=2]"))
    other.run("cheap", scoring=ScoringRequest(metrics="fd,precision[k=4]"))
    shutil.copytree(tmp_path / "other" / "cache", bench.cache.root, dirs_exist_ok=True)
    a, b = (find_row(rows_of(each.folder), "cheap") for each in (bench, other))
    found = RowComparer(bench.cache, TinyWorkload(), bench.registry).compare(a, b)
    assert [each.metric for each in found] == ["fd"]


def test_the_code_of_a_plugins_extractor_decides_the_protocol(bench: Bench, real: Path) -> None:
    protocol = bench.plan("cheap", scoring=three(real)).protocol
    assert protocol.extractor_code == bench.registry.find("extractor", "three").provenance.source_hash
    assert bench.plan("cheap").protocol.extractor_code == ""


def test_another_release_of_a_library_is_another_protocol_and_other_features(
    bench: Bench, real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cell(**request: Any) -> Cell:
        return bench.plan("cheap", **request).cells[-1]

    plain, own = cell(scoring=three(real)), cell()
    monkeypatch.setattr(bench.registry.get("extractor", "three"), "libraries", ("pillow", "timm"), raising=False)
    known = cell(scoring=three(real))
    assert known.job.protocol.libraries == f"pillow {version('pillow')} + timm {version('timm')}"
    assert known.features.key != plain.features.key
    releases = {"pillow": "9", "timm": "1", "diffusers": version("diffusers")}
    monkeypatch.setattr("pqbench.scoring.libraries.installed_version", releases.get)
    other = cell(scoring=three(real))
    assert other.job.protocol.id != known.job.protocol.id
    for stage in (lambda c: c.features, lambda c: c.score, lambda c: c.score.inputs["statistics"]):
        assert len({stage(each).key for each in (plain, known, other)}) == 3
    assert other.images.key == known.images.key == plain.images.key
    # What uses none keeps its keys.
    assert (cell().key, cell().features.key) == (own.key, own.features.key)
    assert "libraries" not in own.job.protocol.facts


def test_what_a_metric_fixes_in_words_is_never_taken_from_another_release(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLIP score says the releases of Pillow and open_clip in these words, and nowhere else."""
    brightness = bench.registry.get("metric", "brightness")
    silent = bench.run("cheap", scoring=ScoringRequest(metrics="fd,brightness"))["cheap/0"]
    records = {}
    for release, scale in ("1", 1.0), ("2", 3.0):
        with monkeypatch.context() as patch:
            patch.setattr(brightness, "fixes", lambda _, release=release: {"libraries": f"pillow {release}"})
            patch.setattr(
                brightness, "_values", lambda _, given, f=scale, old=brightness._values: f * old(brightness(), given)
            )
            records[release] = bench.run("cheap", scoring=ScoringRequest(metrics="fd,brightness"))["cheap/0"]
    first, second = (records[release].metrics["brightness"] for release in "12")
    assert second.value == pytest.approx(3 * first.value)
    assert second.protocol != first.protocol
    assert len({record.cell for record in (silent, *records.values())}) == 3
    assert {run.stage for run in records["2"].stages if not run.cached} == {"score"}
    assert bench.plan("cheap", scoring=ScoringRequest(metrics="fd,brightness")).cells[-1].key == silent.cell


def test_statistics_made_by_another_release_are_used_with_a_note(
    bench: Bench, real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.registry.get("extractor", "three"), "libraries", ("pillow",), raising=False)
    record = bench.run("cheap", scoring=three(real))["cheap/0"]
    statistics = real.with_name("statistics.safetensors")
    shutil.copy(bench.cache.folder(key(record, "reference")) / STATISTICS, statistics)
    assert not any("was made with" in note for note in bench.plan("cheap", scoring=three(statistics)).notes)
    monkeypatch.setattr("pqbench.scoring.libraries.installed_version", lambda _: "99")
    notes = bench.plan("cheap", scoring=three(statistics)).notes
    assert any(f"was made with pillow {version('pillow')}, and images are scored with pillow 99" in n for n in notes)


def test_who_decoded_a_lossy_reference_is_part_of_the_protocol_and_not_of_the_features(
    bench: Bench, tmp_path: Path
) -> None:
    cells = {}
    for kind in ("png", "jpg"):
        folder = tmp_path / kind
        folder.mkdir()
        for i, image in enumerate(real_images(4)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.{kind}")
        cells[kind] = bench.plan("cheap", scoring=three(folder, metrics="fd")).cells[-1]
    assert cells["jpg"].job.protocol.libraries == f"pillow {version('pillow')}"
    assert cells["png"].job.protocol.libraries == ""
    assert cells["jpg"].features.key == cells["png"].features.key


def test_statistics_of_a_workload_are_not_for_an_extractor_that_shares_the_weights(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = TinyWorkload().extractor()
    monkeypatch.setattr(TinyWorkload, "extractor", lambda _: dataclasses.replace(own, sha256="3" * 64))
    with pytest.raises(UserError, match="tiny has no statistics of its real images under three"):
        bench.plan("cheap", scoring=ScoringRequest(protocol="three"))


def test_the_curve_of_the_distance_is_a_figure(bench: Bench) -> None:
    record = bench.run("cheap", images=48, scoring=ScoringRequest(metrics="fd_infinity"))["cheap/0"]
    assert list(record.metrics)[:2] == ["fd", "fd_infinity"]
    assert {"n_bias.png", "n_bias.svg"} <= figures_of(bench.folder).keys()
    (section,) = results_table(bench.folder.records(), bench.folder.manifest()).sections
    assert "FD∞" in [column.title for column in section.columns]


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"protocol": "three"}, r"tiny has no statistics of its real images under three: give --reference PATH"),
        ({"protocol": "thre", "reference": "real"}, "Did you mean three"),
        ({"protocol": "three", "reference": "large"}, r"has images of 16x16 pixels in 3 channels, and tiny has 8x8"),
        ({"protocol": "three", "reference": "grey"}, r"has images of 8x8 pixels in 1 channel, and tiny has 8x8"),
        ({"protocol": "three", "reference": "nowhere"}, "There is no .*nowhere"),
        ({"weights": "real"}, "--weights .* is for the extractor of a protocol"),
        ({"metrics": "fdd"}, "Did you mean fd"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    request_: dict[str, str], message: str, bench: Bench, tmp_path: Path
) -> None:
    save_file({"images": real_images()}, tmp_path / "real.safetensors")
    save_file({"images": real_images(size=16)}, tmp_path / "large.safetensors")
    save_file({"images": real_images(channels=1)}, tmp_path / "grey.safetensors")
    files = {"reference", "weights"} & request_.keys()
    paths = {name: tmp_path / f"{request_[name]}.safetensors" for name in files}
    with pytest.raises(UserError, match=message):
        bench.plan("cheap", scoring=ScoringRequest(**(request_ | paths)))  # type: ignore[arg-type]


def test_only_the_inception_gives_its_distance_the_name_fid(
    bench: Bench, real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TinyWorkload, "distance", "FID")
    assert bench.plan("cheap").protocol.distance == "FID"
    assert bench.plan("cheap", scoring=three(real)).protocol.distance == "FD"


def test_images_are_kept_as_if_they_were_written_whole(bench: Bench) -> None:
    record = bench.run("cheap")["cheap/0"]
    path = bench.cache.folder(key(record, "sample")) / IMAGES
    whole = path.with_name("whole.safetensors")
    save_file(load_file(path), whole)
    assert whole.read_bytes() == path.read_bytes()


def test_a_stage_that_reads_images_says_how_many(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[tuple[str, int, int, str]] = []

    @contextmanager
    def stage(_: RunProgress, title: str, still: bool = False) -> Iterator[ProgressCallback]:
        yield lambda done, total, message: reports.append((title, done, total, message))

    monkeypatch.setattr(RunProgress, "stage", stage)
    bench.run("cheap", images=130, scoring=ScoringRequest(metrics="fd,psnr_to_fp"))
    said = [report[1:] for report in reports if report[0] == "cheap w4a4 seed 0: score"]
    assert said == [(done, 130, "images") for done in (64, 128, 130)]
