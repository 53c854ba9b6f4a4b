"""`pqbench run` and `pqbench plan` as a user meets them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from pqbench.cli.main import run_command_line
from pqbench.workloads.fashion import Fashion

SMALL = ["-w", "tiny", "-n", "16", "--engines", "none"]


@pytest.fixture
def here(tmp_path: Path, plugins: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's methods in the current folder, and an empty cache; results go to the returned folder."""
    monkeypatch.chdir(plugins)
    monkeypatch.setenv("PQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    return tmp_path


def run(here: Path, *arguments: str) -> int:
    return run_command_line(["run", *SMALL, "-o", str(here / "run"), *arguments])


def test_a_run_says_what_was_fixed_and_ends_with_the_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(here, "-m", "cheap") == 0
    shown = capsys.readouterr()
    assert "Budget quick: 16 images a cell in batches of 64, 200 bootstrap resamples" in shown.err
    protocol = json.loads((here / "run" / "manifest.json").read_text())["protocols"].popitem()[0]
    assert f"Protocol {protocol}" in shown.err
    assert "cheap w4a4 seed 0: quantize  " in shown.err
    assert shown.out.startswith("tiny, budget quick")
    assert all(len(line) <= 100 for line in shown.out.splitlines())
    names = {"manifest.json", "records.jsonl", "table.md", "table.tex", "table.csv", "samples.png"}
    assert names <= {path.name for path in (here / "run").iterdir()}

    assert run(here, "-m", "cheap", "--mode", "read-only") == 0
    assert capsys.readouterr().out == shown.out


def test_json_is_all_that_stdout_gets(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(here, "-m", "cheap[loud=true],failing", "--json") == 1
    shown = capsys.readouterr()
    json.loads(shown.out, parse_constant=pytest.fail)
    assert "a plugin that prints" in shown.err
    assert "failing seed 0 failed: quantize raised RuntimeError: the sum of 2 | 2 is 5 (traceback in logs/" in shown.err
    assert "--mode retry" in shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "cheep"], "Did you mean cheap"),
        (["-m", "cheap[w=0]"], "w=0 is not a precision"),
        (["-m", "cheap[a=99]"], "a=99 is not a precision"),
        (["-m", "cheap[pace=1]"], "no parameter 'pace'"),
        (["-m", "cheap", "--seeds", "x"], "not a list of whole numbers"),
        (["-m", "cheap", "--seeds", "1,1"], "must name each seed once"),
        (["-m", "cheap", "-n", "1"], "at least 2 images"),
        (["-m", "cheap", "-n", "0"], "at least 2 images"),
        (["-m", "cheap", "-w", "cifar"], "no workload 'cifar'"),
        (["-m", "cheap", "--engines", "onnx"], "no engine 'onnx'"),
        (["-m", "cheap", "--device", "tpu"], "use cpu or cuda"),
        (["-m", "cheap", "--mode", "read-only"], "holds no run"),
        (["-m", "cheap", "-p", "cheap"], "write -p no:NAME"),
        (["-m", "cheap", "-p", "no:locl"], "-p no:locl leaves nothing out. Did you mean no:local?"),
        (["-m", "cheap", "-w", "damaged"], "truncated: reinstall"),
    ],
)
def test_mistakes_are_one_sentence_before_any_work(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(here, *arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    last = shown.err.strip().splitlines()[-1]
    assert last.startswith("Error: ")
    assert message in last
    assert not (here / "run" / "records.jsonl").exists()


def test_folders_that_are_no_place_for_results(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "thesis").mkdir()
    (here / "thesis" / "thesis.tex").write_text("precious")
    (here / "newer").mkdir()
    (here / "newer" / "manifest.json").write_text('{"schema_version": 99, "pqbench_version": "99.0"}')
    cases = {
        here / "thesis": "is not a run of pqbench",
        here / "newer": "upgrade pqbench",
        here / "thesis" / "thesis.tex" / "run": "cannot be written",
    }
    for folder, message in cases.items():
        assert run_command_line(["run", *SMALL, "-m", "fp", "-o", str(folder)]) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in (here / "thesis").iterdir()] == ["thesis.tex"]
    assert run(here, "-m", "fp", "--cache", str(here / "thesis" / "thesis.tex")) == 2
    assert "pass --cache FOLDER" in capsys.readouterr().err
    assert not (here / "run").exists()


@pytest.mark.parametrize("file", ["denoiser.safetensors", "extractor.safetensors", "reference.safetensors"])
@pytest.mark.parametrize("keep", [100, None])
def test_a_tampered_bundled_model_is_refused(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], file: str, keep: int | None
) -> None:
    copy = here / "fashion"
    shutil.copytree(Fashion.folder, copy)
    content = (copy / file).read_bytes()
    (copy / file).write_bytes(content[:keep] if keep else content[:-1] + bytes([content[-1] ^ 1]))
    monkeypatch.setattr(Fashion, "folder", copy)
    arguments = ["run", "-m", "fp", "-w", "fashion", "-n", "2", "--engines", "none", "-o", str(here / "run")]
    assert run_command_line(arguments) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"Error: {copy / file} is truncated or was changed (sha256 ")
    assert not (here / "run" / "manifest.json").exists()


def test_a_plan_shows_what_is_cached_and_makes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = ["plan", *SMALL, "-m", "cheap"]
    assert run_command_line(plan) == 0
    shown = capsys.readouterr().out
    assert "Budget quick: 16 images a cell" in shown
    assert "quantizer: round (local) slow=0.0, loud=False" in shown
    assert "(cached)" not in shown
    assert not (here / "cache").exists()

    assert run(here, "-m", "cheap") == 0
    capsys.readouterr()
    assert run_command_line([*plan, "--json"]) == 0
    planned = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert all(stage["cached"] for cell in planned["cells"] for stage in cell["stages"])
    manifest = json.loads((here / "run" / "manifest.json").read_text())
    assert [cell["cell"] for cell in planned["cells"]] == manifest["cells"]
    assert planned["protocol"]["id"] in manifest["protocols"]
    assert planned["preset"]["images"] == 16


def test_a_read_only_run_shows_what_was_asked_for_and_says_what_is_missing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(here, "-m", "cheap,cheap[a=6]") == 0
    before = (here / "run" / "records.jsonl").read_bytes()
    capsys.readouterr()
    assert run(here, "-m", "cheap[a=6],cheap[a=8]", "--mode", "read-only", "--json") == 1
    shown = capsys.readouterr()
    cells = json.loads(shown.out)["cells"]
    assert [(cell["label"], cell["status"]) for cell in cells] == [
        ("fp", "ok"),
        ("cheap[a=6]", "ok"),
        ("cheap[a=8]", "skipped"),
    ]
    assert "cheap[a=8] seed 0 skipped: not computed yet, and this is a read-only run." in shown.err

    assert run(here, "-m", "cheap", "-n", "20", "--mode", "read-only") == 1
    shown = capsys.readouterr()
    table = [line for line in shown.out.splitlines() if line.lstrip().startswith(("fp", "cheap"))]
    assert len(table) == shown.out.count("skipped:") == 2
    assert "Protocol none (nothing was measured): budget quick, seeds 0." in shown.out
    assert (here / "run" / "records.jsonl").read_bytes() == before


def test_a_disk_that_is_full_at_the_end_shows_the_table_all_the_same(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mkstemp = tempfile.mkstemp

    def full(*arguments: Any, **settings: Any) -> tuple[int, str]:
        if "table.html" in settings["prefix"]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return mkstemp(*arguments, **settings)

    monkeypatch.setattr(tempfile, "mkstemp", full)
    assert run(here, "-m", "cheap") == 2
    shown = capsys.readouterr()
    assert shown.out.startswith("tiny, budget quick")
    assert shown.err.splitlines()[-1].startswith(f"Error: No space left while writing {here / 'run' / 'table.html'}.")


def test_methods_that_are_asked_for_twice_run_once_and_it_is_said(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    methods = "cheap,cheap[a=4],failing,cheap,failing,fp"
    assert run_command_line(["plan", *SMALL, "-m", methods, "--json"]) == 0
    shown = capsys.readouterr()
    assert [cell["label"] for cell in json.loads(shown.out)["cells"]] == ["fp", "cheap", "failing"]
    assert shown.err.splitlines() == [
        "cheap is asked for 3 times (as cheap, cheap[a=4]): it runs once",
        "failing is asked for twice: it runs once",
    ]
    assert run(here, "-m", "cheap,cheap") == 0
    assert capsys.readouterr().err.splitlines()[0] == "cheap is asked for twice: it runs once"


@pytest.mark.parametrize("command", ["run", "plan"])
def test_a_plugin_that_is_broken_is_named_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    file = tmp_path / "pqbench_plugins.py"
    file.write_text("\n\ndef broken(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PQBENCH_CACHE", str(tmp_path / "cache"))
    assert run_command_line([command, *SMALL, "-m", "rtn"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        f"1 plugin could not be loaded: pqbench_plugins (SyntaxError: invalid syntax ({file}, line 3)); "
        "see pqbench plugins list"
    )
    assert run_command_line([command, *SMALL, "-m", "rtn", "-p", "no:local"]) == 0
    assert "could not be loaded" not in capsys.readouterr().err
