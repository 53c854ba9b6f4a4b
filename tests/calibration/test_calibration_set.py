"""Calibration sets: what they hold, what they refuse, and their files."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.calibration.uniform import Uniform
from pqbench.contracts import CalibrationSet, Context, Precision, Workload
from pqbench.testing.conditional import CLASSES, TOKENS, WIDTH, TinyLabelled, TinyText
from pqbench.testing.tiny import TinyWorkload

COUNT = 5


def samples(**changes: Any) -> CalibrationSet:
    """A set with labels and embeddings."""
    generator = torch.Generator().manual_seed(0)
    contents: dict[str, Any] = {
        "x_t": torch.randn(COUNT, 3, 8, 8, generator=generator),
        "t": torch.arange(COUNT),
        "workload": "a fingerprint",
        "facts": {"sampler": "by hand"},
        "condition": (torch.arange(COUNT) + 10, torch.randn(COUNT, 4, 2, generator=generator)),
    }
    return CalibrationSet(**contents | changes)


def expect_equal(one: CalibrationSet, other: CalibrationSet) -> None:
    assert len(one.inputs()) == len(other.inputs())
    for mine, theirs in zip(one.inputs(), other.inputs(), strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)
    assert (one.workload, one.facts, one.prediction) == (other.workload, other.facts, other.prediction)


@given(conditions=st.lists(st.sampled_from([(), (3,), (2, 4)]), max_size=12), integers=st.booleans())
def test_a_set_survives_its_file(
    conditions: list[tuple[int, ...]], integers: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Also with more than ten conditions, whose names do not sort by their places."""
    values = [torch.full((COUNT, *shape), float(place)) for place, shape in enumerate(conditions)]
    made = samples(condition=tuple(each.long() if integers else each for each in values), prediction="v")
    path = tmp_path_factory.mktemp("sets") / "set.safetensors"
    made.save(path)
    read = CalibrationSet.load(path)
    expect_equal(read, made)
    assert read.digest == made.digest


def test_an_unconditional_set_keeps_the_digest_it_had() -> None:
    made = samples(condition=())
    parts = (made.workload.encode(), made.x_t.numpy().tobytes(), made.t.numpy().tobytes())
    assert made.digest == hashlib.sha256(b"".join(parts)).hexdigest()


def test_what_is_in_the_conditions_is_in_the_digest() -> None:
    labels, texts = samples().condition
    others = [
        (), (labels,), (texts,), (texts, labels), (labels + 1, texts), (labels, texts + 1),
        (labels, texts.reshape(COUNT, 2, 4)), (labels, texts.flatten(1)), (labels, *texts.unbind(1)),
        (labels.view(torch.float32).reshape(COUNT, 2), texts),
    ]  # fmt: skip
    digests = {samples(condition=condition).digest for condition in [(labels, texts), *others]}
    assert len(digests) == 1 + len(others)


@pytest.mark.parametrize("index", [slice(1, 3), torch.tensor([4, 0, 0]), slice(None)])
def test_inputs_and_subsets_take_the_same_samples_of_everything(index: slice | Tensor) -> None:
    made = samples()
    expected = (made.x_t[index], made.t[index], made.condition[0][index], made.condition[1][index])
    for found in (made.inputs(index), made.subset(index).inputs()):
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True))
    assert made.subset(index).facts == made.facts


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        (torch.zeros(4), r"of 5 samples needs conditions with as many rows.* one of shape \(4,\) and type float32"),
        (torch.tensor(3), r"one of shape \(\) and type int64"),
        (torch.zeros(5, dtype=torch.float16), r"of type int64 or float32; .* type float16"),
        (torch.full((5, 2), float("nan")), "NaN or infinite"),
        (torch.full((5, 2), -float("inf")), "NaN or infinite"),
    ],
)
def test_conditions_that_no_set_can_have(condition: Tensor, says: str) -> None:
    with pytest.raises(UserError, match=says):
        samples(condition=(condition,))


EMBEDDING = rf"a condition of shape \({TOKENS}, {WIDTH}\) and type float32"
LABEL = r"a condition of shape \(\) and type int64"


@pytest.mark.parametrize(
    ("workload", "condition", "found", "wanted"),
    [
        (TinyText(), (), "no condition", EMBEDDING),
        (TinyWorkload(), (torch.zeros(8, dtype=torch.int64),), LABEL, "no condition"),
        (TinyLabelled(), (torch.zeros(8, TOKENS, WIDTH),), EMBEDDING, LABEL),
        (TinyLabelled(), (torch.zeros(8),), r"a condition of shape \(\) and type float32", LABEL),
        (TinyText(), (torch.zeros(8, 1, WIDTH),), rf"a condition of shape \(1, {WIDTH}\) and type float32", EMBEDDING),
        (TinyLabelled(), (torch.zeros(8, dtype=torch.int64),) * 2, LABEL + r" and one of shape \(\).*", LABEL),
    ],
)
def test_a_set_with_other_conditions_than_the_workload_does_not_fit(
    workload: Workload, condition: tuple[Tensor, ...], found: str, wanted: str
) -> None:
    t = workload.timesteps(4).repeat(2)
    made = CalibrationSet(torch.zeros(8, 3, 8, 8), t, workload.fingerprint(), condition=condition)
    says = f"The calibration set is one with {found} a sample; {workload.name} needs {wanted}: draw it again"
    with pytest.raises(UserError, match=says):
        made.require_fits(workload)


@pytest.mark.parametrize("workload", [TinyWorkload(), TinyLabelled(), TinyText()], ids=lambda w: w.name)
def test_what_a_sampler_draws_fits_and_has_each_samples_own_condition(workload: Workload) -> None:
    drawn = Uniform(samples=6).sample(Context(workload, Precision(), workload.steps, seed=3))
    drawn.require_fits(workload)
    for i in range(6):
        alone = workload.condition(3, [i], "calibration/uniform")
        assert all(torch.equal(mine[i : i + 1], own) for mine, own in zip(drawn.condition, alone, strict=True))
    judged = workload.condition(3, range(6))
    assert not any(torch.equal(mine, theirs) for mine, theirs in zip(drawn.condition, judged, strict=True))


def test_the_labels_of_the_tiny_workload_are_classes() -> None:
    (labels,) = TinyLabelled().condition(0, range(200))
    assert set(labels.tolist()) == set(range(CLASSES))
