"""`pqbench ladder` as a user meets it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import bench_plugins
import pytest

from pqbench.cli.main import run_command_line
from pqbench.sanity import climbing

PLUGINS = Path(bench_plugins.__file__)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(PLUGINS, tmp_path / "pqbench_plugins.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PQBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_method_s_rungs_and_its_exit_code(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Calibrated on pure noise, W8A8 is near only in words; the models of the second climb come from the cache."""
    monkeypatch.setattr(climbing, "ERROR_LIMIT", 1.0)
    command = ["ladder", "cheap[distiller=copy,correction=none]", "-w", "tiny", "--bits", "2,8", "-n", "2"]
    assert run_command_line([*command, "--engines", "none", "--json"]) == 0
    found = {rung["name"]: rung for rung in json.loads(capsys.readouterr().out)}
    assert list(found) == ["identity", "near", "weights", "activations", "packed"]
    assert all(rung["passed"] for rung in found.values())

    monkeypatch.setattr(climbing, "ERROR_LIMIT", 1e-9)
    assert run_command_line([*command, "--engines", "none"]) == 1
    shown = capsys.readouterr()
    assert "near does not hold. Look at ranges" in shown.out
    assert "FAILED" in shown.out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["fp"], "fp has no quantizer, which is what the ladder checks"),
        (["cheap,failing"], "names 2 methods"),
        (["chep"], "There is no method 'chep'"),
        (["cheap", "--bits", "4"], "give two or more of 2 to 8"),
        (["cheap", "--bits", "4,9"], "give two or more of 2 to 8"),
        (["failing"], "cannot be made: "),
    ],
)
def test_what_has_no_ladder_is_one_sentence(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert run_command_line(["ladder", *arguments, "-w", "tiny", "--engines", "none"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("Error: ")
    assert sentence in error
