"""Whatever a label or a failure message holds, each format shows it as it is. Judged by independent parsers."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from report_runs import make_manifest, make_record

from pqbench.report.renderers.html_page import html_page
from pqbench.report.renderers.json_document import json_document
from pqbench.report.renderers.latex import escape as escape_latex
from pqbench.report.renderers.latex import latex
from pqbench.report.renderers.markdown import markdown
from pqbench.report.tables.flat import cells_csv
from pqbench.report.tables.results import results_table
from pqbench.report.tables.table import Column, Section, Table, TableCell

NASTY = r"a|b \ `c` *d* _e_ [f](g) <i>&amp;</i> $x$ #1 ~~z~~ {k} 50% ^2 ![p](q) [r][s] -- ,, '' "
TEXTS = st.one_of(
    st.text(alphabet=r"""ab1 |\`*_[]()<>&$#~{}%^!:-,'"=""", max_size=25),
    st.text(
        alphabet=st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Cf", "Zl", "Zp", "Zs")), max_size=25
    ),
)
FAST = settings(max_examples=80, deadline=None)


def one_line(text: str) -> str:
    return " ".join(text.split())


def table_of(text: str) -> Table:
    section = Section(
        "s", (Column("m", "M"), Column("v", "V")), ((TableCell(text), TableCell("1")),), footnotes=(text,)
    )
    return Table("t", (section,))


class _Texts(HTMLParser):
    """The texts of all cells and footnotes of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._open = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._open = tag in ("td", "li")
        if self._open:
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = False

    def handle_data(self, data: str) -> None:
        if self._open:
            self.found[-1] += data


@FAST
@given(TEXTS)
def test_html_shows_every_text(text: str) -> None:
    parser = _Texts()
    parser.feed(html_page(table_of(text)))
    assert [parser.found[0], parser.found[-1]] == [text, text]


@FAST
@given(TEXTS)
def test_markdown_shows_every_text_in_its_cell(text: str) -> None:
    rendered = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(markdown(table_of(text)))
    parser = _Texts()
    parser.feed(rendered)
    assert one_line(parser.found[0]) == one_line(text)
    assert parser.found[1] == "1"
    assert len(re.findall("<td", rendered)) == 2


@FAST
@given(st.lists(TEXTS, min_size=1, max_size=3))
def test_csv_and_json_give_back_what_the_records_hold(texts: list[str]) -> None:
    records = [make_record(f"m{i}", status="failed", reason=text) for i, text in enumerate(texts)]
    assert [row["reason"] for row in csv.DictReader(io.StringIO(cells_csv(records)))] == texts
    document = json.loads(json_document(results_table(records, make_manifest()), records, make_manifest()))
    assert [cell["reason"] for cell in document["cells"]] == texts


@FAST
@given(TEXTS)
def test_latex_leaves_no_active_character(text: str) -> None:
    escaped = escape_latex(text)
    bare = re.sub(r"\\(text[a-z]+\{\}|ldots\{\}|[{}#$%&_])|\\textsuperscript\{[-\d]+\}|\$\\?[a-z-]+\$", "", escaped)
    assert not set(bare.replace("{", "").replace("}", "")) & set('\\#$%&_~^<>|`"')
    assert not re.search(r"--|''|,,|(?<!\{)[\[\]]", bare)
    assert bare.count("{") == bare.count("}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50% & a_b #1 $x$ {y}", r"50\% \& a\_b \#1 \$x\$ \{y\}"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("~^", r"\textasciitilde{}\textasciicircum{}"),
        ("[a]", "{[}a{]}"),
        ("two\nlines", "two lines"),
        ("数≤", r"{[}U+6570{]}$\leq$"),
        ("13.2 – 1", r"13.2 \textendash{} 1"),
        ("–-", r"\textendash{}-"),
    ],
)
def test_latex_of_known_texts(text: str, expected: str) -> None:
    assert escape_latex(text) == expected


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_whatever_the_texts_are(tmp_path: Path) -> None:
    rows = [make_record(f"m{i}", label=NASTY * i, status="failed", reason=NASTY + "\n数 «é»") for i in (1, 2)]
    preamble = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs,graphicx,textcomp}\begin{document}"
    body = latex(results_table(rows, make_manifest()))
    (tmp_path / "paper.tex").write_text(preamble + "\n" + body + r"\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
