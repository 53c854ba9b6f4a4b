"""The stages that measure: image metrics, and latency with memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from pqbench.base.files import write_atomically
from pqbench.contracts.context import ProgressCallback, silent
from pqbench.contracts.metric import Images, Need
from pqbench.quantization.checkpoint.io import load_checkpoint
from pqbench.results.records import Metric
from pqbench.run.graph import timing_batches
from pqbench.run.stage import Stage
from pqbench.run.stages.compress import MODEL
from pqbench.run.stages.images import make_images, statistics_in, stored_images
from pqbench.run.stages.outputs import Outputs
from pqbench.scoring.prompts import prompts_of
from pqbench.scoring.values import Sources, scored
from pqbench.timing.image_parity import image_parity

METRICS = "metrics.json"
EACH = "each.safetensors"
"""The values of each image, by the names of the metrics that are their means."""
_METRICS = TypeAdapter(dict[str, Metric])
_WATCHED = 64


def score(stage: Stage, folder: Path, inputs: Mapping[str, Path], progress: ProgressCallback) -> None:
    """Metrics of the images, also against the FP model's of the same seeds for any other cell than FP's own."""
    job = stage.job
    is_own = inputs["fp_images"] == inputs["images"]
    outputs = Outputs(
        features=inputs["features"],
        images=inputs["images"],
        reference=lambda: statistics_in(inputs.get("statistics"), job.scoring),
        fp_images=None if is_own else inputs["fp_images"],
        fp_features=None if is_own else inputs["fp_features"],
        prompts=lambda: prompts_of(job.workload, job.seed, job.protocol.n),
    )
    found = scored(stage.component, _watched(outputs.sources(), progress), job.protocol, job.scoring.grounds)
    write_metrics({name: _judged(its.metric, job.protocol.judge) for name, its in found.items()}, folder)
    each = {name: its.each for name, its in found.items() if its.each is not None}
    if each:
        write_atomically(folder / EACH, save(each))


@dataclass(frozen=True)
class Watched:
    """Images in small batches, each of which is reported once what reads them asks for the next."""

    images: Images
    progress: ProgressCallback

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[Tensor]:
        done = 0
        for batch in self.images:
            for few in torch.split(batch, _WATCHED):
                yield few
                done += len(few)
                self.progress(done, len(self.images), "images")


def _watched(sources: Sources, progress: ProgressCallback) -> Sources:
    """The sources, with a word on how many images a metric has read: one that runs a net on them takes a while."""
    reports: dict[Need, ProgressCallback] = {"images": progress, "fp_images": silent}
    watched: dict[Need, Callable[[], Images]] = {
        need: partial(lambda read, report: Watched(read(), report), sources[need], report)
        for need, report in reports.items()
        if need in sources
    }
    return {**sources, **watched}


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
    reference = statistics_in(inputs.get("statistics"), job.scoring)
    simulation = torch.cat(simulated)
    found = image_parity(job.judge.name, executed, simulation, job.scoring.extractor, reference, job.protocol)
    write_metrics(found, folder)


def time(stage: Stage, folder: Path, inputs: Mapping[str, Path], progress: ProgressCallback) -> None:
    """Latency on every engine that executes the model for real, and peak memory, each in processes of its own."""
    from pqbench.timing.measure import TimingSpec, measure

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


def read_each(folder: Path, metric: str) -> Tensor | None:
    """The value of each image that a finished stage kept, (N,) float64; None where the metric keeps none there."""
    if not (folder / EACH).exists():
        return None
    with safe_open(folder / EACH, "pt") as file:
        return file.get_tensor(metric) if metric in file.keys() else None  # noqa: SIM118


def read_metrics(folder: Path) -> dict[str, Metric]:
    """The metrics that a finished stage left."""
    return _METRICS.validate_json((folder / METRICS).read_bytes())
