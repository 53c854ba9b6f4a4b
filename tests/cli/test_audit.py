"""`pqbench audit` as a user meets it: of a file, of a run, and of files that are none."""

from __future__ import annotations

import json
import os
import pty
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import bench_plugins
import pytest
import torch
from processes import started
from safetensors.torch import save_file

from pqbench.cli.main import run_command_line
from pqbench.contracts.precision import Precision
from pqbench.quantization.checkpoint.format import Header, write_file
from pqbench.quantization.checkpoint.io import save_checkpoint
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.ranges.fitting import calibrate_weights
from pqbench.quantization.ranges.rules import minmax
from pqbench.testing.tiny import TinyWorkload

PLUGINS = Path(bench_plugins.__file__)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    net = TinyWorkload().denoiser()
    quantize_layers(net, Precision(4, 32), (torch.zeros(1, 3, 8, 8), torch.tensor([1])), exempt=["net.conv_out"])
    calibrate_weights(net, minmax)
    save_checkpoint(net, path)
    return path


def test_piped_lines_are_one_a_layer(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["audit", str(checkpoint)]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    conv_in = next(line for line in lines if line.startswith("net.conv_in "))
    stored = 8 * 3 * 9 // 2 + 8 * 4 + 8 * 4 + 5  # codes, scales, bias, and the idle parameters of the input
    assert conv_in.split() == ["net.conv_in", "Conv2d", "8x3x3x3", "4", "sym", "32", "float", str(stored)]
    assert next(line for line in lines if line.startswith("net.conv_out ")).split()[1:] == ["3x8x3x3", "32", "864"]
    assert "intact" in lines[1]
    assert "\x1b" not in shown
    assert f"{checkpoint.stat().st_size:,} = " in shown


def test_json_is_for_programs(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["audit", str(checkpoint), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file_bytes"] == checkpoint.stat().st_size
    assert {layer["w_bits"] for layer in found["layers"]} == {4}
    assert [layer["name"] for layer in found["float_layers"]] == ["net.conv_out"]


@pytest.mark.parametrize("columns", [80, 120])
def test_at_a_terminal_no_line_is_wider_than_the_window(checkpoint: Path, columns: int) -> None:
    import fcntl
    import termios

    main_end, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
    command = [sys.executable, "-m", "pqbench", "audit", checkpoint.name]
    with started(command, stdout=terminal, cwd=checkpoint.parent, env=environment) as process:
        os.close(terminal)
        shown = b""
        while True:
            try:
                chunk = os.read(main_end, 65_536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not chunk:
                break
            shown += chunk
        assert process.wait() == 0
    os.close(main_end)
    table = shown.decode().partition("Quantized layers")[2].splitlines()[1:]
    assert any("down_blocks.0.resnets.0.conv1" in line for line in table)
    assert "\x1b[1m" in "".join(table)  # headings are bold
    widths = [len(line.replace("\x1b[1m", "").replace("\x1b[0m", "")) for line in table]
    assert max(widths) <= columns


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def changed(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def newer(path: Path) -> None:
    write_file(path, Header(version=99), {})


def foreign(path: Path) -> None:
    save_file({"a": torch.zeros(1)}, path)


def no_file(path: Path) -> None:
    path.unlink()


def text(path: Path) -> None:
    path.write_text("no checkpoint at all, but a longer text")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncated, "is truncated or is no checkpoint"),
        (changed, "was changed or damaged after it was written"),
        (newer, "has checkpoint format 99; this pqbench reads formats up to"),
        (foreign, "is a safetensors file, but no checkpoint written by pqbench"),
        (no_file, "There is no checkpoint at"),
        (text, "is truncated or is no checkpoint"),
    ],
)
def test_what_is_no_good_checkpoint_is_one_sentence(
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    message: str,
) -> None:
    copy = Path(shutil.copy(checkpoint, tmp_path))
    damage(copy)
    for options in ([], ["--json"]):
        assert run_command_line(["audit", str(copy), *options]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith("Error: ")
        assert message in shown.err
        assert len(shown.err.splitlines()) == 1


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of fp, cheap, and a method that fails before it has a model; its cache is in the same folder."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copy(PLUGINS, folder / "pqbench_plugins.py")
    methods = "cheap,cheap[distiller=copy],failing"
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
    monkeypatch.setenv("COLUMNS", "200")
    capsys.readouterr()
    return copy / "run"


def test_a_run_says_where_each_checkpoint_is(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["audit", str(run)]) == 0
    shown = capsys.readouterr().out
    assert "failing w32a32 seed 0: failed before it had a model" in shown
    path = next(line for line in shown.splitlines() if line.startswith("cheap w4a4 seed 0: ")).partition(": ")[2]
    assert run_command_line(["audit", path]) == 0
    capsys.readouterr()

    assert run_command_line(["audit", str(run), "--json"]) == 0
    cells = {cell["label"]: cell for cell in json.loads(capsys.readouterr().out)["cells"]}
    assert cells["fp"]["file"]["average_weight_bits"] == 32
    assert cells["cheap"]["file"]["average_weight_bits"] == 4
    assert cells["cheap"]["file"]["path"] == path
    # The distilled student's own file, not its teacher's.
    assert cells["cheap[distiller=copy]"]["file"]["path"] not in ("", path)
    assert not any(cell["problem"] for cell in cells.values())


def test_a_damaged_or_deleted_checkpoint_of_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command_line(["audit", str(run), "--json"])
    cells = {cell["label"]: cell for cell in json.loads(capsys.readouterr().out)["cells"]}
    changed(Path(cells["cheap"]["file"]["path"]))
    shutil.rmtree(Path(cells["fp"]["file"]["path"]).parent)
    assert run_command_line(["audit", str(run)]) == 1
    shown = capsys.readouterr()
    assert "damaged" in shown.out
    assert "fp w32a32 seed 0: no longer in the cache" in shown.out
    assert "was changed or damaged" in shown.err


def test_a_record_that_claims_other_bits_is_caught(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = run / "records.jsonl"
    records.write_text(records.read_text().replace('"average_weight_bits":4.0,', '"average_weight_bits":3.5,'))
    assert run_command_line(["audit", str(run)]) == 1
    shown = capsys.readouterr()
    assert "differs" in shown.out
    assert "bits a weight: 3.5 recorded, 4 in the file" in shown.err


def test_a_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command_line(["audit", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
