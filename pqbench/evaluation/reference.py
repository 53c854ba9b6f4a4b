"""Statistics of real images that a user gives: computed once under an extractor, or read from a file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from pqbench.contracts.context import ProgressCallback
from pqbench.contracts.workload import Extractor, Reference
from pqbench.errors import UserError
from pqbench.evaluation.features import extract_outputs
from pqbench.evaluation.frechet import FeatureStatistics
from pqbench.evaluation.image_sources import ImageSource, StatisticsFile
from pqbench.evaluation.protocol import FeatureType

MOST_KEPT = 50_000
"""Features that are kept for kernel distances and manifolds; of more images, those of a random subset."""
DTYPES: dict[FeatureType, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}


def kept_count(images: int) -> int:
    """How many features of so many images are kept."""
    return min(images, MOST_KEPT)


def statistics_of(
    extractor: Extractor, images: ImageSource, features: FeatureType, progress: ProgressCallback
) -> dict[str, Tensor]:
    """Statistics of the images, as `read_statistics` takes them from a file, from one pass over the images.

    mean, covariance, features and n; spatial_mean and spatial_covariance where the extractor gives spatial features.
    """
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    is_kept = torch.zeros(len(images), dtype=torch.bool)
    is_kept[order[:MOST_KEPT]] = True
    statistics: dict[str, FeatureStatistics] = {}
    kept, done = [], 0
    for batch in images:
        outputs = extract_outputs(extractor, batch)
        for name in {"features", "spatial"} & outputs.keys():
            values = outputs[name].flatten(1)
            statistics.setdefault(name, FeatureStatistics(values.shape[1])).add(values)
        kept.append(outputs["features"][is_kept[done : done + len(batch)]].to(DTYPES[features]))
        done += len(batch)
        progress(done, len(images), "reference images")
    if done < 2:
        raise UserError(f"{images.path} has {done} image: statistics need at least 2.")
    own = statistics["features"]
    found = {"mean": own.mean, "covariance": own.covariance, "features": torch.cat(kept), "n": torch.tensor(done)}
    if "spatial" in statistics:
        spatial = statistics["spatial"]
        found |= {"spatial_mean": spatial.mean, "spatial_covariance": spatial.covariance}
    return found


def read_statistics(path: Path, sha256: str) -> Reference:
    """The reference in a file of statistics: `mean`, `covariance` (.safetensors) or `mu`, `sigma` (.npz).

    sha256   that the reference is known by

    Raises `UserError` for a file that does not hold what it should.
    """
    found = _tensors(path)
    mean, covariance = found["mean"].double().flatten(), found["covariance"].double()
    if covariance.shape != (len(mean), len(mean)):
        raise UserError(f"{path}: a mean of {len(mean)} and a covariance of {tuple(covariance.shape)} do not fit.")
    if not (torch.isfinite(mean).all() and torch.isfinite(covariance).all()):
        raise UserError(f"{path} has NaN or infinite values in its statistics.")
    spatial = None
    if {"spatial_mean", "spatial_covariance"} <= found.keys():
        spatial = found["spatial_mean"].double(), found["spatial_covariance"].double()
    return Reference(
        mean=mean,
        covariance=covariance,
        features=found.get("features", mean.new_zeros(0, len(mean), dtype=torch.float32)),
        n=int(found.get("n", torch.tensor(0))),
        sha256=sha256,
        spatial=spatial,
    )


def load_statistics(source: StatisticsFile, extractor: Extractor) -> Reference:
    """The reference in a user's file. Raises `UserError` where it says that it was made with another extractor."""
    made_with = _maker(source.path)
    if made_with not in ("", extractor.sha256):
        raise UserError(
            f"{source.path} was made with an extractor of sha256 {made_with[:12]}…, and {extractor.name} has "
            f"{extractor.sha256[:12]}…: give statistics or images for this one."
        )
    return read_statistics(source.path, source.sha256)


def statistics_metadata(extractor: Extractor) -> dict[str, str]:
    """What a file of statistics says about how it was made."""
    return {"extractor": extractor.name, "extractor_sha256": extractor.sha256}


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                names = {"mu": "mean", "sigma": "covariance"}
                return {names.get(name, name): torch.from_numpy(np.array(arrays[name])) for name in arrays.files}
        return load_file(path)
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as statistics ({error}).") from None


def _maker(path: Path) -> str:
    if path.suffix == ".npz":
        return ""
    with safe_open(path, "np") as file:
        metadata: dict[str, Any] = file.metadata() or {}
    return str(metadata.get("extractor_sha256", ""))
