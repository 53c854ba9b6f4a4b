"""`pqbench export` as a user meets it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pqbench.cli.main import run_command_line
from pqbench.quantization.checkpoint.io import save_checkpoint
from pqbench.testing.tiny import TinyWorkload


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "fp.safetensors"
    save_checkpoint(TinyWorkload().denoiser(), path)
    return path


def test_a_checkpoint_by_itself_is_exported(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "folder"
    assert run_command_line(["export", str(checkpoint), str(folder), "-w", "tiny", "--steps", "2", "--batch", "1"]) == 0
    assert "python sample.py" in capsys.readouterr().out
    assert "in 2 steps" in (folder / "README.md").read_text()
    assert "Nothing: a checkpoint by itself has no record" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["CHECKPOINT"], "give two or three names"),
        (["CHECKPOINT", "out"], "give --workload NAME"),
        (["CHECKPOINT", "out", "-w", "tiny", "--engine", "torch"], "no file format to export into: use --engine openv"),
        (["CHECKPOINT", "out", "-w", "tiny", "--engine", "openvin"], "There is no engine 'openvin'"),
        (["CHECKPOINT", "out", "-w", "tiny", "--batch", "few"], "--batch few is not a batch size"),
        (["CHECKPOINT", "out", "-w", "tiny", "--steps", "3"], "3 sampling steps do not divide"),
        (["CHECKPOINT", ".", "-w", "tiny"], "has files in it"),
        (["nothing", "out", "-w", "tiny"], "There is nothing at nothing"),
        ([".", "out"], "is a folder: give RUN METHOD DIR"),
        ([".", "cheap", "out"], "holds no run"),
    ],
)
def test_what_cannot_be_exported_is_one_sentence(
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    given = [str(checkpoint) if each == "CHECKPOINT" else each for each in arguments]
    assert run_command_line(["export", *given]) == 2
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert len(shown.err.splitlines()) == 1
    assert not Path("out").exists()
