"""What stands under a section of the table: under which protocol its numbers were made, and how to read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

from pqbench.base.text import percent
from pqbench.report.tables.evidence import Evidence
from pqbench.report.tables.strongest import full_precision_lines, strongest_line
from pqbench.results.comparisons import Comparison
from pqbench.results.estimates import Estimate
from pqbench.results.names import ENERGY, PARITY, latency_heading
from pqbench.results.records import Manifest, Metric, Record
from pqbench.results.rows import QUALITY, Group, Row
from pqbench.timing.steadiness import REPEAT_LIMIT

HASH = re.compile(r"[0-9a-f]{40,}")
HASH_SHOWN = 12


def caption(group: Group, manifest: Manifest, distance: str, evidence: Evidence) -> Iterator[str]:
    """The lines under one section."""
    yield _quality(group, manifest, distance)
    yield from _protocol_lines(group, manifest)
    yield from _verdict(group, distance, evidence)
    yield from _reading(group, evidence)
    yield from _strongest(group)


def _quality(group: Group, manifest: Manifest, distance: str) -> str:
    seeds = ", ".join(map(str, sorted({record.seed for record in group.records})))
    counts = sorted({r.metrics["fd"].n for r in group.records if "fd" in r.metrics})
    n = f", n = {' and '.join(map(str, counts))} images" if counts else ""
    extractor = _extractor(group, manifest)
    judged = f"; {distance}: Frechet distance of the features of {extractor}" if extractor else ""
    protocol = group.protocol or "none (nothing was measured)"
    return f"Protocol {protocol}: budget {group.budget}{n}, seeds {seeds}{judged}."


def _extractor(group: Group, manifest: Manifest) -> str:
    """The extractor's name and hash, from the protocol that fixes it, else from the workload."""
    for facts in (manifest.protocols.get(group.protocol, {}), manifest.workload):
        extractor = facts.get("extractor")
        if isinstance(extractor, Mapping):
            return ", ".join(str(v) if key == "name" else f"{key} {_shown(v)}" for key, v in extractor.items())
        if extractor:
            sha256 = facts.get("extractor_sha256")
            return f"{extractor} (sha256 {_shown(sha256)})" if sha256 else _shown(extractor)
    return ""


def _protocol_lines(group: Group, manifest: Manifest) -> Iterator[str]:
    """Everything that each protocol in the section fixes."""
    used: dict[str, dict[str, None]] = {}
    for record in group.records:
        for name, metric in record.metrics.items():
            used.setdefault(metric.protocol, {})[_family(name, metric)] = None
    for protocol, families in used.items():
        if facts := manifest.protocols.get(protocol):
            yield protocol_line(protocol, families, facts)


def protocol_line(protocol: str, families: Iterable[str], facts: Mapping[str, Any]) -> str:
    """Everything that a protocol fixes, in one line, with hashes cut short.

    families   what is measured under it, as readers see it in the headings
    """
    fixed = ", ".join(f"{key} {_shown(value)}" for key, value in _flat(facts))
    return f"Protocol {protocol} ({'; '.join(families)}) fixes: {fixed}."


def _family(name: str, metric: Metric) -> str:
    """What a metric's protocol is for, as readers see it in the headings."""
    if name.startswith("latency_"):
        return latency_heading(name)
    if name.startswith(ENERGY):
        return f"{latency_heading(name)}: energy"
    if name.startswith(PARITY):
        return f"parity of {name.partition('@')[2]}"
    if metric.title and "protocol" in metric.detail:
        return metric.title
    return {"peak_memory_bytes": "peak memory"}.get(name, "quality")


def _flat(facts: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shown(value: object) -> str:
    if isinstance(value, str):
        return HASH.sub(lambda match: match[0][:HASH_SHOWN] + "…", value)
    if isinstance(value, Sequence):
        return " ".join(map(_shown, value))
    return str(value)


def _verdict(group: Group, distance: str, evidence: Evidence) -> Iterator[str]:
    """The rows in order of their distance, with what is known about neighbours."""
    found = [(row, row.estimate("fd", group.protocol)) for row in group.rows]
    ranked = sorted(((row, e) for row, e in found if e is not None), key=lambda each: each[1].value)
    if len(ranked) < 2:
        return
    words = [_title(ranked[0][0])]
    for (better, ours), (worse, theirs) in pairwise(ranked):
        is_better = evidence.is_better(better, worse, "fd", ours, theirs)
        words += ["<" if is_better else "≈", _title(worse)]
    tests = [evidence.comparison(a, b, "fd") for (a, _), (b, _) in pairwise(ranked)]
    yield f"By {distance} ({_order_reading(tests)}): {' '.join(words)}."
    if any(tests):
        yield _tests_reading([each for each in tests if each is not None])


def _order_reading(tests: Sequence[Comparison | None]) -> str:
    if not any(tests):
        return "of neighbours, a < b: a is better; a ≈ b: the intervals overlap, no evidence"
    seeds = " and, from three common seeds on, by that between seeds" if _have_seeds(tests) else ""
    rest = "" if all(tests) else ", or, where their images were not compared, by intervals that do not overlap"
    return f"of neighbours, a < b: a is better by the test of their images{seeds}{rest}; a ≈ b: no evidence"


def _tests_reading(tests: Sequence[Comparison]) -> str:
    """Which tests were made, and what each leaves out."""
    images = "; ".join(dict.fromkeys(each.findings[0].test for each in tests))
    alone = (
        f"The test of two rows ({images}) takes their compressed models as they are: what another calibration or "
        "training would change is not in it."
    )
    if not _have_seeds(tests):
        return f"{alone} All pairs, and the test between seeds: pqbench compare RUN."
    seeds = "; ".join(dict.fromkeys(each.between_seeds.test for each in tests if each.between_seeds))
    return f"{alone} The test between seeds ({seeds}) holds it. All pairs, by either test: pqbench compare RUN."


def _have_seeds(tests: Iterable[Comparison | None]) -> bool:
    return any(each is not None and each.between_seeds for each in tests)


def _title(row: Row) -> str:
    return f"{row.label} {row.precision}"


def _reading(group: Group, evidence: Evidence) -> Iterator[str]:
    if any(_has_interval(row.estimate(name)) for row in group.rows for name in _metrics(row.finished)):
        yield "Brackets: 95 % interval. The intervals of the other columns are in the JSON format."
    if any(len(row.finished) > 1 for row in group.rows):
        yield "Rows of several seeds: the mean over seeds, and Student's t interval of that mean."
    if any(_is_shared(row, name) for row in group.rows for name in dict.fromkeys(_metrics(row.finished))):
        yield (
            "What does not depend on the seed (latency and memory of full precision) was measured once for all of "
            "them: it has no interval between seeds, and neither has a ratio to it."
        )
    yield (
        f"Bold: best of the compressed methods, only where {_bold_reading(group, evidence)}. – : not measured; a "
        "simulation of quantization has no latency. Speed-up and size are against the full-precision row, speed-up on "
        "the same engine."
    )
    counts = _processes(group.records)
    if counts:
        yield (
            f"A latency is the median over {' or '.join(map(str, counts))} processes of each one's median, a peak "
            f"memory their highest. Latencies whose processes differ by over {percent(REPEAT_LIMIT - 1)} are marked."
        )
    if any(record.audit is not None for record in group.records):
        yield (
            "Average bits: of weights over all of them, floating-point ones at their width; of activations over the "
            "multiply-accumulates that read them. Scales and zero-points (of channels, groups of weights, inputs, time "
            "steps), biases and normalisation are not in them; they are in the size, which is that of the whole packed "
            "file."
        )


def _processes(records: Sequence[Record]) -> list[int]:
    """In how many processes figures were measured, where more than one; earlier versions used one and said nothing."""
    counts = {len(metric.detail.get("processes") or ()) for record in records for metric in record.metrics.values()}
    return sorted(count for count in counts if count > 1)


def _strongest(group: Group) -> Iterator[str]:
    """Which full-precision line was the fastest at each batch: a speed-up over a weaker one says less."""
    lines = full_precision_lines(group)
    if not lines:
        return
    best = dict.fromkeys(strongest_line(group, line.name, line.protocol) for line in lines)
    fastest = sorted((line for line in best if line is not None), key=lambda line: line.batch)
    found = [f"{line.engine} at batch {line.batch} ({line.latency.value:.3g} ms/image)" for line in fastest]
    engines = dict.fromkeys(line.engine for line in lines)
    reading = (
        f", of {', '.join(engines)}; vs strongest FP: the speed-up over it, where the latency is on another engine."
        if len(engines) > 1
        else ", the only one."
    )
    yield f"Strongest full-precision line that was timed: {', '.join(found)}{reading}"


def _bold_reading(group: Group, evidence: Evidence) -> str:
    rivals = [row for row in group.rows if not row.is_reference]
    found = [evidence.comparison(a, b, name) for a, b in combinations(rivals, 2) for name in QUALITY]
    if not any(found):
        return "its interval overlaps no other"
    say = (
        "the test of their images and that between seeds say" if _have_seeds(found) else "the test of their images says"
    )
    return f"{say} better than each other one (latencies: its interval overlaps no other)"


def _metrics(records: Sequence[Record]) -> Iterator[str]:
    for record in records:
        yield from record.metrics


def _is_shared(row: Row, metric: str) -> bool:
    """Whether one measurement is that of several seeds."""
    seeds = sum(metric in record.metrics for record in row.finished)
    return len(row.measurements(metric)) < seeds


def _has_interval(estimate: Estimate | None) -> bool:
    return estimate is not None and estimate.low is not None
