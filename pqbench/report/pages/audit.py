"""The audit of packed checkpoints as people read it: tables at a terminal, plain lines in a pipe."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text
from tabulate import tabulate

from pqbench.inspection.stored_bits import FileAudit, LayerAudit, OperandAudit
from pqbench.results.cell_audit import CellAudit

GAP = 1
"""Spaces between two columns."""


@dataclass(frozen=True)
class Listing:
    """Rows under headings. `numbers` are the columns that are set to the right."""

    headings: tuple[str, ...]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[int]

    def justify(self, column: int) -> Literal["left", "right"]:
        """How a column is set."""
        return "right" if column in self.numbers else "left"


def print_file(audit: FileAudit) -> None:
    """Show one file: what it is, its layers, and what stayed in floating point."""
    console = _console()
    _lines(console, _summary(audit))
    for title, listing in (
        ("Quantized layers", _layers(audit)),
        ("Attention operands", _operands(audit)),
        ("Layers with weights in floating point", _floats(audit)),
    ):
        if listing.rows:
            prefix = _common_prefix(listing) if console.is_terminal else ""
            _lines(console, ["", f"{title} ({len(listing.rows)}{', all below ' + prefix if prefix else ''})"])
            _show(console, _without(prefix, listing))


def print_cells(cells: Sequence[CellAudit]) -> None:
    """Show a run: a line a cell, then the place of each file, so that it can be audited or taken away.

    int and float count the layers with integer weights and with weights in floating point.
    """
    console = _console()
    _show(console, _cells(cells))
    _lines(console, [""])
    for cell in cells:
        title = f"{cell.label} {cell.precision} seed {cell.seed}"
        if cell.file is not None:
            _lines(console, [f"{title}: {cell.file.path}"])
        elif cell.missing:
            _lines(console, [f"{title}: {cell.missing}"])


def _console() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


def _lines(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True)


def _show(console: Console, listing: Listing) -> None:
    if not console.is_terminal:
        _lines(console, [_plain(listing)])
        return
    # The widest name of a U-Net's layer and all else then fit into 80 columns; a longer one goes on in the next line.
    table = RichTable(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    for i, heading in enumerate(listing.headings):
        table.add_column(heading, justify=listing.justify(i), overflow="fold", no_wrap=i > 0)
    for row in listing.rows:
        table.add_row(*map(Text, row))
    console.print(table)


def _common_prefix(listing: Listing) -> str:
    """What all names begin with, in whole parts: said once, it leaves the room that 80 columns need."""
    paths = [row[0].split(".")[:-1] for row in listing.rows]
    shared = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return ".".join(parts[0] for parts in shared)


def _without(prefix: str, listing: Listing) -> Listing:
    if not prefix:
        return listing
    return replace(listing, rows=[(row[0].removeprefix(f"{prefix}."), *row[1:]) for row in listing.rows])


def _plain(listing: Listing) -> str:
    align = [listing.justify(i) for i in range(len(listing.headings))]
    return str(tabulate(listing.rows, listing.headings, tablefmt="plain", colalign=align, disable_numparse=True))


def _summary(audit: FileAudit) -> Iterator[str]:
    quantized = sum(layer.bytes for layer in audit.layers) + sum(operand.bytes for operand in audit.operands)
    floats = sum(layer.bytes for layer in audit.float_layers)
    operands = sum(operand.a_grid != "float" for operand in audit.operands)
    facts = f", {json.dumps(audit.facts)}" if audit.facts else ""
    rows = (
        ("file", audit.path),
        ("format", f"{audit.format_version}, intact: the digest over header and tensors fits{facts}"),
        ("sha256", audit.sha256),
        ("weights", f"{audit.weights:,}, {audit.average_weight_bits:.3f} bits each on average, scales not counted"),
        ("layers", f"{len(audit.layers)} quantized, {len(audit.float_layers)} with weights in floating point"),
        ("attention", f"{operands} operands quantized" if audit.operands else "no operand quantized"),
        ("input grids", _parameter_sets(audit)),
        (
            "bytes",
            f"{audit.file_bytes:,} = {quantized:,} quantized + {floats:,} weights in floating point + "
            f"{audit.other_bytes:,} other parameters + {audit.header_bytes:,} header",
        ),
    )
    for name, value in rows:
        yield f"{name:<12}{value}"


def _parameter_sets(audit: FileAudit) -> str:
    sets = audit.activation_parameter_sets
    if sets > 1:
        return f"up to {sets} parameter sets a layer, over the time steps"
    return "one parameter set a layer" if sets else "none"


def _layers(audit: FileAudit) -> Listing:
    rows = [
        (
            layer.name,
            f"{layer.operation} {_shape(layer.shape)}",
            f"{layer.w_bits} {_short(layer.w_grid)}{f' /{layer.group_size}' if layer.group_size else ''}",
            f"{layer.a_bits} {_short(layer.a_grid)}{_table_size(layer)}",
            f"{layer.bytes:,}",
        )
        for layer in audit.layers
    ]
    return Listing(("layer", "operation", "weight", "input", "bytes"), rows, frozenset({4}))


def _operands(audit: FileAudit) -> Listing:
    rows = [
        (each.name, f"{each.a_bits} {_short(each.a_grid)}{_table_size(each)}", f"{each.bytes:,}")
        for each in audit.operands
    ]
    return Listing(("operand", "input", "bytes"), rows, frozenset({2}))


def _table_size(layer: LayerAudit | OperandAudit) -> str:
    """What is said of an input whose range is not a single static one."""
    if layer.a_grid == "float" or layer.a_parameter_sets == 1:
        return ""
    return f" x{layer.a_parameter_sets}" if layer.a_parameter_sets else " at run time"


def _short(grid: str) -> str:
    return {"symmetric": "sym", "asymmetric": "asym"}.get(grid, grid)


def _floats(audit: FileAudit) -> Listing:
    rows = [(layer.name, _shape(layer.shape), str(layer.bits), f"{layer.bytes:,}") for layer in audit.float_layers]
    return Listing(("layer", "shape", "bits", "bytes"), rows, frozenset((2, 3)))


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _cells(cells: Sequence[CellAudit]) -> Listing:
    headings = ("method", "bits", "seed", "W average", "int", "float", "sets", "bytes", "record")
    return Listing(headings, [_cell(cell) for cell in cells], frozenset(range(2, 8)))


def _cell(cell: CellAudit) -> Sequence[str]:
    start = (cell.label, cell.precision, str(cell.seed))
    if cell.file is None:
        return (*start, "-", "-", "-", "-", "-", "damaged" if cell.problem else "no file")
    file = cell.file
    return (
        *start,
        f"{file.average_weight_bits:.3f}",
        str(len(file.layers)),
        str(len(file.float_layers)),
        str(file.activation_parameter_sets),
        f"{file.file_bytes:,}",
        "differs" if cell.problem else "agrees",
    )
