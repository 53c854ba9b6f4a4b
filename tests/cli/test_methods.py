"""`pqbench methods`, and `--ablation` of run and plan."""

from __future__ import annotations

import json
from pathlib import Path

import bench_plugins
import pytest

from pqbench.cli.main import run_command_line
from pqbench.components.grammar import parse_methods
from pqbench.results.store import RunFolder

PLUGINS = Path(bench_plugins.__file__)
TINY = ["-w", "tiny", "-n", "16", "--engines", "none"]
ABLATION = """
Cheap.ablation = {
    "whole": "cheap",
    "coarser": "cheap[w=2]",
    "spelt out": "cheap[slow=0.0]",
    "absent": "cheap[quantizer=nowhere]",
}
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pqbench_plugins.py").write_text(PLUGINS.read_text() + ABLATION)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PQBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_methods_are_listed_with_what_they_are_made_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["methods", "list", "--json"]) == 0
    methods = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert (methods["fp"]["precision"], methods["fp"]["quantizer"]) == ("w32a32", "")
    assert [methods["pqcad"][role] for role in ("calibration", "quantizer", "distiller")] == [
        "ndtc",
        "progressive",
        "cad",
    ]
    assert methods["cheap"]["distribution"] == "local"
    assert run_command_line(["methods", "list"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("rtn ")]
    assert line.split()[1:4] == ["w4a4", "uniform", "minmax"]


def test_the_variants_are_one_line_for_the_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["methods", "ablation", "cheap"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "cheap,cheap[w=2]\n"
    assert "Left out of the ablation of cheap: absent (There is no quantizer 'nowhere'" in shown.err
    assert run_command_line(["methods", "ablation", "pqcad"]) == 0
    assert len(parse_methods(capsys.readouterr().out)) > 4


def test_what_each_changes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["methods", "ablation", "cheap", "--explain"]) == 0
    lines = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    assert lines["whole"].endswith("nothing")
    assert lines["coarser"].endswith("precision w4a4 -> w2a4")
    assert "the same as: whole" in lines["spelt out"]
    assert "left out: There is no quantizer" in lines["absent"]


def test_a_run_takes_them_beside_other_methods(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["run", *TINY, "-o", "run", "--ablation", "cheap", "-m", "cheap[a=8]"]) == 0
    labels = [record.label for record in RunFolder.existing("run").current_records()]
    assert labels == ["fp", "cheap[a=8]", "cheap", "cheap[w=2]"]
    capsys.readouterr()

    def planned(*arguments: str) -> list[str]:
        assert run_command_line(["plan", *TINY, "--json", *arguments]) == 0
        return [cell["cell"] for cell in json.loads(capsys.readouterr().out)["cells"]]

    assert planned("--ablation", "cheap") == planned("-m", "cheap,cheap[w=2]")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan"], "No method is asked for: give --methods"),
        (["run", "-o", "run"], "No method is asked for: give --methods"),
        (["plan", "--ablation", "rtn"], "The method rtn declares no ablation; these do: "),
        (["plan", "--ablation", "pqcat"], "Did you mean pqcad"),
        (["methods", "ablation", "pqcat"], "Did you mean pqcad"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert run_command_line(arguments) == 2
    assert message in capsys.readouterr().err
    assert not Path("run").exists()
