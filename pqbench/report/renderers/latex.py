"""The table as LaTeX, for booktabs: ready to be \\input into a paper."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby, zip_longest

from pqbench.report.tables.table import ARROWS, Column, Section, Table, TableCell
from pqbench.report.tables.widths import column_blocks

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "#": r"\#",
    "$": r"\$",
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"\textquotedbl{}",
    # A bracket at the start of a row would be taken for the optional argument of the \\ before it.
    "[": "{[}",
    "]": "{]}",
    "–": r"\textendash{}",
    "−": "$-$",
    "×": r"$\times$",
    "≈": r"$\approx$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "→": r"$\rightarrow$",
    "µ": r"$\mu$",
    "±": r"$\pm$",
    "α": r"$\alpha$",
    "‘": r"\textquoteleft{}",
    "’": r"\textquoteright{}",
    "↓": r"$\downarrow$",
    "↑": r"$\uparrow$",
    "∞": r"$\infty$",
    "…": r"\ldots{}",
    "⁻": r"\textsuperscript{--}",
    "³": r"\textsuperscript{3}",
    "λ": r"$\lambda$",
    "ρ": r"$\rho$",
    "μ": r"$\mu$",
    "σ": r"$\sigma$",
    "τ": r"$\tau$",
    "β": r"$\beta$",
    "ε": r"$\epsilon$",
}
_MELTING = "-',"
"""Characters that TeX's fonts join with a twin: -- is a dash, '' and ,, are quotation marks."""

PAGE_CHARACTERS = 78
"""About how many characters of \\footnotesize fit beside each other; wider tables are stacked in blocks."""
LATIN_1_END = "\u0100"
PREAMBLE = "% needs \\usepackage[T1]{fontenc} and \\usepackage{booktabs,graphicx,textcomp}\n"


def latex(table: Table) -> str:
    """A `table*` for each section, with its caption and footnotes, as wide as the page at most."""
    return PREAMBLE + "\n".join(_section(section, table) for section in table.sections)


def escape(text: str) -> str:
    """Text that LaTeX prints as it is, on one line; what pdfLaTeX has no character for is named by its code point."""
    line = " ".join(text.split())
    return "".join(_character(a, b) for a, b in zip_longest(line, line[1:], fillvalue=""))


def _character(character: str, following: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character in _MELTING and character == following:
        return f"{{{character}}}"
    if not character.isprintable():
        return ""
    return character if character < LATIN_1_END else f"{{[}}U+{ord(character):04X}{{]}}"


def _section(section: Section, table: Table) -> str:
    title = table.title if len(table.sections) == 1 else section.title
    lines = [
        r"\begin{table*}[t]",
        r"\centering",
        rf"\caption{{{escape(title)}}}",
        "\n\\par\\medskip\n".join(_tabular(section, block) for block in column_blocks(section, PAGE_CHARACTERS)),
        *_under(section),
        r"\end{table*}",
    ]
    return "\n".join(lines) + "\n"


def _tabular(section: Section, block: Sequence[int]) -> str:
    columns = [section.columns[i] for i in block]
    lines = [
        r"\resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{\footnotesize\setlength{\tabcolsep}{4pt}%",
        rf"\begin{{tabular}}{{{''.join('l' if column.align == 'left' else 'r' for column in columns)}}}",
        r"\toprule",
        *_group_lines(columns),
        _row(escape(column.title) for column in columns),
        _row(_unit(column) for column in columns),
        r"\midrule",
        *(_row(_cell(row[i]) for i in block) for row in section.rows),
        r"\bottomrule",
        r"\end{tabular}}",
    ]
    return "\n".join(lines)


def _group_lines(columns: Sequence[Column]) -> list[str]:
    """The headings of groups, each over a rule of its own."""
    if not any(column.group for column in columns):
        return []
    cells, rules, start = [], [], 1
    for group, members in groupby(columns, key=lambda column: column.group):
        width = len(list(members))
        cells.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(group)}}}" if group else " & " * (width - 1))
        if group:
            rules.append(rf"\cmidrule(lr){{{start}-{start + width - 1}}}")
        start += width
    return [_row(cells), "".join(rules)]


def _unit(column: Column) -> str:
    unit = f"({escape(column.unit)})" if column.unit else ""
    return f"{unit} {escape(ARROWS[column.direction])}".strip()


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: TableCell) -> str:
    text = escape(cell.text)
    if cell.is_best:
        text = rf"\textbf{{{text}}}"
    return text + (rf"\textsuperscript{{{cell.marks}}}" if cell.notes else "")


def _under(section: Section) -> list[str]:
    """Caption lines and footnotes, small, under the table."""
    notes = [rf"\textsuperscript{{{i}}}\,{escape(text)}" for i, text in enumerate(section.footnotes, start=1)]
    lines = [*(escape(line) for line in section.caption), *notes]
    if not lines:
        return []
    return [
        r"\par\smallskip",
        r"\begin{minipage}{\textwidth}\scriptsize",
        *(rf"{x}\par" for x in lines),
        r"\end{minipage}",
    ]
