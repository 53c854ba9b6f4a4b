"""CLIP score in whole runs of a text workload."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from bench_runs import Bench
from clip_files import ClipFiles, put_in_place
from torch.nn import functional

from pqbench.base.errors import UserError
from pqbench.commands.compare import RowComparer, find_row, rows_of
from pqbench.components import Registry
from pqbench.report.tables.results import results_table
from pqbench.results.records import Record
from pqbench.run.stages.images import stored_images
from pqbench.run.stages.measure import read_each
from pqbench.scoring.clip.encoder import open_encoder
from pqbench.scoring.resolver import ScoringRequest
from pqbench.testing.conditional import TinyText

METHOD = "cheap[calibration=uniform]"
CLIP = ScoringRequest(metrics="fd,clip_score")
N = 8


@dataclass(frozen=True)
class Finished:
    """A run of two methods and two seeds, which tests copy before they change it."""

    bench: Bench
    records: dict[str, Record]
    clip: ClipFiles


def run(bench: Bench, methods: str = "fp", **request: object) -> dict[str, Record]:
    records = bench.run(methods, **({"workload": "tiny-text", "images": N, "scoring": CLIP} | request))
    assert {record.status for record in records.values()} == {"ok"}, [record.reason for record in records.values()]
    return records


def scores(record: Record) -> list[str]:
    """Keys of the stages that leave metrics: of those that are cheap, and of the CLIP score."""
    return [each.key for each in record.stages if each.stage == "score"]


@pytest.fixture(scope="module")
def finished(
    registry: Registry, tiny_clip_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Finished]:
    folder = tmp_path_factory.mktemp("prompted")
    bench = Bench(folder, registry)
    with pytest.MonkeyPatch.context() as patch:
        files = put_in_place(tiny_clip_weights, folder / "weights", patch)
        yield Finished(bench, run(bench, METHOD, seeds=(0, 1)), files)


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Bench:
    shutil.copytree(finished.bench.root, tmp_path / "copy")
    return Bench(tmp_path / "copy", finished.bench.registry)


def test_each_row_is_judged_by_the_prompts_of_its_images(finished: Finished) -> None:
    cache, encoder = finished.bench.cache, open_encoder(finished.clip.net, finished.clip.weights)
    for record in finished.records.values():
        samples = next(each.key for each in record.stages if each.stage == "sample")
        images = torch.cat(list(stored_images(cache.folder(samples))))
        texts = encoder.texts(TinyText().prompts(record.seed, range(N)))
        expected = 100 * functional.cosine_similarity(encoder.images(images), texts).clamp(min=0)
        each = read_each(cache.folder(scores(record)[1]), "clip_score")
        torch.testing.assert_close(each, expected, rtol=1e-5, atol=1e-5)
        found = record.metrics["clip_score"]
        assert found.value == pytest.approx(float(expected.mean()))
        assert found.low is not None
        assert found.low < found.value
    assert len({record.metrics["clip_score"].value for record in finished.records.values()}) == 4


def test_the_protocol_states_encoder_hash_pixels_formula_and_prompts(finished: Finished) -> None:
    (protocol,) = {record.metrics["clip_score"].protocol for record in finished.records.values()}
    manifest = finished.bench.folder.manifest()
    facts = manifest.protocols[protocol]
    assert facts["weights_sha256"] == finished.clip.net.weights.sha256
    assert facts["encoder"] == "CLIP ViT-B-32 (nobody), float32"
    assert "bicubic" in facts["pixels"]
    assert facts["formula"] == "mean of 100 max(cos, 0)"
    assert len(facts["prompts_sha256"]) == 64
    (section,) = results_table(finished.bench.folder.records(), manifest).sections
    assert "CLIP score" in [column.title for column in section.columns]
    assert f"prompts_sha256 {facts['prompts_sha256'][:8]}" in " ".join(section.caption)


def test_other_prompts_are_another_protocol(copied: Bench, finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    first = finished.records["fp/0"]

    def numbered(self: TinyText, seed: int, indices: Sequence[int], purpose: str = "image") -> tuple[str, ...]:
        return tuple(f"cat {i}!" for i in indices)

    monkeypatch.setattr(TinyText, "prompts", numbered)
    other = run(copied, seeds=(0, 1))["fp/0"]
    assert other.metrics["clip_score"].protocol != first.metrics["clip_score"].protocol
    assert other.metrics["fd"] == first.metrics["fd"]
    assert [each.cached for each in other.stages if each.stage == "score"] == [True, False]


def test_another_metric_does_not_run_the_encoder_again(copied: Bench, finished: Finished) -> None:
    first = finished.records["fp/0"]
    second = run(copied, seeds=(0, 1), scoring=ScoringRequest(metrics="fd,kid,clip_score"))["fp/0"]
    assert [each.cached for each in second.stages if each.stage == "score"] == [False, True]
    assert second.metrics["clip_score"] == first.metrics["clip_score"]


def test_rows_are_compared_by_the_scores_that_were_kept(copied: Bench, finished: Finished) -> None:
    a, b = (find_row(rows_of(copied.folder), name) for name in ("fp", "cheap"))
    compared = RowComparer(copied.cache, TinyText(), copied.registry).compare(a, b)
    found = {each.metric: each for each in compared}["clip_score"]
    sides = [[each for each in finished.records.values() if each.method == name] for name in ("fp", "cheap")]
    differences = []
    for own, theirs in zip(*sides, strict=True):
        values = [read_each(copied.cache.folder(scores(each)[1]), "clip_score") for each in (own, theirs)]
        assert values[0] is not None
        differences.append(float((values[0] - values[1]).mean()))
    assert found.findings[0].difference == pytest.approx(sum(differences) / 2)
    for record in finished.records.values():
        copied.cache.discard(scores(record)[1])
    with pytest.raises(UserError, match="no longer in the cache"):
        RowComparer(copied.cache, TinyText(), copied.registry).compare(a, b)


def test_runs_of_other_seeds_are_compared_all_the_same(copied: Bench, finished: Finished, tmp_path: Path) -> None:
    other = Bench(tmp_path / "other", copied.registry)
    shutil.copytree(copied.cache.root, other.cache.root)
    run(other, METHOD, seeds=(0,))
    a, b = (find_row(rows_of(each.folder), "cheap") for each in (copied, other))
    found = {each.metric: each for each in RowComparer(other.cache, TinyText(), copied.registry).compare(a, b)}
    assert found["clip_score"].a.value == found["clip_score"].b.value


def test_what_lacks_prompts_or_weights_is_said_before_any_work(bench: Bench, clip_files: ClipFiles) -> None:
    with pytest.raises(UserError, match="clip_score cannot be computed here: it is for text models, and tiny has no"):
        bench.plan("cheap", scoring=CLIP)
    clip_files.weights.write_bytes(b"other")
    with pytest.raises(UserError, match=rf"is not tiny.pt: its sha256 is .*, not {clip_files.net.weights.sha256}"):
        bench.plan("fp", workload="tiny-text", scoring=CLIP)
    clip_files.weights.unlink()
    with pytest.raises(UserError, match=rf"The weights tiny.pt \(sha256 {clip_files.net.weights.sha256}\) are not in"):
        bench.plan("fp", workload="tiny-text", scoring=CLIP)
    with pytest.raises(UserError, match=r'get them with `pqbench fetch "clip_score\[net=ViT-L-14\]"`'):
        bench.plan("fp", workload="tiny-text", scoring=ScoringRequest(metrics="clip_score[net=ViT-L-14]"))
    notes = bench.plan("fp", workload="tiny-text", scoring=ScoringRequest(metrics="all")).notes
    assert any("clip_score (its weights tiny.pt are not in" in note for note in notes)
    assert any("`pqbench fetch clip_score`)" in note for note in notes)


def test_a_workload_with_too_few_prompts_is_refused(
    bench: Bench, clip_files: ClipFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TinyText, "prompts", lambda self, seed, indices, purpose="image": ("one",))
    with pytest.raises(UserError, match="The workload tiny-text gives 1 prompts for 16 images"):
        bench.plan("fp", workload="tiny-text", scoring=CLIP)


def test_cut_prompts_are_a_footnote_of_the_table(
    bench: Bench, clip_files: ClipFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        TinyText, "prompts", lambda self, seed, indices, purpose="image": tuple("cat " * (i * 20) for i in indices)
    )
    run(bench)
    (section,) = results_table(bench.folder.records(), bench.folder.manifest()).sections
    assert section.footnotes.count("CLIP reads 77 tokens: 4 of 8 prompts are longer and were cut.") == 1
