"""Files and figures of diagnostics."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pqbench.inspection.diagnostics_result import Diagnosis
from pqbench.report.figures.diagnosis import layer_map, output_curves
from pqbench.report.pages.diagnosis import diagnosis_csv, summary, write_diagnoses


def make_diagnosis(layers: int = 5, steps: int = 4, error: float = 0.01, title: str = "rtn w4a4 seed 0") -> Diagnosis:
    errors = [[error * (1 + i) * (1 + k) for k in range(steps)] for i in range(layers)]
    return Diagnosis(
        title=title,
        timesteps=tuple(range(100 * steps, 0, -100)),
        layers=tuple(f"net.block.{i}.conv" for i in range(layers)),
        layer_errors=tuple(map(tuple, errors)),
        output_errors=tuple(error * 3 * (1 + k) for k in range(steps)),
        images=2,
        seed=0,
    )


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_figures_are_the_same_every_time() -> None:
    layers, curves = layer_map(make_diagnosis()), output_curves([make_diagnosis()] * 2)
    for figure in (layers, curves):
        assert figure.startswith(b"\x89PNG")
    assert layer_map(make_diagnosis()) == layers
    assert output_curves([make_diagnosis()] * 2) == curves


@pytest.mark.parametrize(("layers", "steps", "error"), [(1, 1, 0.5), (3, 2, 0.0), (150, 40, 1e-9), (4, 3, 7.0)])
def test_figures_of_odd_sizes_and_errors(layers: int, steps: int, error: float) -> None:
    diagnosis = make_diagnosis(layers, steps, error)
    assert opened(layer_map(diagnosis)).std() > 0
    assert opened(output_curves([diagnosis])).std() > 0


def test_the_map_grows_with_the_layers() -> None:
    assert opened(layer_map(make_diagnosis(60))).shape[0] > 2 * opened(layer_map(make_diagnosis(10))).shape[0]


def test_every_method_has_a_colour_of_its_own() -> None:
    picture = opened(output_curves([make_diagnosis(), make_diagnosis(error=0.02)]))
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (np.abs(picture.astype(int) - colour).sum(-1) < 6).any()


def test_files(tmp_path: Path) -> None:
    made = {"a": make_diagnosis(), "b": make_diagnosis(error=0.0)}
    written = write_diagnoses(tmp_path, made)
    assert sorted(path.name for path in written) == sorted(
        [f"{name}.{form}" for name in "ab" for form in ("json", "csv", "png")] + ["outputs.png"]
    )
    assert Diagnosis.model_validate_json((tmp_path / "a.json").read_text()) == made["a"]
    rows = list(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text())))
    assert len(rows) == 6 * 4
    assert float(rows[0]["relative_error"]) == pytest.approx(0.01)
    assert float(rows[0]["snr_db"]) == pytest.approx(20)
    assert {row["snr_db"] for row in csv.DictReader(io.StringIO(diagnosis_csv(made["b"])))} == {"inf"}


def test_the_summary_names_the_worst() -> None:
    line = summary(make_diagnosis())
    # The output's mean error is 0.075; at the last step it is 0.12; the last layer's mean is 0.125.
    assert line == ("rtn w4a4 seed 0: output 11.2 dB, lowest 9.2 dB at t = 100; worst layer net.block.4.conv, 9.0 dB")
