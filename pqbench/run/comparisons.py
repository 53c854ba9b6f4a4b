"""Comparing rows by the features and images of their cells, which are in the stage cache."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean
from typing import Any

from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.comparison.pairing import Pairing, pair
from pqbench.comparison.verdict import FEWEST_SEEDS, between_seeds, over_images
from pqbench.components import Registry
from pqbench.contracts import Contribution, ImageMetric, Reference, Workload
from pqbench.results.comparisons import ComparedRow, Comparison, ComparisonIndex, Comparisons
from pqbench.results.records import Record
from pqbench.results.rows import QUALITY, Row, grouped, quality_names, quality_protocol
from pqbench.results.store import RunFolder
from pqbench.run.cache import StageCache
from pqbench.run.stages.images import STATISTICS
from pqbench.run.stages.measure import read_each
from pqbench.run.stages.outputs import Outputs
from pqbench.scoring.formulas.influence import mean_contribution
from pqbench.scoring.protocol import UNSAID, rules_of
from pqbench.scoring.reference import read_statistics
from pqbench.scoring.values import Sources, computable, inputs_of

Facts = Mapping[str, Any]
"""Everything that a protocol fixes, as the manifest keeps it."""


class MissingOutputError(UserError):
    """What a cell was scored on is no longer in the cache."""


@dataclass(frozen=True)
class _Keys:
    """Of the stages whose outputs a cell was scored on; the full-precision model's own cell is its own partner."""

    features: str
    images: str
    fp_images: str
    fp_features: str
    statistics: str | None


@dataclass
class Comparer:
    """Compares rows that were scored by one reference.

    Raises `UserError` when the workload's reference is not the one that scored the rows, and `MissingOutputError` when
    features or images are no longer in the cache.
    """

    cache: StageCache
    workload: Workload
    registry: Registry
    _known: dict[tuple[str, str], Contribution | None] = field(default_factory=dict)
    _references: dict[str, Reference] = field(default_factory=dict)

    def compare(self, pairing: Pairing, facts: Facts) -> Iterator[Comparison]:
        """The comparison by each metric that all records have and whose images' contributions are known.

        facts   those of the protocol that scored the records
        """
        for metric in pairing.metrics(quality_names((*pairing.a, *pairing.b))):
            sides = [[self._contribution(r, metric, facts) for r in records] for records in (pairing.a, pairing.b)]
            a, b = ([each for each in side if each is not None] for side in sides)
            if len(a) == len(pairing.a) and len(b) == len(pairing.b):
                yield _comparison(metric, pairing, a, b)

    def _contribution(self, record: Record, metric: str, facts: Facts) -> Contribution | None:
        key = record.cell, metric
        if key not in self._known:
            self._known[key] = self._computed(record, metric, facts)
        return self._known[key]

    def _computed(self, record: Record, name: str, facts: Facts) -> Contribution | None:
        measured = record.metrics[name]
        each = self._each(record, name)
        if each is not None:
            return mean_contribution(measured.value, each)
        metric = self._metric(name, measured.detail.get("protocol", {}))
        if metric is None:
            return None
        sources = self._sources(record, facts)
        if not computable(metric, sources):
            for key in (run.key for run in record.stages if run.stage == "score"):
                self._require(record, key)  # where each image's value would be
            return None
        try:
            return metric.contribution(measured.value, inputs_of(metric, rules_of(dict(facts)), sources))
        except Exception as error:  # a plugin's: what it raises is no traceback of ours
            raise UserError(
                f"The metric {name} cannot be compared: it raised {type(error).__name__}: {error}."
            ) from error

    def _each(self, record: Record, name: str) -> Tensor | None:
        """The metric's value of each image, where it was kept."""
        for run in record.stages:
            if run.stage == "score" and self.cache.has(run.key) and not self.cache.damage(run.key):
                found = read_each(self.cache.folder(run.key), name)
                if found is not None:
                    return found
        return None

    def _metric(self, name: str, own: Facts) -> ImageMetric | None:
        """The component that measured it, with the parameters that it had; None where it is not installed."""
        distribution = own.get("distribution")
        try:
            component = self.registry.get("metric", f"{distribution}:{name}" if distribution else name)
        except UserError:
            return None
        return component(**own.get("parameters", {}))

    def _sources(self, record: Record, facts: Facts) -> Sources:
        keys = _output_keys(record)
        for key in dict.fromkeys((keys.features, keys.images, keys.fp_images, keys.fp_features, keys.statistics)):
            if key is not None:
                self._require(record, key)
        is_own = keys.images == keys.fp_images
        reference = self._reference(keys.statistics, facts)
        return Outputs(
            features=self.cache.folder(keys.features),
            images=self.cache.folder(keys.images),
            reference=lambda: reference,
            fp_images=None if is_own else self.cache.folder(keys.fp_images),
            fp_features=None if is_own else self.cache.folder(keys.fp_features),
        ).sources()

    def _reference(self, key: str | None, facts: Facts) -> Reference:
        """The statistics that scored the rows: in the cache, or the workload's."""
        sha256 = str(facts.get("reference_sha256"))
        # Two extractors have different statistics of the same images.
        name = key or sha256
        if name not in self._references:
            if key is not None:
                self._references[name] = read_statistics(self.cache.folder(key) / STATISTICS, sha256)
            else:
                self._references[name] = self.workload.reference()
        found = self._references[name]
        if found.sha256 != sha256:
            raise UserError(
                "The reference statistics of the installed workload are not those that scored this run: install the "
                "version that its manifest names, or run again."
            )
        return found

    def _require(self, record: Record, key: str) -> None:
        if not self.cache.has(key) or self.cache.damage(key):
            raise MissingOutputError(
                f"What {record.label} {record.precision} seed {record.seed} was scored on is no longer in the cache "
                f"{self.cache.root}"
            )


def compare_run(run: RunFolder, cache: StageCache, workload: Workload, registry: Registry) -> Comparisons:
    """All pairs of rows within each section of the run's table, as far as the cache still has what they need.

    Pairs that the run's comparisons.json already holds are taken from there, if it can be read.
    """
    manifest = run.manifest()
    index = ComparisonIndex(_kept(run))
    comparer = Comparer(cache, workload, registry)
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
    """The comparisons of two rows that are kept, `a` first: all of their metrics that can be compared, or none."""
    pairing = pair(a.finished, b.finished)
    names = pairing.metrics(quality_names((*pairing.a, *pairing.b)))
    found = {name: index.between(*pairing.cells, name) for name in names}
    if any(each is None for name, each in found.items() if name in QUALITY):
        return []
    # Not every other metric says what images contribute to it; where one was compared, so were the others.
    return [each for each in found.values() if each is not None]


def require_same_scoring(a: Facts, b: Facts, titles: Sequence[str]) -> None:
    """Raise `UserError` that names the first fact in which two protocols score differently.

    Seeds, the budget's name and the bootstrap do not change what an image counts for. What goes without saying may be
    said in one of them: manifests from before there was a choice of judge have none.
    """
    indifferent = {"seeds", "budget", "bootstrap_resamples", "bootstrap_seed"}
    a, b = {**UNSAID, **a}, {**UNSAID, **b}
    for name in dict.fromkeys((*a, *b)):
        if name not in indifferent and a.get(name) != b.get(name):
            raise UserError(
                f"{titles[0]} and {titles[1]} were scored under protocols that differ in {name} "
                f"({a.get(name) or 'none'} and {b.get(name) or 'none'}): score both under one protocol to compare them."
            )


def _as_far_as_possible(comparer: Comparer, pairing: Pairing, facts: Facts) -> list[Comparison]:
    try:
        return list(comparer.compare(pairing, facts))
    except UserError:
        return []


def _output_keys(record: Record) -> _Keys:
    """What a cell was scored on.

    A cell's stages are listed inputs first: its own images and features come before the full-precision model's.
    """
    keys: dict[str, list[str]] = {}
    for run in record.stages:
        keys.setdefault(run.stage, []).append(run.key)
    if "features" not in keys or "sample" not in keys:
        raise MissingOutputError(f"The record of {record.label} seed {record.seed} does not say where its features are")
    features, samples = keys["features"], keys["sample"]
    return _Keys(features[0], samples[0], samples[-1], features[-1], next(iter(keys.get("reference", [])), None))


def _comparison(metric: str, pairing: Pairing, a: Sequence[Contribution], b: Sequence[Contribution]) -> Comparison:
    first = pairing.a[0].metrics[metric]
    findings = [over_images(a, b, _seeds(pairing), first.direction, pairing.is_paired)]
    if pairing.is_paired and len(a) >= FEWEST_SEEDS:
        findings.append(between_seeds(a, b, _seeds(pairing), first.direction))
    return Comparison(
        metric=metric,
        title=first.title,
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
