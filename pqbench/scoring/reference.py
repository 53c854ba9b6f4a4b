"""Statistics of real images that a user gives: computed once under an extractor, or read from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.contracts.context import ProgressCallback
from pqbench.contracts.workload import Extractor, Reference
from pqbench.scoring.features import extract_outputs, require_finite
from pqbench.scoring.formulas.frechet import FeatureStatistics
from pqbench.scoring.gathering import Gathered
from pqbench.scoring.images.damage import DAMAGE
from pqbench.scoring.images.sources import ImageSource, StatisticsFile
from pqbench.scoring.protocol import FeatureType

MOST_KEPT = 50_000
"""Features that are kept for kernel distances and manifolds; of more images, those of a random subset."""
_NAMES = ("mean", "covariance", "features", "n", "spatial_mean", "spatial_covariance")
"""What is read of a file; whatever else it holds is left alone."""
_LIBRARIES = "libraries"
"""The fact of a file that names them."""
_NPZ_NAMES = {"mu": "mean", "sigma": "covariance"}
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
    kept, done = Gathered(kept_count(len(images))), 0
    for batch in images:
        outputs = extract_outputs(extractor, batch)
        for name in {"features", "spatial"} & outputs.keys():
            values = outputs[name].flatten(1)
            statistics.setdefault(name, FeatureStatistics(values.shape[1])).add(values)
        kept.add(outputs["features"][is_kept[done : done + len(batch)]].to(DTYPES[features]))
        done += len(batch)
        progress(done, len(images), "reference images")
    if done < 2:
        raise UserError(f"{images.path} has {done} image: statistics need at least 2.")
    own = statistics["features"]
    found = {"mean": own.mean, "covariance": own.covariance, "features": kept.whole(), "n": torch.tensor(done)}
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
    mean, covariance = _gaussian(path, found["mean"], found["covariance"])
    spatial = None
    if {"spatial_mean", "spatial_covariance"} <= found.keys():
        spatial = _gaussian(path, found["spatial_mean"], found["spatial_covariance"])
    n = found.get("n", torch.tensor(0))
    if n.numel() != 1 or n.is_floating_point():
        raise UserError(f"{path}: n must be one whole number, the images that the statistics are of.")
    features = found.get("features", mean.new_zeros(0, len(mean), dtype=torch.float32))
    if features.dim() != 2 or features.shape[1] != len(mean) or not features.is_floating_point():
        raise UserError(
            f"{path}: features of type {features.dtype} and shape {tuple(features.shape)} do not fit a mean of "
            f"{len(mean)}: they must be (M, {len(mean)}) in floating point."
        )
    require_finite(features, str(path))
    return Reference(mean=mean, covariance=covariance, features=features, n=int(n), sha256=sha256, spatial=spatial)


def _gaussian(path: Path, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and covariance (D, D) in float64. Raises `UserError` for what is none."""
    if mean.is_complex() or covariance.is_complex():
        raise UserError(f"{path} has complex numbers in its statistics.")
    mean, covariance = mean.double().flatten(), covariance.double()
    if covariance.shape != (len(mean), len(mean)):
        raise UserError(f"{path}: a mean of {len(mean)} and a covariance of {tuple(covariance.shape)} do not fit.")
    if not (torch.isfinite(mean).all() and torch.isfinite(covariance).all()):
        raise UserError(f"{path} has NaN or infinite values in its statistics.")
    variances = covariance.diagonal()
    slack = 1e-4 * variances.abs().max()  # for statistics that were summed or saved in float32
    bounds = (variances.clamp(min=0)[:, None] * variances.clamp(min=0)).sqrt() + slack
    if bool((covariance.abs() > bounds).any()) or bool(((covariance - covariance.T).abs() > slack).any()):
        raise UserError(
            f"{path} holds a matrix that is no covariance: it must be symmetric, with variances of at least 0 and no "
            "covariance above what they allow."
        )
    return mean, covariance


def statistics_tensors(reference: Reference) -> dict[str, Tensor]:
    """What `read_statistics` makes the same reference of."""
    found = {
        "mean": reference.mean,
        "covariance": reference.covariance,
        "features": reference.features,
        "n": torch.tensor(reference.n),
    }
    if reference.spatial is not None:
        found["spatial_mean"], found["spatial_covariance"] = reference.spatial
    return found


def load_statistics(source: StatisticsFile, extractor: Extractor) -> Reference:
    """The reference in a user's file. Raises `UserError` where it says that it was made with another extractor."""
    made_with, ours = _maker(source.path), statistics_metadata(extractor)
    sha256 = made_with.get("extractor_sha256", extractor.sha256)
    if sha256 != extractor.sha256:
        raise UserError(
            f"{source.path} was made with an extractor of sha256 {sha256[:12]}…, and {extractor.name} has "
            f"{extractor.sha256[:12]}…: give statistics or images for this one."
        )
    for fact, value in ours.items():
        # Extractors can share their weights and differ in how images come to them.
        if made_with.get(fact, value) != value:
            raise UserError(
                f"{source.path} was made with the extractor {made_with.get('extractor', extractor.name)} "
                f"({made_with.get('extractor_pixels', 'pixels not stated')}), and this one is {extractor.name} "
                f"({extractor.pixels}): give statistics or images for this one."
            )
    return read_statistics(source.path, source.sha256)


def _native(values: np.ndarray[Any, Any]) -> Tensor:
    """A tensor of an array in whichever byte order."""
    return torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=False))


def statistics_metadata(extractor: Extractor, libraries: str = "") -> dict[str, str]:
    """What a file of statistics says about how it was made.

    libraries   that decide what the extractor gives, with their versions (see `pqbench.scoring.libraries`)
    """
    return {
        "extractor": extractor.name,
        "extractor_sha256": extractor.sha256,
        "extractor_pixels": extractor.pixels,
        **({_LIBRARIES: libraries} if libraries else {}),
    }


def other_libraries(source: StatisticsFile, libraries: str) -> tuple[str, ...]:
    """A note where a file says that other releases of the extractor's libraries made it; they are not refused.

    The file's hash is in the protocol, so its values are told apart from those of statistics made here.
    """
    theirs = _maker(source.path).get(_LIBRARIES, libraries)
    if theirs == libraries:
        return ()
    return (
        f"{source.path} was made with {theirs}, and images are scored with {libraries or 'none of them'} here: give "
        "the real images themselves if the difference should not be in the values.",
    )


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix.lower() == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                names = {_NPZ_NAMES.get(name, name): name for name in arrays.files}
                return {name: _native(arrays[names[name]]) for name in _NAMES if name in names}
        return load_file(path)
    except DAMAGE as error:
        raise UserError(f"{path} cannot be read as statistics ({error}).") from None


def _maker(path: Path) -> dict[str, str]:
    """What a file says about its extractor; nothing in an .npz."""
    if path.suffix.lower() == ".npz":
        return {}
    with safe_open(path, "np") as file:
        return dict(file.metadata() or {})
