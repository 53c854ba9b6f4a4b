"""What has to be said about single rows: failures, layers not at the stated bits, what arithmetic ran, deviations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pqbench.results.names import LATENCY, latency_place
from pqbench.results.records import Audit
from pqbench.results.rows import Row

_ROLES = {"calibration": "calibration set", "distiller_calibration": "calibration set of the distiller"}


class Footnotes:
    """The footnotes of one section; a text that several rows need gets one number."""

    def __init__(self) -> None:
        self._texts: dict[str, int] = {}

    def numbers(self, texts: Iterator[str]) -> tuple[int, ...]:
        """Numbers of the given texts, each once, new ones where needed."""
        return tuple(sorted({self._texts.setdefault(text, len(self._texts) + 1) for text in texts}))

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts, in the order of their numbers."""
        return tuple(self._texts)


def footnotes_of(row: Row) -> Iterator[str]:
    """Everything that a reader of this row must know, failures first."""
    yield from _unfinished(row)
    audits = dict.fromkeys(r.audit.model_dump_json() for r in row.finished if r.audit is not None)
    if row.precision.quantizes:
        for audit in audits:
            yield from _exempt(Audit.model_validate_json(audit))
        yield from _executed(row)
    yield from dict.fromkeys(_calibration_files(row))
    yield from dict.fromkeys(_deviations(row))
    yield from dict.fromkeys(note for record in row.records for note in record.notes)


def _unfinished(row: Row) -> Iterator[str]:
    reasons: defaultdict[tuple[str, str], list[int]] = defaultdict(list)
    for record in row.records:
        if record.status != "ok":
            reasons[record.status, record.reason or "no reason was recorded"].append(record.seed)
    for (status, reason), seeds in reasons.items():
        where = f" (seed {_listed(seeds)})" if len(row.records) > 1 else ""
        yield f"{row.label} {status}{where}: {reason}"


def _exempt(audit: Audit) -> Iterator[str]:
    if audit.full_precision_layers:
        yield f"Weights in full precision: {_listed(audit.full_precision_layers)}."
    by_precision: defaultdict[str, list[str]] = defaultdict(list)
    for layer, precision in audit.wider_layers.items():
        by_precision[precision].append(layer)
    if by_precision:
        lists = "; ".join(f"{_listed(layers)} at {precision}" for precision, layers in by_precision.items())
        yield f"Not at the stated bits: {lists}."
    if audit.full_precision_operations:
        yield f"Operations in floating point: {_listed(audit.full_precision_operations)}."


def _executed(row: Row) -> Iterator[str]:
    """The arithmetic that an engine really used: the latency of a W4A4 row may be that of 8-bit kernels."""
    ran: dict[str, Mapping[str, Any]] = {}
    for record in row.finished:
        for name, metric in record.metrics.items():
            if name.startswith(LATENCY) and metric.detail.get("layer_precisions"):
                ran[latency_place(name)[0]] = metric.detail
    for engine, detail in ran.items():
        held = f"; weights held: {_counted(detail['weights_held'])}" if detail.get("weights_held") else ""
        arithmetic = _counted(detail["layer_precisions"])
        yield f"Arithmetic of {engine}, read back from what ran: layers {arithmetic}{held}."
        if detail.get("fell_back"):
            yield f"Quantized in the checkpoint, but in floating point on {engine}: {_listed(detail['fell_back'])}."


def _counted(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{number} in {kind}" for kind, number in sorted(kinds.items()))


def _calibration_files(row: Row) -> Iterator[str]:
    """Which sets came from files: the method's own sampler was then not used."""
    for record in row.records:
        for role, component in record.components.items():
            file = component.get("file")
            if file:
                facts = file.get("facts", {})
                by = facts.get("drawn_by") or facts.get("sampler", "an unknown sampler")
                seed = f" with seed {facts['seed']}" if "seed" in facts else ""
                what = _ROLES.get(role, role)
                yield f"The {what} is the file {file['name']} (sha256 {file['digest']}), drawn by {by}{seed}."


def _deviations(row: Row) -> Iterator[str]:
    for record in row.records:
        for component in record.components.values():
            for deviation in component.get("deviations") or ():
                yield f"{component.get('name', 'a component')} differs from its paper: {deviation}"


def _listed(items: Sequence[object]) -> str:
    """All of them, however many: what is exempt is listed, never silent. A terminal may show fewer."""
    return ", ".join(map(str, items))
