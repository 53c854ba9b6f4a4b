"""Fixtures of a small denoiser, for the tests that quantize and inspect one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mini_denoiser import Example, MiniDenoiser, freeze, make_net
from torch import nn

from pqbench.contracts.precision import Precision
from pqbench.quantization.net.scope import quantize_layers


@pytest.fixture
def example() -> Example:
    generator = torch.Generator().manual_seed(7)
    return torch.randn(2, 4, 8, 8, generator=generator), torch.tensor([3, 900])


@pytest.fixture
def net() -> MiniDenoiser:
    return make_net()


@pytest.fixture
def quantized(example: Example) -> Callable[..., nn.Module]:
    """quantized("w4a4", end_bits=8, ...): a frozen quantized net."""

    def make(precision: str, **options: object) -> nn.Module:
        made = make_net()
        quantize_layers(made, Precision.parse(precision), example, **options)
        return freeze(made)

    return make
