"""The contract of metrics: pqbench's own keep it, and each kind of breach is found."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from clip_files import ClipFiles

from pqbench.components import Registry
from pqbench.components.builtin import BUILTINS
from pqbench.contracts import Contribution, ImageMetric, MetricInputs, Score
from pqbench.scoring.metrics.clip_score import ClipScore
from pqbench.testing import ContractError, check_metric


@pytest.mark.parametrize("name", [name for name in BUILTINS["metric"] if name not in ("clip_score", "lpips_to_fp")])
def test_own_metrics(name: str) -> None:
    check_metric(Registry(list).get("metric", name)())


def test_a_metric_that_needs_weights(clip_files: ClipFiles) -> None:
    check_metric(ClipScore(), n=12, weights=clip_files.weights)
    with pytest.raises(ContractError, match="Give check_metric the weights that it needs"):
        check_metric(ClipScore(), n=12)


class Sound(ImageMetric):
    name = "sound"
    title = "Mean"
    direction = "lower"
    needs = ("features",)

    def compute(self, given: MetricInputs) -> Score:
        value = float(given.features.double().mean())
        return Score(value, value - 1, value + 1)

    def contribution(self, value: float, given: MetricInputs) -> Contribution | None:
        each = given.features.double().mean(1)
        return Contribution(value, each - each.mean(), 1 / len(each))


def changed(**parts: Any) -> ImageMetric:
    made: ImageMetric = type("Changed", (Sound,), parts)()
    return made


def spoils(self: ImageMetric, given: MetricInputs) -> Score:
    return Score(float(given.features.mul_(2).mean()))


def test_a_sound_metric_has_no_complaint() -> None:
    check_metric(Sound())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"title": ""}, "title"),
        ({"title": "{distance} of {nothing}"}, "more in braces"),
        ({"direction": "none"}, "direction"),
        ({"needs": ("pixels",)}, "its needs are"),
        ({"name": "stored_bytes"}, "means another measurement"),
        ({"unsuited": lambda self, setting: "it is Sunday"}, "it is Sunday"),
        ({"compute": lambda self, given: Score(random.random())}, "two different scores|random state"),
        ({"compute": lambda self, given: Score(float("nan"))}, "different|Its value is nan"),
        ({"compute": lambda self, given: Score(2.0, 3.0, 4.0)}, "does not hold its value"),
        ({"compute": lambda self, given: Score(2.0, 1.0)}, "one bound"),
        ({"compute": lambda self, given: Score(float(given.logits.mean()))}, "logits is not among the metric's needs"),
        ({"compute": spoils}, "changed the features"),
        ({"contribution": lambda self, value, given: Contribution(value, torch.ones(64), 1 / 64)}, "mean zero"),
        ({"contribution": lambda self, value, given: Contribution(value, torch.zeros(3), 1 / 64)}, r"shape \(3,\)"),
        ({"contribution": lambda self, value, given: Contribution(0.5, torch.zeros(64), 1 / 64)}, "another value"),
        ({"compute": lambda self, given: Score(2.0, each=torch.ones(64))}, r"torch.float32 for 64 images"),
        ({"compute": lambda self, given: Score(2.0, each=torch.ones(64).double())}, "not the mean of the values"),
    ],
)
def test_a_breach_is_named(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_metric(changed(**parts))
