"""`write_report` and `pqbench report`: files and output of a whole run folder."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from report_runs import typical_records

from pqbench.cli.main import run_command_line
from pqbench.report.write import write_report
from pqbench.results.store import RunFolder


def test_all_files_are_written_twice_the_same(run: RunFolder) -> None:
    written = write_report(run)
    assert {path.name for path in written} >= {
        "table.md",
        "table.tex",
        "table.csv",
        "table.html",
        "quality_latency.png",
    }
    assert any(path.name.startswith("trace-pqcad-w4a4") for path in written)
    first = {path: path.read_bytes() for path in written}
    write_report(run)
    assert {path: path.read_bytes() for path in written} == first
    assert {path.name for path in run.path.iterdir()} == {path.name for path in written} | {
        "manifest.json",
        "records.jsonl",
    }


def test_html_page_needs_nothing_from_outside(run: RunFolder) -> None:
    write_report(run)
    page = (run.path / "table.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", page)
    assert "@import" not in page
    assert page.count("data:image/png;base64,") >= 2


@pytest.mark.parametrize(
    ("form", "start"),
    [("markdown", "# fashion"), ("latex", "% needs"), ("csv", "method,"), ("json", "{"), ("html", "<!doctype html>")],
)
def test_each_format_on_standard_output(
    run: RunFolder, capsys: pytest.CaptureFixture[str], form: str, start: str
) -> None:
    assert run_command_line(["report", str(run.path), "--format", form]) == 0
    assert capsys.readouterr().out.startswith(start)


def test_terminal_is_the_default(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["report", str(run.path)]) == 0
    assert "pqcad" in capsys.readouterr().out


def test_json_switch(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["report", str(run.path), "--json"]) == 0
    assert [cell["label"] for cell in json.loads(capsys.readouterr().out)["cells"]] == [
        record.label for record in typical_records()
    ]


def test_output_goes_to_a_file(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "new" / "cells.csv"
    assert run_command_line(["report", str(run.path), "-f", "csv", "-o", str(target)]) == 0
    assert capsys.readouterr().out == ""
    assert len(list(csv.DictReader(io.StringIO(target.read_text())))) == len(typical_records())


def test_write_switch_writes_the_files(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["report", str(run.path), "--write"]) == 0
    assert "table.tex" in capsys.readouterr().err
    assert (run.path / "quality_latency.svg").exists()


def test_line_cut_short_is_a_note_and_the_rest_is_shown(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with run.records_path.open("ab") as file:
        file.write(b'{"schema_version": 1, "ce')
    assert run_command_line(["report", str(run.path), "-f", "csv"]) == 0
    output = capsys.readouterr()
    assert "cut short" in output.err
    assert len(output.out.splitlines()) == 1 + len(typical_records())


def test_folder_without_a_run_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "holds no run" in error
    assert len(error.strip().splitlines()) == 1


def test_run_without_records_has_a_report(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run.records_path.unlink()
    write_report(run)
    assert run_command_line(["report", str(run.path)]) == 0
    assert "fashion" in capsys.readouterr().out


def test_csv_needs_neither_torch_nor_matplotlib(run: RunFolder) -> None:
    code = (
        "import sys; from pqbench.cli.main import run_command_line as main;"
        f"assert main(['report', {str(run.path)!r}, '-f', 'csv']) == 0;"
        "heavy = {'torch', 'matplotlib', 'pandas', 'openvino'} & set(sys.modules); assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_chosen_columns_keep_what_names_a_row(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["report", str(run.path), "-f", "markdown", "--columns", "stored_bytes,*@openvino/1"]) == 0
    (heading,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("| Method"))
    assert [cell.strip() for cell in heading.strip("|").split("|")] == [
        "Method",
        "Bits (W/A)",
        "Steps",
        "Size (MB) ↓",
        "openvino, batch 1: latency (ms/image) ↓",
        "openvino, batch 1: speed-up (×) ↑",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--columns", "fid"], r"No column is called fid\. Did you mean fd\? The columns are method, .*stored_bytes"),
        (["--columns", "fd", "--format", "csv"], r"csv is for programs and always has every column"),
    ],
)
def test_columns_that_cannot_be_shown_are_one_sentence(
    run: RunFolder, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert run_command_line(["report", str(run.path), *arguments]) != 0
    shown = capsys.readouterr()
    assert re.search(sentence, shown.err)
    assert not shown.out
