"""The stages that measure: image metrics, and latency with memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import TypeAdapter

from pqbench.bench.graph import timing_batches
from pqbench.bench.records import Metric
from pqbench.bench.stage import Stage
from pqbench.bench.stages.compress import MODEL
from pqbench.bench.stages.images import make_images, stored_images
from pqbench.bench.stages.outputs import Outputs
from pqbench.contracts.context import ProgressCallback
from pqbench.evaluation.image_parity import image_parity
from pqbench.evaluation.scoring import score as score_metrics
from pqbench.files import write_atomically
from pqbench.quantization.checkpoint import load_checkpoint

METRICS = "metrics.json"
_METRICS = TypeAdapter(dict[str, Metric])


def score(stage: Stage, folder: Path, inputs: Mapping[str, Path], progress: ProgressCallback) -> None:
    """Distances to the real images, and to the FP model's images of the same seeds for any other cell than FP's own."""
    job = stage.job
    is_own = inputs["fp_images"] == inputs["images"]
    outputs = Outputs(
        features=inputs["features"],
        images=inputs["images"],
        reference=job.scoring.known,
        reference_sha256=job.scoring.reference_sha256,
        statistics=inputs.get("statistics"),
        fp_images=None if is_own else inputs["fp_images"],
        fp_features=None if is_own else inputs["fp_features"],
    )
    metrics = score_metrics(job.scoring.metrics, outputs.sources(), job.protocol)
    write_metrics({name: _judged(metric, job.protocol.judge) for name, metric in metrics.items()}, folder)


def _judged(metric: Metric, judge: str) -> Metric:
    """The metric with a word on who made the images."""
    return metric.model_copy(update={"detail": metric.detail | {"judge": judge}})


def parity(stage: Stage, folder: Path, inputs: Mapping[str, Path], progress: ProgressCallback) -> None:
    """How the engine's images, which are judged, stand to those that the simulation makes of the same seeds."""
    job, count, batch = stage.job, int(stage.facts["images"]), int(stage.facts["batch"])
    assert job.judge is not None
    net = load_checkpoint(inputs["model"] / MODEL, job.workload.architecture()).to(job.device).eval()
    simulated = []
    for first in range(0, count, batch):
        simulated.append(make_images(net, job, range(first, min(first + batch, count))))
        progress(min(first + batch, count), count, "images of the simulation")
    executed = stored_images(inputs["images"])[:count]
    found = image_parity(job.judge.name, executed, torch.cat(simulated), job.scoring.extractor, job.protocol)
    write_metrics(found, folder)


def time(stage: Stage, folder: Path, inputs: Mapping[str, Path], progress: ProgressCallback) -> None:
    """Latency on every engine that executes the model for real, and peak memory, each in processes of its own."""
    from pqbench.evaluation.timing import TimingSpec, measure

    job = stage.job
    metrics: dict[str, Metric] = {}
    for done, engine in enumerate(job.engines):
        progress(done, len(job.engines), engine)
        spec = TimingSpec(
            workload=job.workload_name,
            checkpoint=str(inputs["model"] / MODEL),
            engine=engine,
            steps=job.steps,
            batches=tuple(timing_batches(job.preset)),
            threads=int(stage.facts["threads"]),
            processes=job.preset.timing_processes,
            seconds=job.preset.timing_seconds,
            device=job.device,
            exclusive=job.exclusive,
        )
        metrics |= measure(spec)
    write_metrics(metrics, folder)


def write_metrics(metrics: Mapping[str, Metric], folder: Path) -> None:
    """Keep metrics as JSON."""
    write_atomically(folder / METRICS, _METRICS.dump_json(dict(metrics)))


def read_metrics(folder: Path) -> dict[str, Metric]:
    """The metrics that a finished stage left."""
    return _METRICS.validate_json((folder / METRICS).read_bytes())
