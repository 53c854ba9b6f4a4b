from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.components import Provenance, Registry
from pqbench.contracts import ImageMetric, MetricInputs, Reference, Score, Setting
from pqbench.contracts.workload import AcceptanceWindow
from pqbench.methods.composition import Part
from pqbench.results.records import Metric
from pqbench.scoring.acceptance import check_acceptance
from pqbench.scoring.choice import ALL, DEFAULT, choose_metrics
from pqbench.scoring.features import extract_features
from pqbench.scoring.formulas.frechet import frechet_distance
from pqbench.scoring.formulas.paired import CAP_DB, psnr
from pqbench.scoring.protocol import RunProtocol, metric_protocol
from pqbench.scoring.values import score
from pqbench.testing.tiny import TinyWorkload


class Windowed(TinyWorkload):
    windows: ClassVar[tuple[AcceptanceWindow, ...]] = (AcceptanceWindow(n=64, steps=4, low=2.0, high=3.0),)

    def acceptance(self) -> tuple[AcceptanceWindow, ...]:
        return self.windows


def protocol(n: int = 64, **changes: Any) -> RunProtocol:
    settings: dict[str, Any] = {"n": n, "seeds": (0,), "budget": "quick", "sampling_batch": 32, "resamples": 100}
    return RunProtocol.of(TinyWorkload(), **(settings | changes))


def images(n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, 8, 8), generator=generator, dtype=torch.uint8)


REGISTRY = Registry(list)
SETTING = Setting(n=64, image=(3, 8, 8), width=8, reference_features=256)


class InMemory(list[Tensor]):
    """One batch of images."""

    def __len__(self) -> int:
        return len(self[0])


def quality_metrics(
    features: Tensor,
    reference: Reference,
    rules: RunProtocol,
    ours: Tensor | None = None,
    theirs: Tensor | None = None,
    metrics: str = DEFAULT,
) -> dict[str, Metric]:
    sources: dict[Any, Any] = {"features": lambda: features, "reference": lambda: reference}
    if ours is not None and theirs is not None:
        sources |= {"images": lambda: InMemory([ours]), "fp_images": lambda: InMemory([theirs])}
    chosen, _ = choose_metrics(metrics, REGISTRY, "quick", SETTING, {})
    return score(chosen, sources, rules)


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
    assert [metric.title for metric in metrics.values()] == ["FD", "KID", "PSNR to FP"]
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


class Wrong(ImageMetric):
    name = "wrong"
    title = "Wrong"
    direction = "lower"
    needs = ("features",)
    value: ClassVar[float] = float("nan")

    def compute(self, given: MetricInputs) -> Score:
        if self.value == 0:
            given.logits  # noqa: B018
        return Score(self.value)


def wrong(value: float) -> Part[ImageMetric]:
    metric = type("Wrong", (Wrong,), {"value": value})()
    return Part(metric, {}, Provenance("elsewhere", "1.0", "wrong", "abc"))


def test_a_metric_gets_only_what_it_asked_for_and_must_give_a_number() -> None:
    sources: dict[Any, Any] = {"features": lambda: torch.zeros(64, 8), "logits": lambda: torch.zeros(64, 5)}
    with pytest.raises(UserError, match="metric wrong gave nan"):
        score([wrong(math.nan)], sources, protocol())
    with pytest.raises(LookupError, match="logits is not among the metric's needs"):
        score([wrong(0)], sources, protocol())


def test_a_metric_of_a_plugin_or_with_parameters_has_a_protocol_of_its_own() -> None:
    base = protocol()
    sources: dict[Any, Any] = {"features": lambda: torch.zeros(64, 8)}
    found = score([wrong(2.0)], sources, base)["wrong"]
    assert found.protocol != base.id
    assert found.detail["protocol"]["distribution"] == "elsewhere"
    assert found.detail["protocol"]["images"] == base.id
    parts = [choose_metrics(text, REGISTRY, "quick", SETTING, {})[0][0] for text in ("is", "is[splits=3]", "fd")]
    ids = [metric_protocol(part, base)[0] for part in parts]
    assert len(set(ids)) == 3
    assert ids[2] == base.id


def test_the_code_of_a_plugins_extractor_is_part_of_a_protocol_and_none_leaves_its_id() -> None:
    base = protocol()
    ids = {base.model_copy(update={"extractor_code": code}).id for code in ("", "a" * 64, "b" * 64)}
    assert len(ids) == 3
    assert base.id in ids
    assert "extractor_code" not in base.facts


def test_all_takes_what_can_be_computed_and_says_what_it_leaves_out() -> None:
    chosen, notes = choose_metrics(
        ALL, REGISTRY, "quick", SETTING, {"logits": "there are no logits", "prompts": "nor prompts"}
    )
    names = [part.component.name for part in chosen]
    assert names == ["fd", "kid", "psnr_to_fp", "fd_to_fp", "sfid", "precision", "recall", "fd_infinity"]
    assert len(notes) == 4
    assert any("is (there are no logits)" in note for note in notes)
    assert any("lpips_to_fp (with AlexNet it needs images of at least 31x31 pixels" in note for note in notes)
    assert any("ssim_to_fp (it needs images of at least 11x11 pixels" in note for note in notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fdd", "Did you mean fd"),
        ("fd,fd", "names fd 2 times"),
        ("is[splits=0]", "splits=0 is out of range"),
        ("is[split=2]", "no parameter 'split'"),
        ("is[splits=40]", "at least 80 images"),
        ("precision[k=64]", "more than 64 images"),
        ("ssim_to_fp", "cannot be computed here: it needs images of at least 11x11"),
        ("fd_infinity", "at least 320 images for 80 features"),
        ("", "list of metrics cannot be read"),
    ],
)
def test_a_metric_that_cannot_be_is_one_sentence(text: str, message: str) -> None:
    setting = Setting(n=64, image=(3, 8, 8), width=80 if "infinity" in text else 8, reference_features=256)
    with pytest.raises(UserError, match=message):
        choose_metrics(text, REGISTRY, "quick", setting, {})


def test_fewer_images_than_features_are_noted_by_frechet_distances_alone() -> None:
    reference = Reference(torch.zeros(80), torch.eye(80), torch.randn(256, 80), 256, "0" * 64)
    metrics = quality_metrics(torch.randn(64, 80), reference, protocol(), metrics="fd,kid")
    (note,) = metrics["fd"].detail["notes"]
    assert "64 images with 80 features" in note
    assert "notes" not in metrics["kid"].detail


def test_a_reference_of_fewer_images_than_features_is_noted_where_its_size_is_known() -> None:
    for n, count in ((80, 1), (81, 0), (0, 0)):
        reference = Reference(torch.zeros(80), torch.eye(80), torch.zeros(0, 80), n, "0" * 64)
        metrics = quality_metrics(torch.randn(100, 80), reference, protocol(), metrics="fd")
        notes = metrics["fd"].detail.get("notes", [])
        assert len(notes) == count
        assert all("A reference of 80 images with 80 features" in note for note in notes)


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
    # The type of kept features, a plugin's code and libraries are facts where they are not the usual ones.
    assert len(ids) == len(base.facts) + 3
    assert "features" not in base.facts
    assert RunProtocol.model_validate(base.facts) == base


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
