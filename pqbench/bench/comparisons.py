"""Comparing rows by the features and images of their cells, which are in the stage cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from pqbench.bench.cache import StageCache
from pqbench.bench.records import Record
from pqbench.bench.stages.images import FEATURES, load_images
from pqbench.bench.store import RunFolder
from pqbench.comparison.influence import Contribution, frechet_contribution, kernel_contribution, mean_contribution
from pqbench.comparison.pairing import Pairing, pair
from pqbench.comparison.result import ComparedRow, Comparison, ComparisonIndex, Comparisons
from pqbench.comparison.verdict import FEWEST_SEEDS, between_seeds, over_images
from pqbench.contracts import Workload
from pqbench.contracts.workload import Reference
from pqbench.errors import UserError
from pqbench.evaluation.paired import psnr
from pqbench.report.rows import QUALITY, Row, grouped, quality_protocol

Facts = Mapping[str, Any]
"""Everything that a protocol fixes, as the manifest keeps it."""


class MissingOutputError(UserError):
    """What a cell was scored on is no longer in the cache."""


@dataclass
class Comparer:
    """Compares rows that were scored by one reference.

    Raises `UserError` when the workload's reference is not the one that scored the rows, and `MissingOutputError` when
    features or images are no longer in the cache.
    """

    cache: StageCache
    reference: Reference
    _known: dict[str, dict[str, Contribution]] = field(default_factory=dict)

    def compare(self, pairing: Pairing, facts: Facts) -> Iterator[Comparison]:
        """The comparison by each metric that all records have; `facts` are those of the protocol that scored them."""
        if facts.get("reference_sha256") != self.reference.sha256:
            raise UserError(
                "The reference statistics of the installed workload are not those that scored this run: install the "
                "version that its manifest names, or run again."
            )
        sides = [[self._contributions(record, facts) for record in records] for records in (pairing.a, pairing.b)]
        for metric in pairing.metrics(QUALITY):
            yield _comparison(metric, pairing, *([each[metric] for each in side] for side in sides))

    def _contributions(self, record: Record, facts: Facts) -> dict[str, Contribution]:
        if record.cell not in self._known:
            self._known[record.cell] = dict(self._read(record, facts))
        return self._known[record.cell]

    def _read(self, record: Record, facts: Facts) -> Iterator[tuple[str, Contribution]]:
        keys = _output_keys(record)
        for key in dict.fromkeys(keys):
            self._require(record, key)
        features_key, images_key, fp_key = keys
        features = load_file(self.cache.folder(features_key) / FEATURES)["features"]
        values = {name: record.metrics[name].value for name in QUALITY if name in record.metrics}
        if "fd" in values:
            yield "fd", frechet_contribution(values["fd"], features, self.reference)
        if "kid" in values:
            subsets = int(facts["kid_subsets"]), int(facts["kid_subset_size"])
            yield "kid", kernel_contribution(values["kid"], features, self.reference.features, *subsets)
        if "psnr_to_fp" in values:
            yield "psnr_to_fp", mean_contribution(values["psnr_to_fp"], self._psnr(images_key, fp_key))

    def _psnr(self, key: str, fp_key: str) -> Tensor:
        return psnr(load_images(self.cache.folder(key)), load_images(self.cache.folder(fp_key)))

    def _require(self, record: Record, key: str) -> None:
        if not self.cache.has(key) or self.cache.damage(key):
            raise MissingOutputError(
                f"What {record.label} {record.precision} seed {record.seed} was scored on is no longer in the cache "
                f"{self.cache.root}"
            )


def compare_run(run: RunFolder, cache: StageCache, workload: Workload) -> Comparisons:
    """All pairs of rows within each section of the run's table, as far as the cache still has what they need.

    Pairs that the run's comparisons.json already holds are taken from there, if it can be read.
    """
    manifest = run.manifest()
    index = ComparisonIndex(_kept(run))
    comparer = Comparer(cache, workload.reference())
    found: list[Comparison] = []
    for group in grouped(run.current_records(), manifest):
        facts = manifest.protocols.get(group.protocol, {})
        for a, b in pairs(group.rows):
            found += known(a, b, index) or _as_far_as_possible(comparer, pair(a.finished, b.finished), facts)
    return Comparisons(comparisons=tuple(found))


def _kept(run: RunFolder) -> tuple[Comparison, ...]:
    try:
        return run.comparisons()
    except UserError:
        return ()  # a damaged file is made again


def pairs(rows: Iterable[Row]) -> Iterator[tuple[Row, Row]]:
    """Every two rows that have something to compare, once."""
    judged = [row for row in rows if any(quality_protocol(record) for record in row.finished)]
    yield from combinations(judged, 2)


def known(a: Row, b: Row, index: ComparisonIndex) -> list[Comparison]:
    """The comparisons of two rows that are kept, `a` first: all of their metrics, or none."""
    pairing = pair(a.finished, b.finished)
    found = [index.between(*pairing.cells, metric) for metric in pairing.metrics(QUALITY)]
    return [] if None in found else [each for each in found if each is not None]


def require_same_scoring(a: Facts, b: Facts, titles: Sequence[str]) -> None:
    """Raise `UserError` that names the first fact in which two protocols score differently.

    Seeds, the budget's name and the bootstrap do not change what an image counts for.
    """
    indifferent = {"seeds", "budget", "bootstrap_resamples", "bootstrap_seed"}
    for name in dict.fromkeys((*a, *b)):
        if name not in indifferent and a.get(name) != b.get(name):
            raise UserError(
                f"{titles[0]} and {titles[1]} were scored under protocols that differ in {name} "
                f"({a.get(name)} and {b.get(name)}): score both under one protocol to compare them."
            )


def _as_far_as_possible(comparer: Comparer, pairing: Pairing, facts: Facts) -> list[Comparison]:
    try:
        return list(comparer.compare(pairing, facts))
    except UserError:
        return []


def _output_keys(record: Record) -> tuple[str, str, str]:
    """Keys of a cell's features, of its images and of the full-precision model's images.

    A cell's stages are listed inputs first: its own images come before its features, the reference's come after them.
    """
    names = [run.stage for run in record.stages]
    samples = [run.key for run in record.stages if run.stage == "sample"]
    if "features" not in names or not samples:
        raise MissingOutputError(f"The record of {record.label} seed {record.seed} does not say where its features are")
    return record.stages[names.index("features")].key, samples[0], samples[-1]


def _comparison(metric: str, pairing: Pairing, a: Sequence[Contribution], b: Sequence[Contribution]) -> Comparison:
    first = pairing.a[0].metrics[metric]
    findings = [over_images(a, b, _seeds(pairing), first.direction, pairing.is_paired)]
    if pairing.is_paired and len(a) >= FEWEST_SEEDS:
        ours, theirs = ([each.value for each in row] for row in (a, b))
        findings.append(between_seeds(ours, theirs, _seeds(pairing), first.direction))
    return Comparison(
        metric=metric,
        direction=first.direction,
        unit=first.unit,
        n=first.n,
        a=_side(pairing.a, a),
        b=_side(pairing.b, b),
        findings=tuple(findings),
    )


def _side(records: Sequence[Record], contributions: Sequence[Contribution]) -> ComparedRow:
    return ComparedRow(
        label=records[0].label,
        precision=records[0].precision,
        steps=records[0].steps,
        seeds=tuple(record.seed for record in records),
        cells=tuple(record.cell for record in records),
        value=fmean(each.value for each in contributions),
    )


def _seeds(pairing: Pairing) -> str:
    sides = (pairing.a,) if pairing.is_paired else (pairing.a, pairing.b)
    return " against ".join(
        f"seed{'s' if len(records) > 1 else ''} {', '.join(str(record.seed) for record in records)}"
        for records in sides
    )
