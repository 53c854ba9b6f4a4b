"""Corrections in a run: a stage of its own after the model is final, in the record, in the cache and in the table."""

from __future__ import annotations

import json

import pytest
import torch
from bench_runs import Bench

from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.quantization.checkpoint.io import load_checkpoint
from pqbench.quantization.net.output_correction import corrected
from pqbench.report.renderers.formats import Format, rendered
from pqbench.run.checkpoints import checkpoints
from pqbench.testing.tiny import TinyWorkload


def images(bench: Bench, label: str, steps: int) -> torch.Tensor:
    """What the cell's own checkpoint makes of the noise of the first images."""
    workload = TinyWorkload()
    (cell,) = (c for c in checkpoints(bench.folder.current_records(), bench.cache) if c.record.label == label)
    assert cell.path is not None
    net = load_checkpoint(cell.path, workload.architecture())
    assert (corrected(net) is not None) == ("correction" in cell.record.components)
    noise = initial_noise(0, range(4), workload.shape)
    return ddim_sample(net, workload.schedule(), workload.timesteps(steps), noise)


def test_a_correction_is_the_last_stage_of_the_model_and_takes_the_rest_from_the_cache(bench: Bench) -> None:
    bench.run("cheap")
    record = bench.run("cheap,cheap[correction=doubled]")["cheap[correction=doubled]/0"]
    assert [stage.stage for stage in record.stages if not stage.cached] == ["correct", "sample", "features", "score"]
    assert record.components["correction"]["name"] == "doubled"
    assert record.audit is not None
    assert "OutputCorrection (1)" in record.audit.full_precision_operations
    plain = bench.folder.current_records()[1]
    (key,) = (stage.key for stage in record.stages if stage.stage == "correct")
    own_cost = json.loads((bench.cache.folder(key) / "cost.json").read_bytes())["seconds"]
    costs = [each.metrics["cost_seconds"].value for each in (plain, record)]
    assert costs[1] - costs[0] == pytest.approx(own_cost)
    own, without = images(bench, "cheap[correction=doubled]", 4), images(bench, "cheap", 4)
    assert not torch.allclose(own, without, rtol=1e-2)


def test_it_is_told_the_steps_of_the_compressed_model(bench: Bench) -> None:
    record = bench.run("cheap[distiller=copy,correction=doubled]")["cheap[distiller=copy,correction=doubled]/0"]
    assert record.steps == 2
    key = next(stage.key for stage in record.stages if stage.stage == "correct")
    assert json.loads((bench.cache.folder(key) / "trace.json").read_bytes()) == [{"steps": 2}]


def test_a_full_precision_model_that_is_corrected_is_not_the_reference(bench: Bench) -> None:
    records = bench.run("fp[correction=doubled]")
    assert list(records) == ["fp/0", "fp[correction=doubled]/0"]
    assert records["fp[correction=doubled]/0"].metrics["cost_seconds"].value > 0
    assert "psnr_to_fp" in records["fp[correction=doubled]/0"].metrics
    table = rendered(bench.folder, Format.MARKDOWN)
    assert "doubled differs from its paper: No paper would do this." in table


def test_one_that_returns_no_net_is_named(bench: Bench) -> None:
    record = bench.run("cheap[correction=doubled,forgets=true]")["cheap[correction=doubled,forgets=true]/0"]
    assert record.status == "failed"
    assert record.reason == "correct: doubled.correct returned NoneType, not a module: mend its return statement."


@pytest.mark.parametrize("gone", ["", "none"])
def test_no_correction_is_no_stage(bench: Bench, gone: str) -> None:
    label = f"cheap[correction={gone}]" if gone else "cheap"
    record = bench.run(label)[f"{label}/0"]
    assert "correct" not in [stage.stage for stage in record.stages]
