"""A model that predicts v or x_0 makes the images, calibration sets and diagnoses of one that predicts epsilon."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bench_runs import Bench
from translated import Translated, VTiny, XTiny

from pqbench.calibration.ndtc import Ndtc
from pqbench.calibration.trajectories import Trajectories
from pqbench.contracts import CalibrationSampler, Context, Precision
from pqbench.contracts.context import silent
from pqbench.inspection.diagnostics import diagnose
from pqbench.quantization.checkpoint.io import save_checkpoint
from pqbench.run.stages.compress import MODEL
from pqbench.run.stages.images import load_images, sample
from pqbench.testing.tiny import TinyWorkload
from pqbench.workloads.training.acceptance import pool_images

pytestmark = pytest.mark.parametrize("workload", [VTiny(), XTiny()], ids=lambda workload: workload.prediction)


def test_the_stage_of_images(bench: Bench, tmp_path: Path, workload: TinyWorkload) -> None:
    stage = bench.plan("fp").cells[0].images
    made = []
    for number, each in enumerate((TinyWorkload(), workload)):
        folder = tmp_path / str(number)
        folder.mkdir()
        save_checkpoint(each.denoiser(), folder / MODEL)
        sample(replace(stage, job=replace(stage.job, workload=each)), folder, {"model": folder}, silent)
        made.append(load_images(folder).int())
    assert made[0].float().std() > 20
    assert int((made[0] - made[1]).abs().max()) <= 1


@pytest.mark.parametrize("sampler", [Trajectories(runs=6), Ndtc(samples=12)], ids=lambda sampler: sampler.name)
def test_calibration_sets(workload: TinyWorkload, sampler: CalibrationSampler) -> None:
    right, found = (sampler.sample(Context(each, Precision(), each.steps)) for each in (TinyWorkload(), workload))
    torch.testing.assert_close(found.x_t, right.x_t, rtol=1e-3, atol=1e-4)
    assert found.prediction == workload.prediction


def test_the_pool_of_an_acceptance_window(workload: TinyWorkload) -> None:
    right, found = (torch.cat(list(pool_images(each, 8, print))).int() for each in (TinyWorkload(), workload))
    assert int((right - found).abs().max()) <= 1


def test_diagnoses(workload: TinyWorkload) -> None:
    """Both are shown the same x_t, so the layers of a net that is off are off by as much."""
    found = []
    for each in (TinyWorkload(), workload):
        inner = each.denoiser(), each.denoiser()
        nets = [net.net if isinstance(net, Translated) else net for net in inner]
        nets[1].net.conv_in.weight.data *= 1.01
        timesteps = each.timesteps(each.steps)
        diagnosis = diagnose(
            *inner, each.schedule(), timesteps, each.shape, title="", images=4, prediction=each.prediction
        )
        found.append(torch.tensor(diagnosis.layer_errors))
    torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=1e-8)
