from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pqbench.evaluation.quality import check_acceptance, quality_metrics
from pydantic import ValidationError
from torch import Tensor

from pqbench.contracts.workload import AcceptanceWindow
from pqbench.errors import UserError
from pqbench.evaluation.features import extract_features
from pqbench.evaluation.frechet import frechet_distance
from pqbench.evaluation.paired import CAP_DB, psnr
from pqbench.evaluation.protocol import Protocol
from pqbench.testing.tiny import TinyWorkload


class Windowed(TinyWorkload):
    windows: ClassVar[tuple[AcceptanceWindow, ...]] = (AcceptanceWindow(n=64, steps=4, low=2.0, high=3.0),)

    def acceptance(self) -> tuple[AcceptanceWindow, ...]:
        return self.windows


def protocol(n: int = 64, **changes: Any) -> Protocol:
    settings: dict[str, Any] = {"n": n, "seeds": (0,), "budget": "quick", "sampling_batch": 32, "resamples": 100}
    return Protocol.of(TinyWorkload(), **(settings | changes))


def images(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)


def test_each_metric_says_what_it_is() -> None:
    ours, theirs = images(64) // 2, images(64)
    workload = TinyWorkload()
    features = extract_features(workload.extractor(), ours)
    metrics = quality_metrics(features, workload.reference(), protocol(), ours, theirs)
    assert set(metrics) == {"fd", "kid", "psnr_to_fp"}
    assert {name: metric.direction for name, metric in metrics.items()} == {
        "fd": "lower",
        "kid": "lower",
        "psnr_to_fp": "higher",
    }
    for metric in metrics.values():
        assert metric.low is not None
        assert metric.high is not None
        assert metric.low <= metric.value <= metric.high
        assert (metric.n, metric.protocol) == (64, protocol().id)
    assert metrics["fd"].detail["distance"] == "FD (tiny)"
    mean, covariance = features.double().mean(0), features.double().T.cov()
    reference = workload.reference()
    expected = frechet_distance(mean, covariance, reference.mean, reference.covariance)
    assert metrics["fd"].value == pytest.approx(expected, rel=1e-9)


def test_images_like_the_reference_score_better_than_darkened_ones() -> None:
    workload = TinyWorkload()
    alike, darker = (
        quality_metrics(extract_features(workload.extractor(), batch), workload.reference(), protocol())
        for batch in (images(64, seed=9), images(64, seed=9) // 2)
    )
    for name in ("fd", "kid"):
        assert alike[name].high is not None
        assert darker[name].low is not None
        assert alike[name].high < darker[name].low
    assert "psnr_to_fp" not in alike


def test_metrics_are_deterministic() -> None:
    workload = TinyWorkload()
    features = extract_features(workload.extractor(), images(64))
    first, second = (quality_metrics(features, workload.reference(), protocol()) for _ in range(2))
    assert first == second


def test_refuses_nan_features_and_another_count_than_the_protocols() -> None:
    reference = TinyWorkload().reference()
    with pytest.raises(UserError, match="1 of 64 images"):
        quality_metrics(torch.randn(64, 8).index_fill(0, torch.tensor([3]), float("nan")), reference, protocol())
    with pytest.raises(ValueError, match="scores 64 images"):
        quality_metrics(torch.randn(63, 8), reference, protocol())


def test_psnr_is_that_of_the_textbook_and_capped_without_error() -> None:
    first, second = images(5), images(5, seed=1)
    second[4] = first[4]
    values = psnr(first, second).numpy()
    errors = (first[:4].numpy().astype(float) - second[:4].numpy()) ** 2
    np.testing.assert_allclose(values[:4], 10 * np.log10(255**2 / errors.mean((1, 2, 3))))
    assert values[4] == CAP_DB
    one_level = first.clone()
    one_level[0, 0, 0, 0] = int(first[0, 0, 0, 0]) ^ 1
    assert psnr(first, one_level)[0] == pytest.approx(10 * math.log10(255**2 * 192))


def test_psnr_refuses_images_that_are_not_pairs() -> None:
    with pytest.raises(UserError, match="same uint8 images"):
        psnr(images(5), images(4))
    with pytest.raises(UserError, match="no images"):
        psnr(images(0), images(0))


def test_a_protocols_id_follows_everything_it_fixes() -> None:
    base = protocol()
    assert base.id == protocol().id
    assert len(base.id) == 8
    ids = {base.id}
    other: dict[type, Any] = {int: 7, str: "other", tuple: (1, 2)}
    for name, value in base:
        if name != "family":
            ids.add(base.model_copy(update={name: other[type(value)]}).id)
    assert len(ids) == len(base.facts)
    assert Protocol.model_validate(base.facts) == base


def test_a_protocol_cannot_be_changed_or_hold_less_than_two_images() -> None:
    with pytest.raises(ValidationError):
        protocol().n = 3  # type: ignore[misc]
    with pytest.raises(ValidationError):
        protocol(n=1)


@pytest.mark.parametrize(("steps", "n", "fd"), [(4, 64, 2.0), (4, 64, 2.9), (2, 64, 9.0), (4, 32, 9.0)])
def test_nothing_is_said_inside_the_window_or_without_one(steps: int, n: int, fd: float) -> None:
    assert check_acceptance(Windowed(), steps, n, fd) == ""


@pytest.mark.parametrize("fd", [1.99, 3.01, float("nan")])
def test_a_distance_outside_the_window_is_named_with_its_bounds(fd: float) -> None:
    message = check_acceptance(Windowed(), 4, 64, fd)
    assert "from 2.00 to 3.00" in message
    assert "tiny" in message
