"""The files and the lines that diagnostics leave."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from pqbench.base.files import write_atomically
from pqbench.inspection.diagnostics_result import Diagnosis, snr_db

OUTPUTS = "outputs.png"


def write_diagnoses(folder: Path, diagnoses: Mapping[str, Diagnosis]) -> list[Path]:
    """Write NAME.json, NAME.csv (a row a layer and step) and NAME.png for each, and outputs.png for all of them.

    Raises `UserError` when the disk is full.
    """
    from pqbench.report.figures.diagnosis import layer_map, output_curves

    files: dict[str, str | bytes] = {}
    for name, diagnosis in diagnoses.items():
        files[f"{name}.json"] = diagnosis.model_dump_json(indent=2) + "\n"
        files[f"{name}.csv"] = diagnosis_csv(diagnosis)
        files[f"{name}.png"] = layer_map(diagnosis)
    files[OUTPUTS] = output_curves(list(diagnoses.values()))
    for name, content in files.items():
        write_atomically(folder / name, content)
    return [folder / name for name in files]


def diagnosis_csv(diagnosis: Diagnosis) -> str:
    """A row for every layer and step; the net's output comes last, with an empty layer name."""
    text = io.StringIO()
    rows = diagnosis.rows()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def summary(diagnosis: Diagnosis) -> str:
    """One line: the output's SNR over the whole run and at its worst step, and the worst layer.

    The SNR over a run is that of the mean relative error.
    """
    worst_step = _position_of_largest(diagnosis.output_errors)
    means = [_mean(errors) for errors in diagnosis.layer_errors]
    worst_layer = _position_of_largest(means)
    return (
        f"{diagnosis.title}: output {snr_db(_mean(diagnosis.output_errors)):.1f} dB, lowest "
        f"{snr_db(diagnosis.output_errors[worst_step]):.1f} dB at t = {diagnosis.timesteps[worst_step]}; "
        f"worst layer {diagnosis.layers[worst_layer]}, {snr_db(means[worst_layer]):.1f} dB"
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _position_of_largest(values: Sequence[float]) -> int:
    return max(range(len(values)), key=lambda i: values[i])
