"""The image metrics of one cell, each with its interval and its protocol."""

from __future__ import annotations

from torch import Tensor

from pqbench.bench.records import Metric
from pqbench.contracts.workload import AcceptanceWindow, Reference, Workload
from pqbench.evaluation.bootstrap import frechet_replicates, mean_replicates, pivot_interval
from pqbench.evaluation.features import require_finite
from pqbench.evaluation.frechet import FeatureStatistics, frechet_distance
from pqbench.evaluation.kernel import kernel_distance, kernel_interval
from pqbench.evaluation.paired import psnr
from pqbench.evaluation.protocol import Protocol


def quality_metrics(
    features: Tensor,
    reference: Reference,
    protocol: Protocol,
    images: Tensor | None = None,
    fp_images: Tensor | None = None,
) -> dict[str, Metric]:
    """fd and kid of features (n, D) and, where both sets of images are given, psnr_to_fp.

    images, fp_images   (n, C, H, W) uint8 of the cell and of the full-precision model, from the same noise

    Raises `UserError` for features that are not finite, ValueError when there are not as many as the protocol says.
    """
    if len(features) != protocol.n:
        raise ValueError(f"The protocol scores {protocol.n} images; features of {len(features)} were given.")
    require_finite(features, "The images")
    metrics = {
        "fd": frechet_metric(features, reference, protocol),
        "kid": kernel_metric(features, reference, protocol),
    }
    if images is not None and fp_images is not None:
        metrics["psnr_to_fp"] = paired_metric(images, fp_images, protocol)
    return metrics


def frechet_metric(features: Tensor, reference: Reference, protocol: Protocol) -> Metric:
    """Frechet distance of the features' Gaussian to the reference's."""
    statistics = FeatureStatistics(features.shape[1])
    statistics.add(features)
    value = frechet_distance(statistics.mean, statistics.covariance, reference.mean, reference.covariance)
    replicates = frechet_replicates(
        features, reference.mean, reference.covariance, protocol.bootstrap_resamples, protocol.bootstrap_seed
    )
    low, high = pivot_interval(value, replicates)
    return Metric(
        value=value,
        low=max(0.0, low),
        high=high,
        unit="",
        direction="lower",
        n=protocol.n,
        protocol=protocol.id,
        detail={"distance": f"{protocol.distance} ({protocol.extractor})"},
    )


def kernel_metric(features: Tensor, reference: Reference, protocol: Protocol) -> Metric:
    """Kernel distance of the features to the reference's kept ones."""
    distance = kernel_distance(
        features, reference.features, protocol.kid_subsets, protocol.kid_subset_size, protocol.kid_seed
    )
    low, high = kernel_interval(
        distance, features, reference.features, protocol.bootstrap_resamples, protocol.bootstrap_seed
    )
    return Metric(
        value=distance.value,
        low=low,
        high=high,
        unit="",
        direction="lower",
        n=protocol.n,
        protocol=protocol.id,
        detail={"subset_std": distance.subset_std},
    )


def paired_metric(images: Tensor, fp_images: Tensor, protocol: Protocol) -> Metric:
    """Mean over the images of the PSNR to the full-precision model's image of the same noise."""
    values = psnr(images, fp_images)
    value = float(values.mean())
    low, high = pivot_interval(value, mean_replicates(values, protocol.bootstrap_resamples, protocol.bootstrap_seed))
    return Metric(value=value, low=low, high=high, unit="dB", direction="higher", n=len(values), protocol=protocol.id)


def check_acceptance(workload: Workload, steps: int, n: int, fd: float) -> str:
    """One sentence when the full-precision model's distance lies outside the workload's window, else nothing."""
    window = _window(workload, steps, n)
    if window is None or window.low <= fd <= window.high:
        return ""
    return (
        f"The full-precision model of {workload.name} has {workload.distance} {fd:.2f} at {n} images and "
        f"{steps} steps, outside its acceptance window from {window.low:.2f} to {window.high:.2f}: "
        "this installation or protocol differs from the one that made the window, so no method is comparable. Look at "
        "its first images (cells/ in the run's folder), at pqbench env against the environment in the manifest of a "
        "run that was accepted (torch first), and at the protocol's sha256 of extractor and reference."
    )


def acceptance_note(workload: Workload, steps: int, n: int, fd: float) -> str:
    """What a reader must know of an accepted full-precision model: in which window it lies, or that there is none."""
    window = _window(workload, steps, n)
    if window is None:
        return f"No acceptance window is known for {n} images in {steps} steps: the full-precision model is unchecked."
    return f"{workload.distance} {fd:.2f} lies in its acceptance window, {window.low:.2f} to {window.high:.2f}."


def _window(workload: Workload, steps: int, n: int) -> AcceptanceWindow | None:
    return next((window for window in workload.acceptance() if (window.steps, window.n) == (steps, n)), None)
