"""`pqbench compare` as a user meets it."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import bench_plugins
import pytest

from pqbench.cli.main import run_command_line

Capture = pytest.CaptureFixture[str]
PLUGINS = Path(bench_plugins.__file__)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs: one of three rows over three seeds, one of two rows at other bits over one seed."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(PLUGINS, folder / "pqbench_plugins.py")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("PQBENCH_CACHE", "cache")
        for methods, seeds, run in (("cheap,cheap[w=2,a=2]", "0,1,2", "run"), ("cheap", "1", "other")):
            options = ["-w", "tiny", "-n", "16", "--engines", "none", "--seeds", seeds, "-o", run]
            assert run_command_line(["run", "-m", methods, *options]) == 0
    return folder


@pytest.fixture
def here(finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(finished)
    monkeypatch.setenv("PQBENCH_CACHE", "cache")
    monkeypatch.setenv("COLUMNS", "120")
    capsys.readouterr()


def shown(capsys: Capture, *arguments: str) -> str:
    assert run_command_line(["compare", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("here")
def test_two_rows(capsys: Capture) -> None:
    out = shown(capsys, "run", "cheap@w4a4", "fp")
    assert out.startswith("cheap w4a4 (first) against fp w32a32 (second)")
    assert "FD ↓" in out
    assert "paired delta method over images, 16 a seed, seeds 0, 1, 2" in out
    assert "Student's t of the differences between seeds, 2 degrees of freedom" in out
    assert "takes the compressed models as they are" in out
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.usefixtures("here")
def test_all_rows_are_in_their_order_with_every_pair(capsys: Capture) -> None:
    out = shown(capsys, "run", "--metric", "psnr_to_fp", "-f", "markdown")
    order, matrix = out.split("## ")[1:]
    assert [line.split("|")[2].strip() for line in order.splitlines() if line.startswith("| 1 |")] == ["cheap w4a4"]
    assert "| 1 | cheap w4a4 |  | + |" in matrix
    assert "of twenty pairs" not in order
    assert "of twenty pairs" in shown(capsys, "run", "-f", "markdown")


@pytest.mark.usefixtures("here")
def test_one_row_against_the_others_and_two_runs(capsys: Capture) -> None:
    rows = list(csv.DictReader(io.StringIO(shown(capsys, "run", "fp", "-f", "csv"))))
    assert {(row["a"], row["b"]) for row in rows} == {("fp", "cheap"), ("fp", "cheap[w=2,a=2]")}
    assert {row["over"] for row in rows} == {"images", "seeds"}
    document = json.loads(shown(capsys, "run", "other", "--json"))
    assert document["runs"] == ["run", "other"]
    assert {each["a"]["label"] for each in document["comparisons"]} == {"fp", "cheap"}
    assert all(each["a"]["seeds"] == each["b"]["seeds"] == [1] for each in document["comparisons"])
    assert "run (first) against other (second)" in shown(capsys, "run", "other")
    out = shown(capsys, "run", "other", "cheap[w=2,a=2]", "cheap")
    assert "cheap[w=2,a=2] w2a2 (run) (first) against cheap w4a4 (other) (second)" in out


@pytest.mark.usefixtures("here")
def test_a_folder_that_is_called_as_a_row_is_no_run(capsys: Capture) -> None:
    Path("fp").mkdir()
    Path("fp/0.png").touch()
    try:
        assert "cheap w4a4 (first) against fp w32a32 (second)" in shown(capsys, "run", "cheap@w4a4", "fp")
        assert "fp w32a32 (first) against each other row" in shown(capsys, "run", "fp")
    finally:
        shutil.rmtree("fp")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing holds no run"),
        (["run", "chaep", "fp"], "No finished row is called chaep. Did you mean cheap?"),
        (["run", "fp", "cheap", "cheap"], "at most two"),
        (["run", "cache"], "No finished row is called cache."),
        (["run", "./cache/locks"], "cache/locks holds no run (no manifest.json)"),
        (["run", ""], "A path that was given is empty"),
        ([""], "A path that was given is empty"),
        (["run", "--metric", "fdd"], "--metric fdd is not a metric of these images. Did you mean fd?"),
        (["other", "--metric", "psnr_to_fp"], "There are no two rows to compare by psnr_to_fp in other"),
    ],
)
def test_mistakes_are_one_sentence(capsys: Capture, arguments: list[str], message: str) -> None:
    assert run_command_line(["compare", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


@pytest.mark.usefixtures("here")
def test_only_metrics_that_a_run_has_are_offered(capsys: Capture) -> None:
    assert run_command_line(["compare", "run", "--metric", "recall"]) == 2
    assert capsys.readouterr().err.endswith("There are: fd, kid, psnr_to_fp.\n")
    lines = [json.loads(line) for line in Path("run/records.jsonl").read_text().splitlines()]
    Path("few").mkdir()
    shutil.copy("run/manifest.json", "few")
    for record in lines:
        record["metrics"].pop("kid", None)
    Path("few/records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in lines))
    assert run_command_line(["compare", "few", "--metric", "kid"]) == 2
    assert "--metric kid is not a metric of these images." in capsys.readouterr().err
    shutil.rmtree("few")


@pytest.mark.usefixtures("here")
def test_what_is_gone_comes_back_by_the_command_that_is_named(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    shutil.copy("pqbench_plugins.py", tmp_path)
    for name in ("manifest.json", "records.jsonl"):
        shutil.copy(Path("other") / name, tmp_path / "other")
    assert run_command_line(["compare", str(tmp_path / "other"), "--cache", str(tmp_path / "cache")]) == 2
    message = capsys.readouterr().err
    assert f"--mode force --output {tmp_path / 'other'}" in message


@pytest.mark.usefixtures("here")
def test_the_report_reads_what_the_run_kept(capsys: Capture, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree("run", copy)
    assert run_command_line(["report", str(copy), "-f", "markdown"]) == 0
    assert (
        "is better by the test of their images and, from three common seeds on, by that between seeds"
        in capsys.readouterr().out
    )
    assert run_command_line(["report", str(copy), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["comparisons"]) == 7
    (copy / "comparisons.json").unlink()
    assert run_command_line(["report", str(copy), "-f", "markdown"]) == 0
    out = capsys.readouterr().out
    assert "the intervals overlap, no evidence" in out
    assert "test of" not in out
    assert run_command_line(["report", str(copy), "--json"]) == 0
    assert "comparisons" not in json.loads(capsys.readouterr().out)
