"""`lpips_to_fp` through the commands: weights fetched, found in a folder, wrong, damaged or absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lpips_files
import pytest
import torch
from safetensors.torch import load_file, save_file

from pqbench.cli.main import run_command_line
from pqbench.scoring.lpips.distance import open_lpips
from pqbench.scoring.lpips.nets import NETS


@pytest.fixture(scope="module")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lpips_files.write_trunk("alex", tmp_path_factory.mktemp("published") / "alexnet-owt-7be5be79.pth")


@pytest.fixture
def here(tmp_path: Path, plugins: Path, trunk: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The plugins' folder, caches of the test's own, and a random trunk in the place of the published one."""
    monkeypatch.chdir(plugins)
    monkeypatch.setenv("PQBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PQBENCH_WEIGHTS", str(tmp_path / "own"))
    lpips_files.pin("alex", trunk, monkeypatch)
    return tmp_path


def run(here: Path, *arguments: str, workload: str = "enlarged", metrics: str = "fd,lpips_to_fp") -> int:
    fixed = ["-m", "cheap,cheap[w=2,a=2]", "-n", "16", "--engines", "none", "-o", str(here / "run")]
    return run_command_line(["run", "-w", workload, "--metrics", metrics, *fixed, *arguments])


def records(here: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (here / "run" / "records.jsonl").read_text().splitlines()]


def images(here: Path, record: dict[str, Any]) -> torch.Tensor:
    key = next(stage["key"] for stage in record["stages"] if stage["stage"] == "sample")
    return load_file(here / "cache" / key / "images.safetensors")["images"]


def test_a_run_with_fetched_weights(here: Path, trunk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = here / "fetched"
    assert run_command_line(["fetch", "lpips_to_fp", "--folder", str(folder)]) == 0
    assert run(here, "--weights", str(folder)) == 0
    fp, cheap, cheaper = records(here)
    assert "lpips_to_fp" not in fp["metrics"]
    found = cheap["metrics"]["lpips_to_fp"]
    expected = open_lpips(NETS["alex"], trunk)(images(here, cheap), images(here, fp))
    assert found["value"] == pytest.approx(float(expected.mean()), rel=1e-6)
    assert found["low"] < found["value"] < found["high"]
    assert found["value"] < cheaper["metrics"]["lpips_to_fp"]["value"]
    assert found["direction"] == "lower"
    protocol = found["detail"]["protocol"]
    assert protocol["parameters"] == {"net": "alex", "grey": "refuse"}
    assert protocol["weights_sha256"] == NETS["alex"].weights.sha256
    assert protocol["heads_sha256"] == NETS["alex"].heads.sha256
    assert "[-1, 1]" in protocol["pixels"]
    assert found["protocol"] != cheap["metrics"]["fd"]["protocol"]
    capsys.readouterr()

    # Rows are compared by the values of images that were kept: the weights are not asked for again.
    (folder / trunk.name).unlink()
    (here / "run" / "comparisons.json").unlink()
    assert run_command_line(["compare", str(here / "run"), "cheap", "cheap[w=2,a=2]", "--json"]) == 0
    compared = {each["metric"]: each for each in json.loads(capsys.readouterr().out)["comparisons"]}["lpips_to_fp"]
    assert compared["title"] == "LPIPS to FP"
    assert compared["a"]["value"] == found["value"]


def test_without_its_weights_it_says_how_to_get_them(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = NETS["alex"].weights
    assert run(here) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in (weights.file, weights.sha256, str(here / "own"), "`pqbench fetch lpips_to_fp`", weights.url):
        assert part in line
    assert run(here, metrics="fd,lpips_to_fp[net=vgg]") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "vgg16-397923af.pth (sha256 397923af8e79" in line
    assert '`pqbench fetch "lpips_to_fp[net=vgg]"`' in line
    (here / "empty").mkdir()
    assert run(here, "--weights", str(here / "empty")) == 2
    assert f"`pqbench fetch lpips_to_fp --folder {here / 'empty'}`" in capsys.readouterr().err
    extractor = ["--protocol", "fid-clean", "--weights", str(here / "empty")]
    assert run(here, *extractor) == 2
    assert f"`pqbench fetch fid-clean --folder {here / 'empty'}`" in capsys.readouterr().err
    assert not (here / "run").exists()
    assert run_command_line(["plan", "-w", "enlarged", "-m", "cheap", "-n", "16", "--metrics", "all"]) == 0
    assert f"lpips_to_fp (its weights {weights.file} are not in {here / 'own'}: `pqbench fetch" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize("spoilt", ["cut", "other"])
def test_a_file_with_other_bytes_is_not_used(
    spoilt: str, here: Path, trunk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "own").mkdir()
    content = trunk.read_bytes()
    (here / "own" / trunk.name).write_bytes(content[:5000] if spoilt == "cut" else content[:-1] + b"?")
    assert run(here) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"is not {trunk.name}: its sha256 is" in line
    assert NETS["alex"].weights.sha256 in line
    assert ("It has 5,000 bytes instead of" in line) == (spoilt == "cut")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-w", "tiny"], "it needs images of at least 31x31 pixels, and these have 8x8"),
        (["--metrics", "fd,lpips_to_fp[net=squeeze]"], "net=squeeze is out of range: give one of alex, vgg"),
        (["--weights", "nowhere"], "--weights nowhere is no folder of weights"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    arguments: list[str], message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(here, *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_given_images_have_no_partners(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = torch.randint(0, 256, (8, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    save_file({"images": drawn}, here / "made.safetensors")
    made = str(here / "made.safetensors")
    scored = ["score", made, "--protocol", "three", "--reference", made, "--metrics", "lpips_to_fp"]
    assert run_command_line(scored) == 2
    assert "it needs the full-precision model's images of the same noise" in capsys.readouterr().err


def test_fetch_lists_both_nets(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["fetch"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("lpips_to_fp")]
    assert [row[:2] for row in rows] == [
        ["lpips_to_fp", "alexnet-owt-7be5be79.pth"],
        ["lpips_to_fp[net=vgg]", "vgg16-397923af.pth"],
    ]
    assert rows[1][2:] == ["553.4", "397923af8e79…", "absent", "BSD-3-Clause"]
    assert run_command_line(["fetch", "lpips_to_fp", "--offline"]) == 2
    assert "--offline keeps it from being fetched" in capsys.readouterr().err
