"""What may lie in the way in a run's folder: one sentence each, and what was computed is kept and shown."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import bench_plugins
import pytest

from pqbench.cli.main import run_command_line

Capture = pytest.CaptureFixture[str]
PLUGINS = Path(bench_plugins.__file__)
RUN = ["run", "-w", "tiny", "-n", "16", "--engines", "none", "-m", "cheap", "-o", "run"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the test's methods, a cache and a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(PLUGINS, folder / "pqbench_plugins.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PQBENCH_CACHE", "cache")
        assert run_command_line(RUN) == 0
    return folder


@pytest.fixture
def here(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Path:
    """A copy of the finished run as the current folder; returns the run's folder."""
    copy = tmp_path / "here"
    shutil.copytree(finished, copy)
    monkeypatch.chdir(copy)
    monkeypatch.setenv("PQBENCH_CACHE", "cache")
    capsys.readouterr()
    return Path("run")


def in_the_way(path: Path) -> None:
    """A folder, not empty, in place of a file."""
    path.unlink(missing_ok=True)
    path.mkdir()
    (path / "precious").touch()


def only_error(capsys: Capture) -> str:
    """The sentence, which is one line and the last."""
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("Error: ")] == lines[-1:]
    return lines[-1]


@pytest.mark.parametrize("command", [RUN, ["report", "run"], ["report", "run", "--write"]])
@pytest.mark.parametrize("name", ["manifest.json", "records.jsonl"])
def test_a_folder_in_place_of_what_is_read(here: Path, capsys: Capture, name: str, command: list[str]) -> None:
    in_the_way(here / name)
    assert run_command_line(command) == 2
    assert f"{here / name} cannot be read (Is a directory): mend it, or give" in only_error(capsys)
    assert (here / name / "precious").exists()


def test_a_folder_in_place_of_the_comparisons(here: Path, capsys: Capture) -> None:
    in_the_way(here / "comparisons.json")
    assert run_command_line(["report", "run"]) == 2
    assert "comparisons.json cannot be read (Is a directory)" in only_error(capsys)
    assert run_command_line(RUN) == 2
    assert "comparisons.json cannot be read (Is a directory)" in only_error(capsys)
    assert (here / "comparisons.json" / "precious").exists()


@pytest.mark.parametrize("name", ["table.md", "table.html", "samples.png"])
def test_a_folder_in_place_of_what_is_written(here: Path, capsys: Capture, name: str) -> None:
    in_the_way(here / name)
    assert run_command_line(["report", "run", "--write"]) == 2
    assert f"Error: {here / name} cannot be written (Is a directory): make its folder writable" in only_error(capsys)
    assert run_command_line(RUN) == 2
    shown = capsys.readouterr()
    assert f"Error: {here / name} cannot be written (Is a directory)" in shown.err
    assert shown.out.startswith("tiny, budget quick")
    assert not list(here.glob(".*"))


@pytest.mark.parametrize("name", ["cells", "logs"])
def test_a_file_in_place_of_a_folder_is_found_before_any_work(here: Path, capsys: Capture, name: str) -> None:
    shutil.rmtree(here / name, ignore_errors=True)
    (here / name).touch()
    assert run_command_line([*RUN, "--mode", "force"]) == 2
    shown = capsys.readouterr()
    assert (
        shown.err
        == f"Error: The results folder {here / name} cannot be written (Not a directory): pass another --output.\n"
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write and read everywhere")
def test_what_may_not_be_read_or_written(here: Path, capsys: Capture) -> None:
    here.chmod(0o500)
    assert run_command_line(["report", "run", "--write"]) == 2
    assert "cannot be written (Permission denied)" in only_error(capsys)
    here.chmod(0o700)
    (here / "records.jsonl").chmod(0)
    assert run_command_line(["report", "run"]) == 2
    assert "records.jsonl cannot be read (Permission denied)" in only_error(capsys)
    here.chmod(0)
    assert run_command_line(["report", "run"]) == 2
    assert "run cannot be read (Permission denied)" in only_error(capsys)
    here.chmod(0o700)


@pytest.mark.parametrize(
    "arguments",
    [
        ["report", ""],
        ["report", "run", "-o", ""],
        ["compare", ""],
        ["audit", ""],
        ["diagnose", ""],
        ["export", "", "fp", "out"],
        ["export", "run", "fp", ""],
        ["score", ""],
        ["score", "run", "--reference", ""],
        ["score", "run", "--fp-images", ""],
        ["score", "run", "--prompts", ""],
        [*RUN[:-1], ""],
        [*RUN, "--cache", ""],
        [*RUN, "--weights", ""],
        ["fetch", "--folder", ""],
        ["calibrate", "ndtc", "-o", ""],
    ],
)
def test_an_empty_path_is_not_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command_line(arguments) == 2
    assert only_error(capsys).startswith("Error: A path that was given is empty")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["report", "compare", "audit", "diagnose"])
def test_a_folder_of_something_else_is_no_run(tmp_path: Path, capsys: Capture, command: str) -> None:
    (tmp_path / "0.png").touch()
    assert run_command_line([command, str(tmp_path)]) == 2
    assert f"{tmp_path} holds no run (no manifest.json): give the folder that `pqbench run` wrote." in only_error(
        capsys
    )
