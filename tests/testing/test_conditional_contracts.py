"""The contracts on conditional workloads: sound ones pass, and what is wrong with the others is said."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from pqbench.calibration.uniform import Uniform
from pqbench.contracts import CalibrationSet, Context
from pqbench.testing import check_calibration_sampler, check_workload
from pqbench.testing.checks.expect import ContractError
from pqbench.testing.conditional import TinyLabelled, TinyText
from pqbench.testing.tiny import TinyWorkload


@pytest.mark.parametrize("workload", [TinyLabelled(), TinyText()], ids=lambda w: w.name)
def test_sound_conditional_workloads_pass(workload: TinyLabelled | TinyText) -> None:
    check_workload(workload)


class ByPlace(TinyLabelled):
    """Numbers its images by their place in the call."""

    name: ClassVar[str] = "by-place"

    def condition(self, seed: int, indices: Sequence[int], purpose: str = "image") -> tuple[Tensor, ...]:
        return (torch.arange(len(indices)),)


class TakesDoubles(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x_t: Tensor, t: Tensor, text: Tensor) -> Tensor:
        prediction: Tensor = self.net(x_t, t, text.float())
        return prediction


class Double(TinyText):
    """Has embeddings of a type that no calibration set holds; its net takes them all the same."""

    name: ClassVar[str] = "double"

    def architecture(self) -> nn.Module:
        return TakesDoubles(super().architecture()).eval()

    def condition(self, seed: int, indices: Sequence[int], purpose: str = "image") -> tuple[Tensor, ...]:
        return tuple(each.double() for each in super().condition(seed, indices, purpose))


class Forgetful(Uniform):
    """Leaves out the conditions."""

    name: ClassVar[str] = "forgetful"

    def sample(self, context: Context) -> CalibrationSet:
        drawn = super().sample(context)
        return CalibrationSet(drawn.x_t, drawn.t, drawn.workload, drawn.facts)


def by_place(self: TinyText, seed: int, indices: Sequence[int], purpose: str = "image") -> tuple[str, ...]:
    return tuple(f"picture {place}" for place in range(len(indices)))


def anew(self: TinyText, seed: int, indices: Sequence[int], purpose: str = "image") -> tuple[str, ...]:
    return tuple(f"picture {i}, {next(CALLS)}" for i in indices)


def for_images_alone(self: TinyText, seed: int, indices: Sequence[int], purpose: str = "image") -> tuple[str, ...]:
    return tuple(f"picture {i}" for i in indices) if purpose == "image" else ()


CALLS = itertools.count()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"prompts": lambda self, seed, indices, purpose="image": ("one",)}, "prompts of 3 images are .*, not a tuple"),
        ({"prompts": lambda self, seed, indices, purpose="image": [1] * len(indices)}, "not a tuple of 3 texts"),
        ({"prompts": by_place}, "prompt of an image depends on more than"),
        ({"prompts": anew}, "change from call to call"),
        ({"prompts": for_images_alone}, "3 prompts for 3 images and 0 for calibration"),
    ],
)
def test_what_is_wrong_with_prompts_is_said(parts: dict[str, object], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_workload(type("Wrong", (TinyText,), parts)())


def test_prompts_of_a_model_that_is_not_told_them() -> None:
    wrong = type("Wrong", (TinyWorkload,), {"prompts": TinyText.prompts})()
    with pytest.raises(ContractError, match="has prompts and no condition"):
        check_workload(wrong)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ContractError, match="depends on more than the seed, the purpose and its index"):
        check_workload(ByPlace())
    with pytest.raises(ContractError, match=r"conditions of 3 images are torch.float64 of shape \(3, 6, 8\)"):
        check_workload(Double())
    with pytest.raises(ContractError, match=r"conditions are \[\], not \[\(torch.int64, \(\)\)\]"):
        check_calibration_sampler(Forgetful(samples=4), workload=TinyLabelled())
