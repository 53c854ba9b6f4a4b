"""`pqbench run --metrics clip_score` and `pqbench fetch clip_score` as a user meets them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from clip_files import ClipFiles

from pqbench.cli.main import run_command_line
from pqbench.contracts import Weights
from pqbench.evaluation.clip.nets import NETS, ClipNet
from pqbench.evaluation.metrics import clip_score


def test_a_run_of_a_text_workload_has_the_column(
    plugins: Path, tmp_path: Path, clip_files: ClipFiles, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(plugins)
    monkeypatch.setenv("PQBENCH_CACHE", str(tmp_path / "cache"))
    arguments = ["run", "-m", "fp", "-n", "8", "--engines", "none", "--metrics", "clip_score", "--json"]
    assert run_command_line([*arguments, "-w", "tiny-text", "-o", str(tmp_path / "run")]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert cell["clip_score_low"] < cell["clip_score"] < cell["clip_score_high"]
    assert run_command_line([*arguments, "-w", "tiny", "-o", str(tmp_path / "other")]) == 2
    assert "it is for text models, and tiny has no prompts" in capsys.readouterr().err


def test_scoring_a_folder_of_images_has_no_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import save_file

    from pqbench.testing.inception import random_images

    save_file({"images": random_images(8, 8)}, tmp_path / "images.safetensors")
    assert (
        run_command_line(["score", str(tmp_path / "images.safetensors"), "-w", "tiny", "--metrics", "clip_score"]) == 2
    )
    assert "it needs the prompt of each image, which only a run of a text model has" in capsys.readouterr().err


def test_weights_are_listed_and_fetched_by_the_metrics_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source.pt"
    source.write_bytes(b"towers")
    sha256 = hashlib.sha256(b"towers").hexdigest()
    large = ClipNet("ViT-L-14-quickgelu", "OpenAI", Weights("large.pt", source.as_uri(), sha256, 6, "MIT"))
    monkeypatch.setattr(clip_score, "NETS", {**NETS, "ViT-L-14": large})
    monkeypatch.setenv("PQBENCH_WEIGHTS", str(tmp_path / "weights"))
    assert run_command_line(["fetch"]) == 0
    rows = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if "clip_score" in line}
    assert rows["clip_score"][1:] == ["ViT-B-32.pt", "40d365715913…", "absent", "MIT"]
    assert set(rows) == {"clip_score", *(f"clip_score[net={name}]" for name in list(NETS)[1:])}
    assert run_command_line(["fetch", "clip_score[net=ViT-L-14]"]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "weights" / "large.pt"), "sha256", sha256, "(verified)"]
    assert run_command_line(["fetch", "fd"]) == 0
    assert capsys.readouterr().out == "fd needs no weights.\n"
    assert run_command_line(["fetch", "clip_score[net=ViT-L]"]) == 2
    assert "one of ViT-B-32" in capsys.readouterr().err
