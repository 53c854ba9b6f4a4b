"""Comparisons of a run's rows: kept beside its records, made from the stage cache, refused where nothing fits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from bench_runs import Bench
from safetensors.torch import load_file
from scipy import stats

from pqbench.base.errors import UserError
from pqbench.commands.compare import FoundRow, RowComparer, find_row, rows_of
from pqbench.components import Registry
from pqbench.report.tables.results import results_table
from pqbench.results.records import StageRun
from pqbench.results.store import RunFolder
from pqbench.run.cache import StageCache
from pqbench.run.comparisons import compare_run, require_same_scoring
from pqbench.run.stages.images import IMAGES
from pqbench.scoring.formulas.paired import psnr
from pqbench.testing.tiny import TinyWorkload

METHODS = "cheap,cheap[w=2,a=2]"


def run_and_compare(bench: Bench, methods: str, **request: Any) -> None:
    bench.run(methods, **request)
    bench.folder.write_comparisons(compare_run(bench.folder, bench.cache, TinyWorkload(), bench.registry))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Path:
    """A run of three rows over three seeds."""
    root = tmp_path_factory.mktemp("compared")
    run_and_compare(Bench(root, registry), METHODS, seeds=(0, 1, 2))
    return root


@pytest.fixture
def three(finished: Path, tmp_path: Path, bench: Bench) -> Bench:
    """A copy of it."""
    for name in ("run", "cache"):
        shutil.copytree(finished / name, tmp_path / name)
    return bench


def found(bench: Bench, *names: str, run: RunFolder | None = None) -> list[FoundRow]:
    rows = rows_of(run or bench.folder)
    return [find_row(rows, name) for name in names]


def comparer(bench: Bench) -> RowComparer:
    return RowComparer(bench.cache, TinyWorkload(), bench.registry)


def test_every_pair_of_a_run_is_kept_with_what_the_table_shows(three: Bench) -> None:
    kept = three.folder.comparisons()
    pairs = [(each.a.label, each.b.label, each.metric) for each in kept]
    assert pairs == [
        ("fp", "cheap", "fd"),
        ("fp", "cheap", "kid"),
        ("fp", "cheap[w=2,a=2]", "fd"),
        ("fp", "cheap[w=2,a=2]", "kid"),
        *(("cheap", "cheap[w=2,a=2]", metric) for metric in ("fd", "kid", "psnr_to_fp")),
    ]
    (section,) = results_table(three.folder.records(), three.folder.manifest()).sections
    column = [each.key for each in section.columns].index("fd")
    shown = {row[0].value: row[column].value for row in section.rows}
    for each in kept:
        assert each.a.seeds == each.b.seeds == (0, 1, 2)
        if each.metric == "fd":
            assert (each.a.value, each.b.value) == pytest.approx((shown[each.a.label], shown[each.b.label]))
        assert each.between_seeds is not None
        assert each.findings[0].test.startswith("paired delta method over images, 16 a seed, seeds 0, 1, 2")


def test_psnr_is_compared_by_the_images_in_the_cache(three: Bench) -> None:
    records = {(r.label, r.seed): r for r in three.folder.records()}

    def values(label: str, seed: int) -> list[float]:
        runs = records[label, seed].stages
        own, fp = (load_file(three.cache.folder(key) / IMAGES)["images"] for key in _samples(runs))
        return [float(value) for value in psnr(own, fp)]

    def _samples(runs: tuple[StageRun, ...]) -> tuple[str, str]:
        keys = [run.key for run in runs if run.stage == "sample"]
        return keys[0], keys[-1]

    kept = next(each for each in three.folder.comparisons() if each.metric == "psnr_to_fp")
    variance = 0.0
    for seed in (0, 1, 2):
        gaps = [x - y for x, y in zip(values("cheap", seed), values("cheap[w=2,a=2]", seed), strict=True)]
        variance += float(stats.sem(gaps)) ** 2 / 9
    half = stats.t.ppf(0.975, 45) * variance**0.5
    first = kept.findings[0]
    assert (first.high - first.low) / 2 == pytest.approx(half, rel=1e-6)
    assert first.verdict == "better"


def test_the_same_command_keeps_the_file_and_another_method_adds_to_it(three: Bench) -> None:
    path = three.folder.path / "comparisons.json"
    before = path.read_bytes()
    path.unlink()
    run_and_compare(three, METHODS, seeds=(0, 1, 2))
    assert path.read_bytes() == before
    shutil.rmtree(three.root / "cache")
    run_and_compare(three, "cheap[w=8,a=8]", seeds=(0, 1, 2))
    kept = three.folder.comparisons()
    # What is no longer in the cache keeps its comparisons, and cannot have new ones.
    assert {(each.a.label, each.b.label) for each in kept} >= {("cheap", "cheap[w=2,a=2]")}
    assert all(json.loads(line.rstrip(",")) for line in path.read_text().splitlines()[1:-1])


def test_kept_comparisons_need_no_cache_and_others_name_the_command(three: Bench, tmp_path: Path) -> None:
    a, b = found(three, "cheap", "fp")
    shutil.rmtree(tmp_path / "cache")
    first = comparer(three).compare(a, b)
    assert [each.metric for each in first] == ["fd", "kid"]
    assert (first[0].a.label, first[0].b.label) == ("cheap", "fp")
    (three.folder.path / "comparisons.json").unlink()
    with pytest.raises(UserError, match=r"cheap w4a4 seed 0 .* no longer in the cache .*; make it again with: .*force"):
        comparer(three).compare(a, b)
    assert compare_run(three.folder, three.cache, TinyWorkload(), three.registry).comparisons == ()


def test_rows_are_compared_on_the_seeds_that_both_have(three: Bench, tmp_path: Path, registry: Registry) -> None:
    other = Bench(tmp_path / "other", registry)
    other.run("cheap", seeds=(2, 5))
    (a,), (b,) = found(three, "cheap"), found(other, "cheap", run=other.folder)
    shutil.copytree(tmp_path / "other" / "cache", tmp_path / "cache", dirs_exist_ok=True)
    fd = comparer(three).compare(a, b)[0]
    assert (fd.a.seeds, fd.b.seeds) == ((2,), (2,))
    assert fd.findings[0].difference == pytest.approx(0, abs=1e-4 * fd.a.value)
    assert (fd.verdict, fd.between_seeds) == ("no evidence", None)


def test_rows_without_a_common_seed_are_unpaired(three: Bench, tmp_path: Path, registry: Registry) -> None:
    other = Bench(tmp_path / "other", registry)
    other.run("cheap", seeds=(7,))
    shutil.copytree(tmp_path / "other" / "cache", tmp_path / "cache", dirs_exist_ok=True)
    fd = comparer(three).compare(*found(three, "cheap"), *found(other, "cheap", run=other.folder))[0]
    assert fd.findings[0].test == "unpaired delta method over images, 16 a seed, seeds 0, 1, 2 against seed 7"
    assert (fd.a.seeds, fd.b.seeds) == ((0, 1, 2), (7,))


def test_different_protocols_are_refused_by_the_fact_that_differs(
    three: Bench, tmp_path: Path, registry: Registry
) -> None:
    other = Bench(tmp_path / "other", registry)
    other.run("cheap", images=12)
    with pytest.raises(UserError, match=r"protocols that differ in n \(16 and 12\)"):
        comparer(three).compare(*found(three, "cheap"), *found(other, "cheap", run=other.folder))


def test_runs_from_before_a_fact_was_said_have_the_same_protocol(three: Bench, tmp_path: Path) -> None:
    (tmp_path / "older").mkdir()
    manifest = json.loads((three.folder.path / "manifest.json").read_text())
    for facts in manifest["protocols"].values():
        assert facts.pop("judge") == "simulation"
    (tmp_path / "older" / "manifest.json").write_text(json.dumps(manifest))
    shutil.copy(three.folder.path / "records.jsonl", tmp_path / "older")
    a, b = found(three, "cheap"), found(three, "cheap[w=2,a=2]", run=RunFolder(tmp_path / "older"))
    assert [each.metric for each in comparer(three).compare(*a, *b)] == ["fd", "kid", "psnr_to_fp"]
    assert [each.metric for each in comparer(three).compare(*b, *a)] == ["fd", "kid", "psnr_to_fp"]


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"judge": "engine openvino"}, r"judge \(simulation and engine openvino\)"),
        ({"libraries": "pillow 12"}, r"libraries \(none and pillow 12\)"),
        ({"features": "float16"}, r"features \(float32 and float16\)"),
    ],
)
def test_what_one_protocol_leaves_unsaid_may_still_differ(changed: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        require_same_scoring({"n": 16}, {"n": 16, **changed}, ("a", "b"))


def test_names_of_rows(three: Bench) -> None:
    (row,) = found(three, "cheap@w4a4")
    assert row.title == "cheap w4a4"
    (row,) = found(three, f"cheap[w=2,a=2]@w2a2#{row.group.protocol[:4]}")
    assert row.title == "cheap[w=2,a=2] w2a2"
    with pytest.raises(UserError, match=r"No finished row is called chaep. Did you mean cheap\?"):
        found(three, "chaep")
    with pytest.raises(UserError, match="No finished row is called cheap@w3a3"):
        found(three, "cheap@w3a3")
    rows = [row for row in rows_of(three.folder) if row.row.label != "cheap"]
    assert find_row(rows, "cheap").title == "cheap[w=2,a=2] w2a2"
    with pytest.raises(UserError, match="cheap may be any of"):
        find_row([*rows, rows[-1]], "cheap")


def test_a_damaged_output_is_no_longer_there(three: Bench) -> None:
    (three.folder.path / "comparisons.json").unlink()
    (run,) = (r for r in three.folder.records()[0].stages if r.stage == "features")
    file = three.cache.folder(run.key) / "features.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="fp w32a32 seed 0"):
        RowComparer(StageCache(three.root / "cache"), TinyWorkload(), three.registry).compare(
            *found(three, "fp", "cheap")
        )


def test_a_damaged_file_is_one_sentence_and_one_of_another_version_is_left_alone(three: Bench) -> None:
    path = three.folder.path / "comparisons.json"
    path.write_text("{")
    with pytest.raises(UserError, match=r"comparisons.json is not JSON: delete it"):
        three.folder.comparisons()
    run_and_compare(three, METHODS, seeds=(0, 1, 2))
    assert len(three.folder.comparisons()) == 7
    path.write_text('{"version": 999, "comparisons": [{"new": 1}]}')
    assert three.folder.comparisons() == ()
