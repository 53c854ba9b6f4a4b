"""The card of an exported folder: what the model is, what it was measured to be, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pqbench.inspection.stored_bits import FileAudit
from pqbench.results.names import ENERGY, LATENCY, latency_heading
from pqbench.results.records import Metric, Record
from pqbench.results.rows import QUALITY

_VERSIONS = ("pqbench", "openvino", "torch", "numpy")
_LICENCE_KEYS = ("license", "licence")


@dataclass(frozen=True)
class ExportFacts:
    """Everything that the card says.

    title           `pqcad w4a4 seed 0`
    workload_card   the workload's own facts, in which a licence is looked for
    batch           of the model's files; None: any
    condition       shape of a row and type of each condition
    record          of the cell, None for a checkpoint by itself: nothing was measured then
    protocols       id -> everything that it fixes
    run_command     that made the run; empty without one
    difference      of one step between the files and the engine, relative
    files           name -> bytes
    """

    title: str
    steps: int
    workload: str
    workload_summary: str
    fingerprint: str
    workload_card: Mapping[str, Any]
    references: Sequence[str]
    engine: str
    batch: int | None
    condition: Sequence[tuple[tuple[int, ...], str]]
    audit: FileAudit
    record: Record | None
    protocols: Mapping[str, Mapping[str, Any]]
    run_command: str
    command: str
    difference: float
    versions: Mapping[str, str | None]
    files: Mapping[str, int]


def card(facts: ExportFacts) -> str:
    """The card as Markdown."""
    parts = (
        _model(facts),
        _use(facts),
        _measured(facts),
        _bits(facts.audit),
        _licence(facts),
        _made(facts),
        _protocols(facts),
    )
    return "\n".join(line for part in parts for line in (*part, "")).rstrip() + "\n"


def _model(facts: ExportFacts) -> Iterator[str]:
    record, audit = facts.record, facts.audit
    yield f"# {facts.title}, on {facts.workload}"
    yield ""
    yield f"A denoiser for images from noise by DDIM in {facts.steps} steps, in the files of the engine {facts.engine}."
    yield ""
    rows = [
        ("Workload", f"`{facts.workload}`: {facts.workload_summary}; fingerprint `{facts.fingerprint}`"),
        ("Method", f"{record.label}, seed {record.seed}" if record else "not known: exported from a checkpoint"),
        ("Precision", f"{record.precision} as stated" if record else "see the bits below"),
        ("Weights", f"{audit.weights:,}, {audit.average_weight_bits:.3f} bits each on average, scales not counted"),
        ("Packed checkpoint", f"{audit.file_bytes:,} bytes, sha256 `{audit.sha256}`"),
        ("Batch", "any" if facts.batch is None else str(facts.batch)),
        ("Files against engine", f"one step differs by {facts.difference:.2g}, relative"),
    ]
    if record is not None and record.audit is not None:
        rows.insert(4, ("Activations", f"{record.audit.average_activation_bits:.3f} bits on average"))
    yield from _table(("", ""), rows)


def _use(facts: ExportFacts) -> Iterator[str]:
    yield "## Use"
    yield ""
    yield "    pip install -r requirements.txt"
    yield "    python sample.py"
    yield ""
    yield (
        "`model.xml` takes x_t (float32), the time step of each image (int64)"
        f"{_conditions(facts.condition)}, and gives the prediction; a correction of its output is in it. `decode.xml` "
        "turns x_0 into uint8 images. `schedule.json` has the time steps and abar at each of them."
    )
    yield ""
    yield (
        "Weights of fewer than 8 bits take a byte each in `model.bin`, for which there are kernels; the packed "
        "checkpoint stores them in their bits. The same noise gives the images that the engine gives. A net of few "
        "bits amplifies what is rounded otherwise on another processor or at another batch: pixels may differ there, "
        "while the images are as good."
    )
    yield ""
    yield from _table(("File", "Bytes"), [(f"`{name}`", f"{size:,}") for name, size in facts.files.items()])


def _conditions(condition: Sequence[tuple[tuple[int, ...], str]]) -> str:
    texts = [f"a condition of shape {('N', *shape)} ({kind})".replace("'", "") for shape, kind in condition]
    return "".join(f", {text}" for text in texts)


def _measured(facts: ExportFacts) -> Iterator[str]:
    yield "## Measured"
    yield ""
    if facts.record is None:
        yield "Nothing: a checkpoint by itself has no record. Export the cell of a run to have its figures here."
        return
    metrics = facts.record.metrics
    quality = {name: metric for name, metric in metrics.items() if name not in _COSTS and "@" not in name}
    ours = {name: metric for name, metric in metrics.items() if name.partition("@")[2].split("/")[0] == facts.engine}
    rows = [_metric_row(_title(name, metric), metric) for name, metric in {**quality, **ours}.items()]
    yield from _table(("Figure", "Value", "95 % interval", "n", "Protocol"), rows)
    yield ""
    yield (
        "Images are judged as the protocol says, at the end of this card: those of the model simulated in torch, "
        "unless it names an engine. A latency is a median on the machine and over as many "
        "processes as its protocol names."
    )
    for note in facts.record.notes:
        yield f"- {note}"


_COSTS = ("cost_seconds", "cost_peak_memory_bytes")
_IN_WORDS = {
    "kid": "KID",
    "psnr_to_fp": "PSNR to FP",
    "stored_bytes": "packed checkpoint",
    "peak_memory_bytes": "peak memory of a sampling run",
}


def _title(name: str, metric: Metric) -> str:
    if "distance" in metric.detail:
        return str(metric.detail["distance"])
    if name.startswith(LATENCY):
        return f"latency an image, {latency_heading(name)}"
    if name.startswith("latency_ms_per_step@"):
        return f"latency a step, {latency_heading(name)}"
    if name.startswith(ENERGY):
        return f"energy an image, {latency_heading(name)}"
    return _IN_WORDS.get(name, name)


def _metric_row(title: str, metric: Metric) -> tuple[str, ...]:
    interval = "" if metric.low is None or metric.high is None else f"{metric.low:.4g} to {metric.high:.4g}"
    noisy = ", noisy" if metric.detail.get("noisy") else ""
    arrow = {"lower": " ↓", "higher": " ↑"}.get(metric.direction, "")
    value = f"{metric.value:,.0f}" if metric.unit == "bytes" else f"{metric.value:.4g}"
    return f"{title}{arrow}", f"{value} {metric.unit}".strip() + noisy, interval, f"{metric.n:,}", metric.protocol


def _bits(audit: FileAudit) -> Iterator[str]:
    yield "## Bits, layer by layer"
    yield ""
    yield "Counted from the packed checkpoint that this folder was made from."
    yield ""
    rows = [
        (f"`{layer.name}`", layer.operation, str(layer.w_bits), layer.w_grid, str(layer.a_bits), layer.a_grid)
        for layer in audit.layers
    ]
    rows += [(f"`{each.name}`", "attention operand", "", "", str(each.a_bits), each.a_grid) for each in audit.operands]
    rows += [(f"`{layer.name}`", "", str(layer.bits), "float", "32", "float") for layer in audit.float_layers]
    yield from _table(("Layer", "Operation", "Weight bits", "Grid", "Input bits", "Grid"), rows)


def _licence(facts: ExportFacts) -> Iterator[str]:
    yield "## Licence"
    yield ""
    own = _first(facts.workload_card, _LICENCE_KEYS)
    data = facts.workload_card.get("data")
    of_data = _first(data, _LICENCE_KEYS) if isinstance(data, Mapping) else ""
    if own:
        yield f"Of the model: {own}."
    else:
        yield f"Of the model: the workload `{facts.workload}` states none; that of its makers holds."
    if of_data and isinstance(data, Mapping):
        yield f"Of the data that it was trained on ({data.get('name', 'no name given')}): {of_data}."
    for reference in facts.references:
        yield ""
        yield f"    {reference}"


def _first(facts: Mapping[str, Any], keys: Iterable[str]) -> str:
    return next((str(facts[key]) for key in keys if facts.get(key)), "")


def _made(facts: ExportFacts) -> Iterator[str]:
    yield "## Made by"
    yield ""
    if facts.run_command:
        yield f"    {facts.run_command}"
    yield f"    {facts.command}"
    yield ""
    versions = [f"{name} {facts.versions[name]}" for name in _VERSIONS if facts.versions.get(name)]
    yield f"With {', '.join(versions)}."
    if facts.record is None:
        return
    for role, component in facts.record.components.items():
        parameters = component.get("parameters") or {}
        settings = f" with {json.dumps(parameters)}" if parameters else ""
        package = f"{component.get('distribution')} {component.get('version')}"
        yield f"- {role}: {component.get('name')} ({package}){settings}"


def _protocols(facts: ExportFacts) -> Iterator[str]:
    if facts.record is None:
        return
    metrics = facts.record.metrics
    used = dict.fromkeys(
        metric.protocol for name, metric in metrics.items() if name in QUALITY or "protocol" in metric.detail
    )
    for protocol in used:
        found = facts.protocols.get(protocol)
        if found is not None and found.get("engine", facts.engine) == facts.engine:
            yield f"## Protocol {protocol}"
            yield ""
            yield from _table(("", ""), [(key, f"`{json.dumps(value)}`") for key, value in found.items()])
            yield ""


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for row in rows:
        yield f"| {' | '.join(text.replace('|', chr(92) + '|') for text in row)} |"
