"""`pqbench run --metrics clip_score` and `pqbench fetch clip_score` as a user meets them."""

from __future__ import annotations

import codecs
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from clip_files import ClipFiles
from PIL import Image

from pqbench.cli.main import run_command_line
from pqbench.contracts import Weights
from pqbench.scoring.clip.nets import NETS, ClipNet
from pqbench.scoring.metrics import clip_score
from pqbench.testing.conditional import TinyText
from pqbench.testing.inception import random_images

RUN = ["run", "-m", "fp", "-n", "8", "--engines", "none", "--metrics", "clip_score", "--json"]


@pytest.fixture
def here(plugins: Path, tmp_path: Path, clip_files: ClipFiles, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for runs, with a cache of its own, while the plugins and CLIP's files are found."""
    monkeypatch.chdir(plugins)
    monkeypatch.setenv("PQBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_a_run_of_a_text_workload_has_the_column(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line([*RUN, "-w", "tiny-text", "-o", str(here / "run")]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert cell["clip_score_low"] < cell["clip_score"] < cell["clip_score_high"]
    assert run_command_line([*RUN, "-w", "tiny", "-o", str(here / "other")]) == 2
    assert "it is for text models, and tiny has no prompts" in capsys.readouterr().err


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight images in a folder, 0.png to 7.png."""
    monkeypatch.setenv("PQBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "photos"
    folder.mkdir()
    for i, image in enumerate(random_images(8, 8)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    return folder


PROMPTS = [f"{count} red apples on a table" for count in ("no", "two", "three", "four", "five", "six", "seven", "many")]


def clip_score_of(photos: Path, prompts: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    arguments = ["score", str(photos), "-w", "tiny", "--metrics", "clip_score", "--prompts", str(prompts), "--json"]
    assert run_command_line(arguments) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_prompts_are_lines_or_a_list_or_go_by_file_names(
    photos: Path, tmp_path: Path, clip_files: ClipFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, rows, names, others = (tmp_path / name for name in ("a.txt", "b.json", "c.json", "d.txt"))
    marked, marked_rows = tmp_path / "e.txt", tmp_path / "f.json"
    lines.write_text("\n".join(PROMPTS) + "\n")
    rows.write_text(json.dumps(PROMPTS))
    names.write_text(json.dumps({f"{i}.png": PROMPTS[i] for i in reversed(range(8))} | {"unused.png": ""}))
    others.write_text("\n".join(PROMPTS[::-1]))
    marked.write_bytes(codecs.BOM_UTF8 + "\r\n".join(PROMPTS).encode())  # as an editor on Windows saves it
    marked_rows.write_bytes(codecs.BOM_UTF8 + rows.read_bytes())
    found = [clip_score_of(photos, path, capsys) for path in (lines, rows, names, marked, marked_rows)]
    scores = [each["metrics"]["clip_score"] for each in found]
    assert all(each == scores[0] for each in scores)
    assert len({each["prompts_sha256"] for each in found}) == 1
    assert scores[0]["detail"]["protocol"]["prompts_sha256"] == found[0]["prompts_sha256"]
    shuffled = clip_score_of(photos, others, capsys)["metrics"]["clip_score"]
    assert shuffled["value"] != pytest.approx(scores[0]["value"], rel=1e-6)
    assert shuffled["protocol"] != scores[0]["protocol"]


def test_images_of_a_run_with_its_prompts_score_as_the_run_did(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line([*RUN, "-w", "tiny-text", "-o", str(here / "run")]) == 0
    capsys.readouterr()
    (record,) = map(json.loads, (here / "run" / "records.jsonl").read_text().splitlines())
    key = next(stage["key"] for stage in record["stages"] if stage["stage"] == "sample")
    images = here / "images.safetensors"
    shutil.copy(here / "cache" / key / "images.safetensors", images)
    prompts = here / "prompts.txt"
    prompts.write_text("\n".join(TinyText().prompts(0, range(8))))
    found = clip_score_of(images, prompts, capsys)
    assert found["metrics"]["clip_score"]["value"] == record["metrics"]["clip_score"]["value"]
    assert found["prompts_sha256"] == record["metrics"]["clip_score"]["detail"]["protocol"]["prompts_sha256"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "one\ntwo", "has 2 prompts for the 8 images of"),
        ("a.txt", "\n".join(["one", " ", *PROMPTS[2:]]), "a.txt is blank: remove it, or give a .json list"),
        ("a.txt", "\n".join(PROMPTS) + "\n\n", "Line 9 of"),
        ("a.txt", "", "Line 1 of"),
        ("a.txt", b"\xff\xfe", "are not text in UTF-8"),
        ("a.json", "[1,", "are not JSON"),
        ("a.json", '"one"', "neither a list nor an object"),
        ("a.json", json.dumps([*PROMPTS[:7], 7]), "Prompt 7 of"),
        ("a.json", json.dumps({"0.png": "one"}), "has no prompt for 1.png, nor for 6 other images"),
        ("a.csv", "one", "is neither a .txt file, a line for each image, nor a .json file"),
        ("missing.txt", None, "cannot be read (No such file or directory)"),
    ],
)
def test_prompts_that_do_not_fit_are_one_sentence(
    name: str, content: str | bytes | None, message: str, photos: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert run_command_line(["score", str(photos), "-w", "tiny", "--prompts", str(path)]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert len(shown.splitlines()) == 1


def test_lines_cannot_follow_names_that_sort_otherwise_than_they_count(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "2.png").rename(photos / "10.png")
    (tmp_path / "a.txt").write_text("\n".join(PROMPTS))
    assert run_command_line(["score", str(photos), "-w", "tiny", "--prompts", str(tmp_path / "a.txt")]) == 2
    assert "do not sort as they count (see 10.png)" in capsys.readouterr().err


def test_without_prompts_the_command_says_how_to_give_them(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["score", str(photos), "-w", "tiny", "--metrics", "clip_score"]) == 2
    assert "it needs the prompt of each image: give --prompts FILE" in capsys.readouterr().err


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
