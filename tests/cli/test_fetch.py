"""`pqbench fetch`: what it lists, fetches and says."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pqbench.cli.main import run_command_line
from pqbench.contracts import Weights
from pqbench.scoring.extractors import clean_fid

CONTENT = b"weights" * 20_000


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small file in the place of what clean-fid uses; `file:` stands in for the network."""
    source = tmp_path / "source.pt"
    source.write_bytes(CONTENT)
    weights = Weights("small.pt", source.as_uri(), hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), "CC0")
    monkeypatch.setattr(clean_fid, "INCEPTION_SCRIPT", weights)
    monkeypatch.setenv("PQBENCH_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def test_a_listing_says_what_there_is_and_where(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["fetch"]) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if line.startswith("fid-clean"))
    assert row.split() == [
        "fid-clean",
        "small.pt",
        "0.1",
        f"{hashlib.sha256(CONTENT).hexdigest()[:12]}…",
        "absent",
        "CC0",
    ]
    assert "timm:NAME" in out
    assert str(published) in out
    assert not published.exists()


def test_fetching_says_where_the_file_is_and_its_hash(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["fetch", "fid-clean", "--offline"]) == 2
    assert run_command_line(["fetch", "fid-clean"]) == 0
    out, err = capsys.readouterr()
    assert (published / "small.pt").read_bytes() == CONTENT
    assert out.split() == [str(published / "small.pt"), "sha256", hashlib.sha256(CONTENT).hexdigest(), "(verified)"]
    assert "small.pt: 0.1 of 0.1 MB" in err
    assert run_command_line(["fetch", "fid-clean", "--offline"]) == 0
    assert run_command_line(["fetch"]) == 0
    assert "here" in capsys.readouterr().out


def test_another_folder(published: Path, tmp_path: Path) -> None:
    assert run_command_line(["fetch", "fid-clean", "--folder", str(tmp_path / "other")]) == 0
    assert (tmp_path / "other" / "small.pt").is_file()
    assert not published.exists()


def test_a_name_that_nobody_has(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["fetch", "fid-cleen"]) == 2
    assert "Did you mean fid-clean" in capsys.readouterr().err
    assert run_command_line(["fetch", "lpips_to_fpp"]) == 2
    shown = capsys.readouterr().err
    assert "There is no extractor and no metric 'lpips_to_fpp'. Did you mean lpips_to_fp" in shown
    assert "clip_score" in shown
    assert "fd-dinov2" in shown


@pytest.mark.parametrize("names", [["fid-clean"], []])
def test_a_file_in_place_of_the_folder(
    names: list[str], published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "weights.pt"
    file.touch()
    assert run_command_line(["fetch", *names, "--folder", str(file)]) == 2
    assert capsys.readouterr().err.startswith(
        f"Error: {file} is a file, and weights are kept in a folder: give another"
    )
