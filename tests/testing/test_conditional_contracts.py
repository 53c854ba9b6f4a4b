"""The contracts on conditional workloads: sound ones pass, and what is wrong with the others is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from pqbench.calibration.uniform import Uniform
from pqbench.contracts import CalibrationSet, Context
from pqbench.testing.conditional import TinyLabelled, TinyText
from pqbench.testing.contracts import check_calibration_sampler, check_workload
from pqbench.testing.contracts.expect import ContractError


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


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(ContractError, match="depends on more than the seed, the purpose and its index"):
        check_workload(ByPlace())
    with pytest.raises(ContractError, match=r"conditions of 3 images are torch.float64 of shape \(3, 6, 8\)"):
        check_workload(Double())
    with pytest.raises(ContractError, match=r"conditions are \[\], not \[\(torch.int64, \(\)\)\]"):
        check_calibration_sampler(Forgetful(samples=4), workload=TinyLabelled())
