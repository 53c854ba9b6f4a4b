"""A conditional workload through the bench: every image is made, and diagnosed, under its own condition."""

from __future__ import annotations

from pathlib import Path

import torch
from bench_runs import Bench

from pqbench.commands.diagnose import diagnose_file
from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.quantization.checkpoint.io import load_checkpoint, save_checkpoint
from pqbench.run.checkpoints import checkpoints
from pqbench.run.stages.images import load_images
from pqbench.testing.conditional import TinyText


def test_a_method_runs_from_calibration_to_its_distances(bench: Bench) -> None:
    records = bench.run("fp,cheap[calibration=uniform]", workload="tiny-text")
    assert {record.status for record in records.values()} == {"ok"}, [record.reason for record in records.values()]
    fp, quantized = (records[label] for label in records)
    assert quantized.method == "cheap"
    *_, found = checkpoints([quantized], bench.cache)
    assert found.path is not None
    workload, net = TinyText(), load_checkpoint(found.path, TinyText().architecture())
    (key,) = {run.key for run in quantized.stages if run.stage == "sample"} - {run.key for run in fp.stages}
    images = load_images(bench.cache.folder(key))
    noise, timesteps = initial_noise(0, range(16), workload.shape), workload.timesteps(4)
    # The batch as the stage has it: eight bits leave no room for another order of sums.
    x_0 = ddim_sample(net, workload.schedule(), timesteps, noise, condition=workload.condition(0, range(16)))
    assert torch.equal(workload.decode(x_0), images)
    swapped = tuple(each.flip(0) for each in workload.condition(0, range(16)))
    other = workload.decode(ddim_sample(net, workload.schedule(), timesteps, noise, condition=swapped))
    assert not torch.equal(other, images)


def test_a_sampler_that_forgets_the_conditions_is_named_in_the_record(bench: Bench) -> None:
    records = bench.run("cheap", workload="tiny-text")
    reason = records["cheap/0"].reason
    assert "The calibration set is one with no condition a sample; tiny-text needs a condition of shape" in reason


def test_a_diagnosis_follows_the_conditional_run(tmp_path: Path) -> None:
    workload, path = TinyText(), tmp_path / "fp.safetensors"
    save_checkpoint(workload.denoiser(), path)
    found = diagnose_file(path, workload, "itself", 4, images=2, seed=0)
    assert set(found.output_errors) == {0.0}
    assert any("attn2.to_k" in name for name in found.layers)
