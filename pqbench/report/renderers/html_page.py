"""The table as one HTML page that needs nothing else: no network, no other file. Click a heading to sort by it."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import groupby
from string import Template

from pqbench.report.renderers.latex import latex
from pqbench.report.tables.table import ARROWS, Column, Section, Table, TableCell

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --line: #8886; --soft: #8881; --best: #0a7d4f; --bad: #c0392b; }
@media (prefers-color-scheme: dark) { :root { --best: #4fd19b; --bad: #ff8a7a; } }
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem auto; padding: 0 1.5rem; max-width: 120rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .3rem .5rem; text-align: right; vertical-align: bottom; }
th.left, td.left { text-align: left; }
thead tr:last-child th { border-bottom: 2px solid var(--line); }
thead th.group { border-bottom: 1px solid var(--line); text-align: center; font-weight: 600; }
tbody tr:nth-child(even) { background: var(--soft); }
tbody td { border-bottom: 1px solid var(--line); }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid; }
th[aria-sort=ascending] button::after { content: " ▴"; }
th[aria-sort=descending] button::after { content: " ▾"; }
small { color: #777; font-size: .85em; }
.best { font-weight: 700; color: var(--best); }
.bad { color: var(--bad); }
.notes { font-size: .87em; max-width: 75rem; overflow-wrap: anywhere; }
img { max-width: 100%; background: #fff; border-radius: 4px; }
pre { overflow-x: auto; background: var(--soft); padding: 1rem; font-size: .8em; }
</style>
</head>
<body>
<h1>$title</h1>
$sections
$figures
<details><summary>LaTeX of these tables</summary><pre>$latex</pre></details>
<script>
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => {
  const head = button.closest("th"), body = head.closest("table").tBodies[0], column = Number(head.dataset.column);
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.closest("thead").querySelectorAll("th")) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = row => row.cells[column].dataset.value ?? "";
  const compare = (a, b) => {
    if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");  // nothing measured: always last
    const [x, y] = [Number(key(a)), Number(key(b))];
    const order = Number.isNaN(x) || Number.isNaN(y) ? key(a).localeCompare(key(b)) : x - y;
    return down ? -order : order;
  };
  body.append(...[...body.rows].sort(compare));
});
</script>
</body>
</html>
""")


def html_page(table: Table, figures: Mapping[str, bytes] | None = None) -> str:
    """The whole page. `figures`: PNG files by caption, stored inside the page."""
    return PAGE.substitute(
        title=escape(table.title),
        sections="\n".join(_section(section, len(table.sections) > 1) for section in table.sections),
        figures="\n".join(_figure(caption, png) for caption, png in (figures or {}).items()),
        latex=escape(latex(table)),
    )


def _section(section: Section, has_title: bool) -> str:
    title = f"<h2>{escape(section.title)}</h2>\n" if has_title else ""
    rows = "\n".join(_row(row, section.columns) for row in section.rows)
    head = _groups(section.columns) + _headings(section.columns)
    table = f"<table>\n<thead>\n{head}</thead>\n<tbody>\n{rows}\n</tbody>\n</table>"
    return f'<section>\n{title}<div class="wide">{table}</div>\n{_under(section)}</section>'


def _groups(columns: Sequence[Column]) -> str:
    if not any(column.group for column in columns):
        return ""
    cells = []
    for group, members in groupby(columns, key=lambda column: column.group):
        style = ' class="group"' if group else ""
        cells.append(f'<th colspan="{len(list(members))}"{style}>{escape(group)}</th>')
    return f"<tr>{''.join(cells)}</tr>\n"


def _headings(columns: Sequence[Column]) -> str:
    cells = (
        f'<th scope="col" data-column="{i}" class="{column.align}"><button>{_heading(column)}</button></th>'
        for i, column in enumerate(columns)
    )
    return f"<tr>{''.join(cells)}</tr>\n"


def _heading(column: Column) -> str:
    unit = f"<br><small>{escape(column.unit)}</small>" if column.unit else ""
    return f"{escape(column.title)} {ARROWS[column.direction]}".rstrip() + unit


def _row(row: Sequence[TableCell], columns: Sequence[Column]) -> str:
    cells = (_cell(cell, column) for cell, column in zip(row, columns, strict=True))
    return f"<tr>{''.join(cells)}</tr>"


def _cell(cell: TableCell, column: Column) -> str:
    classes = " ".join(_classes(cell, column))
    value = "" if cell.value is None else f' data-value="{escape(str(cell.value))}"'
    notes = f"<sup>{cell.marks}</sup>" if cell.notes else ""
    return f'<td class="{classes}"{value}{_interval(cell)}>{escape(cell.text)}{notes}</td>'


def _interval(cell: TableCell) -> str:
    """Shown when the pointer rests on the value: most columns have no room for it."""
    if cell.low is None or cell.high is None:
        return ""
    return f' title="95 % interval: {cell.low:.6g} to {cell.high:.6g}"'


def _classes(cell: TableCell, column: Column) -> Iterator[str]:
    yield column.align
    if cell.is_best:
        yield "best"
    if cell.text in ("failed", "skipped"):
        yield "bad"


def _under(section: Section) -> str:
    lines = "".join(f"<p>{escape(line)}</p>\n" for line in section.caption)
    notes = "".join(f"<li>{escape(text)}</li>\n" for text in section.footnotes)
    return f'<div class="notes">\n{lines}{f"<ol>{notes}</ol>" if notes else ""}</div>\n'


def _figure(caption: str, png: bytes) -> str:
    data = base64.b64encode(png).decode()
    text = escape(caption)
    return f'<figure><img alt="{text}" src="data:image/png;base64,{data}"><figcaption>{text}</figcaption></figure>'
