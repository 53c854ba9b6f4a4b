"""The stages that make images and their features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.base.files import write_atomically
from pqbench.contracts import Reference
from pqbench.contracts.context import ProgressCallback
from pqbench.diffusion.ddim import Denoiser, ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.engines.batches import filling
from pqbench.quantization.checkpoint.io import load_checkpoint
from pqbench.run.job import Job
from pqbench.run.stage import Stage
from pqbench.run.stages.compress import MODEL
from pqbench.run.stages.stored import StoredImages, write_parts, write_tensors
from pqbench.scoring.features import extract_outputs, require_finite
from pqbench.scoring.reference import (
    DTYPES,
    read_statistics,
    statistics_metadata,
    statistics_of,
    statistics_tensors,
)
from pqbench.scoring.resolver import Scoring

IMAGES = "images.safetensors"
FEATURES = "features.safetensors"
STATISTICS = "statistics.safetensors"
_SHARD = "images-{:08d}.safetensors"


def sample(stage: Stage, folder: Path, inputs: Mapping[str, Path], progress: ProgressCallback) -> None:
    """Images of indices 0 ... n-1, batch by batch; batches that an interrupted run has finished are kept."""
    job = stage.job
    count, batch = job.protocol.n, job.preset.sampling_batch
    shards = {
        folder / _SHARD.format(first): range(first, min(first + batch, count)) for first in range(0, count, batch)
    }
    if not (folder / IMAGES).exists():
        net = load_checkpoint(inputs["model"] / MODEL, job.workload.architecture()).to(job.device).eval()
        predict = net if job.judge is None else _executed(net, job, min(batch, count))
        for shard, indices in shards.items():
            if not shard.exists():
                _write(shard, images=make_images(predict, job, indices))
            progress(indices.stop, count, "images")
        shape = count, *StoredImages(next(iter(shards))).shape[1:]
        parts = (load_file(shard)["images"] for shard in shards)
        write_parts(folder / IMAGES, "images", shape, parts, torch.uint8)
    for shard in shards:
        shard.unlink(missing_ok=True)


def _executed(net: nn.Module, job: Job, batch: int) -> Denoiser:
    """The model on the engine whose images are judged. Raises `UserError` when the engine cannot have it."""
    assert job.judge is not None
    condition = [each.to(job.device) for each in job.workload.condition(job.seed, range(batch))]
    conditional: dict[str, Any] = {"condition": condition} if condition else {}
    threads = int(job.judge.facts["threads"])
    try:
        executable = job.judge.engine.compile(net, job.workload.shape, batch, threads, **conditional)
    except UserError as error:
        raise UserError(f"{error} Or judge the simulation's images: --judge simulation.") from error
    return filling(executable, batch)


def make_images(net: Denoiser, job: Job, indices: range) -> Tensor:
    """The images of these indices, (N, C, H, W) uint8, each from its own noise.

    Raises `UserError` for an image that is not finite.
    """
    workload = job.workload
    noise = initial_noise(job.seed, indices, workload.shape).to(job.device)
    timesteps = workload.timesteps(job.steps).to(job.device)
    condition = workload.condition(job.seed, indices)
    x_0 = ddim_sample(net, workload.schedule(), timesteps, noise, prediction=workload.prediction, condition=condition)
    bad = (~torch.isfinite(x_0).flatten(1).all(1)).nonzero().flatten().tolist()
    if bad:
        raise UserError(
            f"{job.composition.label} made NaN or infinite values in image {indices[bad[0]]}: "
            "the compressed model is broken."
        )
    return workload.decode(x_0).cpu()


def _write(path: Path, **tensors: Tensor) -> None:
    """Whole or not at all, so that a file that is there after a kill can be relied on."""
    write_atomically(path, save({name: tensor.contiguous() for name, tensor in tensors.items()}))


def load_images(folder: Path) -> Tensor:
    """The images of a finished `sample` stage, (N, C, H, W) uint8."""
    return load_file(folder / IMAGES)["images"]


def stored_images(folder: Path) -> StoredImages:
    """The same, read batch by batch."""
    return StoredImages(folder / IMAGES)


def features(stage: Stage, folder: Path, inputs: Mapping[str, Path], progress: ProgressCallback) -> None:
    """Everything that one pass of the extractor gives, kept for every metric that is made of it."""
    scoring = stage.job.scoring
    images = stored_images(inputs["images"])
    write_tensors(folder / FEATURES, kept_outputs(scoring, images, len(images)))


def kept_outputs(scoring: Scoring, images: Iterable[Tensor], count: int) -> dict[str, Tensor]:
    """Outputs of the extractor as they are kept, (N, D): of `count` images, of which one batch is held at a time.

    Raises `UserError` as `extract_outputs` does.
    """
    outputs = extract_outputs(scoring.extractor, images, count=count, dtype=DTYPES[scoring.features])
    return {name: values.flatten(1) for name, values in outputs.items()}


def reference(stage: Stage, folder: Path, inputs: Mapping[str, Path], progress: ProgressCallback) -> None:
    """Statistics of the real images, computed or as the user gave them."""
    statistics_into(folder, stage.job.scoring, progress)


def statistics_into(folder: Path, scoring: Scoring, progress: ProgressCallback) -> None:
    """What the stage leaves: a file that `--reference` takes too."""
    if scoring.source is not None:
        found = statistics_of(scoring.extractor, scoring.source, scoring.features, progress)
    else:
        assert scoring.known is not None, "a reference is known or has images"
        found = {name: values.contiguous() for name, values in statistics_tensors(scoring.known).items()}
    require_finite(found["features"], f"The extractor {scoring.extractor.name} in {scoring.features}")
    # What a user's file was made with is for that file to say.
    libraries = "" if scoring.source is None else scoring.libraries
    write_tensors(folder / STATISTICS, found, statistics_metadata(scoring.extractor, libraries))


def statistics_in(folder: Path | None, scoring: Scoring) -> Reference:
    """The statistics of real images that a `reference` stage left; None: those that are known without one."""
    if folder is not None:
        return read_statistics(folder / STATISTICS, scoring.reference_sha256)
    assert scoring.known is not None, "a reference is known or has a stage"
    return scoring.known


def save_strip(images: Tensor, path: Path) -> None:
    """A PNG with the given images, (K, C, H, W) uint8, side by side at their own resolution."""
    import io

    from PIL import Image

    row = torch.cat(list(images.permute(0, 2, 3, 1)), dim=1)
    pixels = row.squeeze(2).numpy() if row.shape[2] == 1 else row.numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())
