"""Inputs that no quantizer can work with: one sentence each, through the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import bad_input_plugins
import pytest
from torch import nn

from pqbench.cli.main import run_command_line
from pqbench.testing.tiny import TinyWorkload

PLUGINS = Path(bad_input_plugins.__file__)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(PLUGINS, tmp_path / "pqbench_plugins.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PQBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run(method: str, workload: str = "tiny") -> int:
    arguments = ["-w", workload, "-n", "4", "--engines", "none", "-o", "run", "-m", method]
    return run_command_line(["run", *arguments])


def quantizable(module: nn.Module) -> bool:
    return isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear))


def record(label: str) -> dict[str, Any]:
    lines = Path("run/records.jsonl").read_text().splitlines()
    return next(found for found in map(json.loads, lines) if found["label"] == label)


@pytest.mark.parametrize("bits", ["w=1", "w=9", "a=1", "a=16", "w=0", "a=-4"])
@pytest.mark.parametrize("method", ["rtn", "ptq4dm"])
def test_bits_that_no_grid_has(here: Path, capsys: pytest.CaptureFixture[str], method: str, bits: str) -> None:
    assert run(f"{method}[{bits}]") == 2
    shown = capsys.readouterr()
    assert f"{bits} is not a precision: use 2 to 8 bits, or 32" in shown.err
    assert len(shown.err.splitlines()) == 1
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("model", "calibrate: The calibration set is drawn from another model; tiny needs this one"),
        ("resolution", "calibrate: The calibration set is of shape (3, 16, 16); tiny needs (3, 8, 8)"),
        ("prediction", "calibrate: The calibration set is drawn from a model that predicts v; tiny needs epsilon"),
        ("empty", "calibrate: A calibration set needs as many time steps as inputs and at least one; it has 0 inputs"),
        ("nan", "calibrate: The calibration set holds NaN or infinite values: make it again."),
        ("late", "calibrate: The calibration set is at time steps from 1249 to 1999 of type torch.int64; tiny needs"),
        ("fractions", "of type torch.float32; tiny needs whole ones from 0 to 999"),
    ],
)
def test_a_calibration_set_that_does_not_fit(
    here: Path, capsys: pytest.CaptureFixture[str], how: str, reason: str
) -> None:
    label = f"rtn[calibration=wrong,how={how}]"
    assert run(label) == 1
    found = record(label)
    assert found["status"] == "failed"
    assert reason in found["reason"]
    assert "\n" not in found["reason"]
    assert found["reason"].count(". ") == 0
    assert f"{label} seed 0 failed: {found['reason']}" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["rtn", "ptq4dm", "rtn[range=lp]", "rtn[range=percentile]"])
@pytest.mark.parametrize("how", ["zeros", "constant"])
def test_constant_activations_are_exact_and_no_failure(here: Path, method: str, how: str) -> None:
    """A range of zero width has a grid on which its one value is exact: a dead input is no reason to stop."""
    label = f"{method.removesuffix(']')}{',' if '[' in method else '['}calibration=wrong,how={how}]"
    assert run(label) == 0
    assert record(label)["status"] == "ok"


def test_a_net_without_any_layer_that_can_be_quantized(here: Path) -> None:
    assert run("rtn", "transposed") == 1
    assert record("rtn")["reason"] == (
        "quantize: Nothing is left to quantize: the net has no Conv2d, Conv1d or Linear layer in scope."
    )


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("rtn[quantizer=forgetful]", "quantize: forgetful.quantize returned NoneType, not a module"),
        ("rtn[quantizer=forgetful,how=state]", "quantize: forgetful.quantize returned OrderedDict, not a module"),
        ("rtn[distiller=forgetful]", "distill: forgetful.distill returned NoneType, not a module"),
        ("rtn[calibration=forgetful]", "calibrate: forgetful.sample returned NoneType, not a CalibrationSet"),
    ],
)
def test_a_component_that_returns_something_else(here: Path, label: str, reason: str) -> None:
    assert run(label) == 1
    assert record(label)["reason"] == f"{reason}: mend its return statement."


def test_a_long_message_is_cut_everywhere_but_in_the_log(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    label = "rtn[quantizer=wordy]"
    assert run(label) == 1
    found, shown = record(label), capsys.readouterr()
    assert found["reason"].startswith("quantize raised RuntimeError: tensor tensor")
    assert found["reason"].endswith("…")
    assert 300 <= len(found["reason"]) < 340
    for text in (shown.out, shown.err, Path("run/table.csv").read_text(), Path("run/table.md").read_text()):
        assert "tensor" in text
        assert "at last" not in text
    (log,) = Path("run/logs").iterdir()
    assert "tensor " * 800 + "at last" in log.read_text()


def test_a_pattern_that_matches_nothing_names_the_nearest(here: Path) -> None:
    assert run("rtn[exempt=down.*]") == 1
    reason = record("rtn[exempt=down.*]")["reason"]
    names = [name for name, module in TinyWorkload().architecture().named_modules() if quantizable(module)]
    assert f"exempt='down.*' matches no layer; the nearest of the {len(names)} layers are: " in reason
    assert 1 <= sum(name in reason.split("are: ")[1].rstrip(".").split(", ") for name in names) <= 3


@pytest.mark.parametrize(("bits", "below"), [("w=4,a=2", "w=4"), ("w=2,a=4", "a=4")])
def test_progress_that_would_start_below_its_target(here: Path, bits: str, below: str) -> None:
    label = f"pqcad[{bits},start=3,distiller=none]"
    assert run(label) == 1
    assert record(label)["reason"] == (
        f"quantize: start=3 is below {below}, where its way down would end: raise start."
    )
