"""The contract of metrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pqbench.contracts import Contribution, ImageMetric, MetricInputs, Reference, Score, ScoringRules, Setting
from pqbench.contracts.metric import Need
from pqbench.scoring.values import inputs_of
from pqbench.testing.checks.expect import expect, expect_sound_facts
from pqbench.testing.checks.leaks import no_leaked_globals

WIDTH, CLASSES, SIDE = 6, 5, 16
"""Of a feature, of the logits, and of an image."""


def metric_inputs(metric: ImageMetric, n: int = 64, seed: int = 0, weights: Path | None = None) -> MetricInputs:
    """What the metric needs, of n random images that resemble their full-precision partners, and 2 n real ones.

    weights   the file that it needs
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    fp_features, real, spatial = draw(n, WIDTH), draw(2 * n, WIDTH), draw(n, WIDTH)
    fp_images = (draw(n, 3, SIDE, SIDE) * 40 + 128).clamp(0, 255).to(torch.uint8)
    images = (fp_images + 12 * draw(n, 3, SIDE, SIDE)).clamp(0, 255).to(torch.uint8)
    statistics = real.double().mean(0), real.double().T.cov()
    reference = Reference(*statistics, real, 2 * n, "0" * 64, statistics)
    given: dict[Need, Any] = {
        "features": 1.2 * fp_features + 0.3 * draw(n, WIDTH),
        "spatial": spatial,
        "logits": 2 * draw(n, CLASSES),
        "reference": reference,
        "images": [images[: n // 2], images[n // 2 :]],
        "fp_images": [fp_images[: n // 2], fp_images[n // 2 :]],
        "fp_features": fp_features,
        "prompts": tuple(f"picture {i % 7} of {i // 7}" for i in range(n)),
    }
    given["images"], given["fp_images"] = _Batches(given["images"]), _Batches(given["fp_images"])
    sources: dict[Need, Callable[[], Any]] = {need: lambda value=value: value for need, value in given.items()}  # type: ignore[misc]
    rules = ScoringRules(n, "FD", "random", resamples=50, kid_subsets=10, kid_subset_size=n // 2)
    return replace(inputs_of(metric, rules, sources), weights=weights)


def check_metric(metric: ImageMetric, *, n: int = 64, weights: Path | None = None) -> None:
    """Check a metric on n random images.

    weights   the file that it needs, where it needs one

    It is computed from what it states in `needs` alone, gives a finite number within its interval, the same one each
    time, changes nothing that it was given, and what images contribute to it has mean zero.
    """
    expect_sound_facts(type(metric))
    expect(
        "{" not in metric.title.replace("{distance}", ""),
        f"Its title {metric.title!r} has more in braces than {{distance}}.",
    )
    reason = metric.unsuited(Setting(n, (3, SIDE, SIDE), WIDTH, 2 * n))
    expect(not reason, f"It cannot be computed for {n} images ({reason}): give check_metric another n.")
    expect(
        (metric.weights() is None) == (weights is None), "Give check_metric the weights that it needs, and no others."
    )
    first, second = (_computed(metric, n, weights) for _ in range(2))
    expect(first == second, "The same images give two different scores: draw from seeds alone.")
    expect(math.isfinite(first.value), f"Its value is {first.value}.")
    if first.low is not None and first.high is not None:
        interval = f"[{first.low}, {first.high}]"
        expect(
            first.low <= first.value <= first.high, f"Its interval {interval} does not hold its value {first.value}."
        )
    expect((first.low is None) == (first.high is None), "Its interval has one bound.")
    with no_leaked_globals():
        contribution = metric.contribution(first.value, metric_inputs(metric, n, weights=weights))
    if contribution is not None:
        _expect_sound_contribution(contribution, first, n)
    if first.each is not None:
        _expect_its_mean(first.each, first.value, n)


def _computed(metric: ImageMetric, n: int, weights: Path | None) -> Score:
    given, untouched = (metric_inputs(metric, n, weights=weights) for _ in range(2))
    with no_leaked_globals():
        try:
            score = metric.compute(given)
        except LookupError as error:
            expect(False, str(error).strip("'\""))
            raise
    for need in given.sources:
        expect(_same(given.sources[need](), untouched.sources[need]()), f"It changed the {need} that it was given.")
    return replace(score, detail=dict(score.detail))


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, Reference):
        return torch.equal(a.mean, b.mean) and torch.equal(a.features, b.features)
    if isinstance(a, tuple):
        return bool(a == b)
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _expect_sound_contribution(contribution: Contribution, score: Score, n: int) -> None:
    images = contribution.images
    expect(images.shape == (n,), f"It gives contributions of shape {tuple(images.shape)} for {n} images.")
    centred = abs(float(images.mean())) <= 1e-6 * (1 + float(images.abs().max()))
    expect(centred, "What images contribute to it does not have mean zero.")
    expect(contribution.value == score.value, "Its contributions belong to another value.")


def _expect_its_mean(each: Tensor, value: float, n: int) -> None:
    sound = each.shape == (n,) and each.dtype == torch.float64
    expect(sound, f"It keeps values of shape {tuple(each.shape)} and type {each.dtype} for {n} images.")
    near = abs(float(each.mean()) - value) <= 1e-9 * (1 + abs(value))
    expect(near, f"Its value {value} is not the mean of the values that it keeps, {float(each.mean())}.")


class _Batches:
    """Images in memory that come in batches."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return sum(map(len, self.batches))

    def __iter__(self) -> Any:
        return iter(self.batches)
