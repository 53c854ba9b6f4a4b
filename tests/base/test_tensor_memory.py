"""The bytes of a tensor: its values in their order, whatever its layout in memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pqbench.base.tensor_memory import memory_of


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(24.0).reshape(2, 3, 4),
        torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1),
        torch.arange(8)[::2],
        torch.arange(8)[::8],  # one value, with a stride of 8
        torch.arange(8)[3],
        torch.zeros(0, 3),
        torch.tensor([1.5], requires_grad=True),
    ],
)
def test_they_are_those_of_a_copy_in_order(tensor: Tensor) -> None:
    assert bytes(memory_of(tensor)) == tensor.detach().numpy().tobytes()


def test_types_that_numpy_lacks() -> None:
    values = torch.tensor([1.0, -2.0], dtype=torch.bfloat16)
    assert bytes(memory_of(values)) == values.view(torch.int16).numpy().tobytes()
