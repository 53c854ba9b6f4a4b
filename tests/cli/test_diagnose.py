"""`pqbench diagnose` as a user meets it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import bench_plugins
import pytest

from pqbench.cli.main import run_command_line
from pqbench.testing.tiny import TinyWorkload

PLUGINS = Path(bench_plugins.__file__)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the test's methods, a cache and a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(PLUGINS, folder / "pqbench_plugins.py")
    methods = "cheap,cheap[w=8,a=8],failing"
    arguments = ["-w", "tiny", "-n", "16", "--engines", "none", "-o", "run", "-m", methods]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PQBENCH_CACHE", str(folder / "cache"))
        assert run_command_line(["run", *arguments]) == 1
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A copy of the finished run and its cache, in the current folder."""
    copy = tmp_path / "here"
    shutil.copytree(finished, copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("PQBENCH_CACHE", str(copy / "cache"))
    capsys.readouterr()
    return copy / "run"


def test_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["diagnose", str(run), "-n", "2", "--json"]) == 0
    shown = capsys.readouterr()
    four, eight = json.loads(shown.out)
    assert (four["title"], eight["title"]) == ("cheap w4a4 seed 0", "cheap[w=8,a=8] w8a8 seed 0")
    assert four["timesteps"] == TinyWorkload().timesteps(4).tolist()
    assert all(a < b for a, b in zip(eight["output_errors"], four["output_errors"], strict=True))
    assert "failing w32a32 seed 0: failed before it had a model" in shown.err
    names = sorted(path.suffix for path in (run / "diagnosis").iterdir())
    assert names == [".csv", ".csv", ".json", ".json", ".png", ".png", ".png"]
    # The folder is no stranger to later runs and reports.
    assert run_command_line(["report", str(run)]) == 0


def test_a_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["audit", str(run), "--json"]) == 0
    cells = {cell["label"]: cell for cell in json.loads(capsys.readouterr().out)["cells"]}
    file = cells["cheap"]["file"]["path"]
    assert run_command_line(["diagnose", file, "-w", "tiny", "-n", "2", "-o", str(run.parent / "out")]) == 0
    assert capsys.readouterr().out.startswith("model.safetensors: output ")
    assert (run.parent / "out" / "outputs.png").exists()

    for options, message in {
        (): "give --workload NAME",
        ("-w", "fashion"): "belongs to another architecture",
        ("-w", "cifar"): "no workload 'cifar'",
    }.items():
        assert run_command_line(["diagnose", file, *options]) == 2
        assert message in capsys.readouterr().err


def test_what_cannot_be_diagnosed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["diagnose", str(run.parent / "nothing")]) == 2
    assert "There is nothing at" in capsys.readouterr().err
    assert run_command_line(["diagnose", str(run), "--cache", str(run.parent / "empty")]) == 2
    assert "run it again" in capsys.readouterr().err
    manifest = run / "manifest.json"
    facts = json.loads(manifest.read_text())
    facts["workload"]["fingerprint"] = "0" * 64
    manifest.write_text(json.dumps(facts))
    assert run_command_line(["diagnose", str(run)]) == 2
    assert "is not the model of this run" in capsys.readouterr().err
