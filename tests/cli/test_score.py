"""`pqbench score`: a claim about images is checked with the metrics of runs."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from pqbench.cli.main import run_command_line


def draw(n: int, seed: int = 0, channels: int = 3, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, size, size), generator=generator, dtype=torch.uint8)


@pytest.fixture
def here(tmp_path: Path, plugins: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(plugins)
    monkeypatch.setenv("PQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    save_file({"images": draw(40)}, tmp_path / "real.safetensors")
    np.savez(tmp_path / "made.npz", arr_0=draw(32, seed=1).permute(0, 2, 3, 1).numpy())
    return tmp_path


def score(here: Path, *arguments: str) -> int:
    return run_command_line(["score", str(here / "made.npz"), *arguments])


def test_images_of_a_run_score_as_the_run_did(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reference = ["--protocol", "three", "--reference", str(here / "real.safetensors"), "--metrics", "all"]
    run = ["run", "-w", "tiny", "-n", "24", "--engines", "none", "-m", "cheap", "-o", str(here / "run"), *reference]
    assert run_command_line(run) == 0
    capsys.readouterr()
    records = [json.loads(line) for line in (here / "run" / "records.jsonl").read_text().splitlines()]
    key = next(stage["key"] for stage in records[1]["stages"] if stage["stage"] == "sample")
    save_file(load_file(here / "cache" / key / "images.safetensors"), here / "images.safetensors")
    assert run_command_line(["score", str(here / "images.safetensors"), *reference, "--json"]) == 0
    shown = capsys.readouterr()
    assert "statistics found in the cache" in shown.err
    found = json.loads(shown.out)["metrics"]
    assert {"fd", "kid", "is", "sfid", "precision", "recall", "fd_infinity"} <= found.keys()
    for name, metric in found.items():
        assert metric["value"] == pytest.approx(records[1]["metrics"][name]["value"], rel=1e-9), name
    assert "psnr_to_fp (it needs the full-precision model's images" in shown.err


def test_paired_metrics_of_two_sets_are_those_of_the_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = ["--metrics", "psnr_to_fp,fd_to_fp,fd"]
    run = ["run", "-w", "tiny", "-n", "24", "--engines", "none", "-m", "cheap", "-o", str(here / "run"), *metrics]
    assert run_command_line(run) == 0
    capsys.readouterr()
    records = [json.loads(line) for line in (here / "run" / "records.jsonl").read_text().splitlines()]
    paths = []
    for i, record in enumerate(records):
        key = next(stage["key"] for stage in record["stages"] if stage["stage"] == "sample")
        paths.append(here / f"{i}.safetensors")
        save_file(load_file(here / "cache" / key / "images.safetensors"), paths[-1])
    pair = ["score", str(paths[1]), "-w", "tiny", *metrics, "--fp-images", str(paths[0])]
    assert run_command_line([*pair, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    for name in ("psnr_to_fp", "fd_to_fp", "fd"):
        assert document["metrics"][name]["value"] == pytest.approx(records[1]["metrics"][name]["value"], rel=1e-9), name
    paired, alone = document["metrics"]["psnr_to_fp"], document["metrics"]["fd"]
    assert paired["detail"]["protocol"]["partners_sha256"] == document["fp_images_sha256"]
    assert alone["protocol"] == document["protocol"]["id"] != paired["protocol"]
    assert run_command_line(pair) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"Protocol {paired['protocol']} (PSNR to FP) fixes:" in shown
    assert f"--fp-images {paths[0]}, sha256 {document['fp_images_sha256']}." in shown


@pytest.mark.parametrize(
    ("option", "users"),
    [("--fp-images", ("psnr_to_fp", "ssim_to_fp", "lpips_to_fp", "fd_to_fp")), ("--prompts", ("clip_score",))],
)
def test_what_no_metric_uses_is_said_and_not_among_what_was_judged(
    option: str, users: tuple[str, ...], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = here / "prompts.txt"
    given.write_text("a cat\n" * 32)
    path = str(given if option == "--prompts" else here / "made.npz")
    assert score(here, "-w", "tiny", "--metrics", "fd", "--json") == 0
    alone = json.loads(capsys.readouterr().out)
    assert score(here, "-w", "tiny", "--metrics", "fd", option, path, "--json") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == alone
    (note,) = (line for line in shown.err.splitlines() if path in line and "not used" in line)
    assert note.startswith(f"{option} {path} is not used: of the metrics, ")
    assert all(name in note for name in users)
    assert " fd " not in note
    assert score(here, "-w", "tiny", "--metrics", "fd", option, path) == 0
    assert option not in capsys.readouterr().out


def test_pairs_of_two_folders_go_by_the_names_of_their_files(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("png", "bmp"):
        (here / kind).mkdir()
        for i, image in enumerate(draw(12)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(here / kind / f"{i}.{kind}")
    pair = ["score", str(here / "png"), "-w", "tiny", "--metrics", "psnr_to_fp", "--fp-images"]
    assert run_command_line([*pair, str(here / "bmp"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["psnr_to_fp"]["value"] == 100.0  # the cap: no difference
    (here / "bmp" / "11.bmp").rename(here / "bmp" / "x.bmp")
    assert run_command_line([*pair, str(here / "bmp")]) == 2
    assert f"{here / 'png'} has 11 where {here / 'bmp'} has 2: name the files of pairs alike" in capsys.readouterr().err
    save_file({"images": draw(12)}, here / "array.safetensors")
    assert run_command_line([*pair, str(here / "array.safetensors")]) == 2
    assert "can be paired with. Number them with leading zeros." in capsys.readouterr().err


def test_a_protocol_says_who_decoded_lossy_images(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("jpg", "png"):
        (here / kind).mkdir()
        for i, image in enumerate(draw(20)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(here / kind / f"{i}.{kind}")
        assert run_command_line(["score", str(here / kind), "-w", "tiny", "--metrics", "fd", "--json"]) == 0
        protocol = json.loads(capsys.readouterr().out)["protocol"]
        assert protocol.get("libraries") == {"jpg": f"pillow {version('pillow')}", "png": None}[kind]


def test_a_table_names_the_protocol(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(here, "-w", "tiny") == 0
    shown = capsys.readouterr().out
    assert "FD ↓" in shown
    assert "KID ↓" in shown
    assert "extractor tiny" in " ".join(shown.split())
    assert "32 images, sha256" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "No protocol is named: give --protocol NAME, or --workload NAME"),
        (["--protocol", "three"], "No real images are named: give --reference PATH"),
        (["-w", "fashion"], "images of 8x8 pixels in 3 channels, and those of fashion have 32x32 pixels in 1 channel"),
        (["-w", "tiny", "--reference", "GREY"], "has images of 8x8 pixels in 1 channel"),
        (["-w", "tiny", "--reference", "LARGE"], "has images of 16x16 pixels in 3 channels"),
        (["-w", "tiny", "--metrics", "psnr_to_fp"], "it needs the full-precision model's images of the same noise"),
        (["-w", "tiny", "--metrics", "is"], "the extractor tiny has no logits output"),
        (["-w", "tiny", "--weights", "GREY"], "give --protocol NAME too"),
        (["--protocol", "fid-clean", "--reference", "REAL"], "pqbench fetch fid-clean"),
        (["-w", "tiny", "--fp-images", "GREY"], "has images of 8x8 in grey and"),
        (["-w", "tiny", "--fp-images", "REAL"], "has 40 images for the 32 of"),
        (["-w", "tini"], "Did you mean tiny"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PQBENCH_WEIGHTS", str(here / "no-weights"))
    save_file({"images": draw(40, channels=1)}, here / "grey.safetensors")
    save_file({"images": draw(40, size=16)}, here / "large.safetensors")
    paths = {name: str(here / f"{name.lower()}.safetensors") for name in ("GREY", "LARGE", "REAL")}
    assert score(here, *(paths.get(argument, argument) for argument in arguments)) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert len(shown.err.splitlines()) == 1


def test_grey_images_are_refused_by_an_extractor_of_colour(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"images": draw(40, channels=1)}, here / "grey.safetensors")
    grey = str(here / "grey.safetensors")
    assert run_command_line(["score", grey, "--protocol", "three", "--reference", grey]) == 2
    assert "takes images with 3 channels; these have 1" in capsys.readouterr().err


def test_a_set_against_itself_is_scored_and_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert score(here, "-w", "tiny", "--reference", str(here / "made.npz")) == 0
    shown = capsys.readouterr()
    assert "hold the same images: a set scored against itself" in shown.err
    assert score(here, "-w", "tiny", "--reference", str(here / "real.safetensors")) == 0
    assert "the same images" not in capsys.readouterr().err


def test_the_interval_of_a_value_of_zero_keeps_its_digits(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(
        here / "made.npz",
        arr_0=np.zeros((40, 8, 8, 3), dtype=np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None, None] % 2,
    )
    assert score(here, "-w", "tiny", "--metrics", "precision") == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("Precision"))
    assert row.split()[-2:] == ["[0.0000,", "0.0876]"]  # Wilson's upper end: z^2 / (40 + z^2)


def test_one_image_is_too_few(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"images": draw(1)}, here / "one.safetensors")
    assert run_command_line(["score", str(here / "one.safetensors"), "-w", "tiny"]) == 2
    assert "has 1 image: a distance needs at least 2" in capsys.readouterr().err
