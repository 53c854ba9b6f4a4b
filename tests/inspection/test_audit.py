"""The bit audit and the check behind it, against counts made by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from mini_denoiser import Example, MiniDenoiser
from torch import nn

from pqbench.base.errors import UserError
from pqbench.contracts.precision import Precision
from pqbench.inspection.audit import audit
from pqbench.inspection.macs import own_macs
from pqbench.quantization.net.verify import verify
from pqbench.results import records

Maker = Callable[..., nn.Module]

WEIGHTS = {
    "embed": 6 * 8,
    "unused": 3 * 3,
    "conv_out": 8 * 4 * 9,
    "conv_in": 4 * 8 * 9,
    "down": 8 * 4 * 9,
    "attention.qkv": 8 * 24,
    "attention.out": 8 * 8,
}
MACS = {  # of the two images of the example: weights x positions
    "embed": 2 * WEIGHTS["embed"],
    "conv_in": 2 * 64 * WEIGHTS["conv_in"],
    "down": 2 * 16 * WEIGHTS["down"],
    "attention.qkv": 2 * 16 * WEIGHTS["attention.qkv"],
    "attention.out": 2 * 16 * WEIGHTS["attention.out"],
    "conv_out": 2 * 64 * WEIGHTS["conv_out"],
    "attention": 2 * (16 * 16 * 8) * 2,  # q k' and the product with v
}


def average(counts: dict[str, int], bits: dict[str, int]) -> float:
    return sum(count * bits.get(name, 32) for name, count in counts.items()) / sum(counts.values())


def test_products_are_attributed_to_their_modules(net: MiniDenoiser, quantized: Maker, example: Example) -> None:
    for each in (net, quantized("w4a4")):
        macs = own_macs(each, example)
        assert {name: count for name, count in macs.items() if count} == MACS
        assert "norm" in macs
        assert "unused" not in macs
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in each.modules())


def test_a_module_that_runs_twice_counts_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x)) @ x.T

    macs = own_macs(Twice(), (torch.randn(5, 3), torch.zeros(5)))
    assert macs == {"layer": 2 * 5 * 9, "": 5 * 3 * 5}


def test_a_quantized_net(quantized: Maker, example: Example) -> None:
    found = audit(quantized("w4a6", end_bits=8, exempt=["attention.out"]), example, Precision(4, 6))
    ends = {"conv_in": 8, "conv_out": 8}
    w = {"embed": 4, "down": 4, "attention.qkv": 4, **ends}
    a = {"embed": 6, "down": 6, "attention.qkv": 6, **ends}
    assert found.average_weight_bits == pytest.approx(average(WEIGHTS, w))
    assert found.average_activation_bits == pytest.approx(average(MACS, a))
    assert set(found.full_precision_layers) == {"unused", "attention.out"}
    assert found.wider_layers == {"conv_in": "w8a8", "conv_out": "w8a8"}
    assert found.activation_parameter_sets == 1
    assert found.full_precision_operations == ("GroupNorm (1)", "SelfAttention products (1)", "SiLU (1)")
    assert isinstance(found, records.Audit)


def test_a_full_precision_net(net: MiniDenoiser, example: Example) -> None:
    found = audit(net, example)
    assert (found.average_weight_bits, found.average_activation_bits) == (32, 32)
    assert set(found.full_precision_layers) == set(WEIGHTS)
    assert found.wider_layers == {}
    assert found.activation_parameter_sets == 0


def test_weights_alone_are_quantized(quantized: Maker, example: Example) -> None:
    found = audit(quantized("w4a32"), example, Precision(4, 32))
    assert found.average_activation_bits == 32
    assert found.average_weight_bits == pytest.approx(average(WEIGHTS, dict.fromkeys(WEIGHTS.keys() - {"unused"}, 4)))
    assert found.wider_layers == {}
    assert found.activation_parameter_sets == 0


def test_a_layer_that_kept_its_float_weight_is_listed(quantized: Maker, example: Example) -> None:
    found = audit(quantized("w32a4"), example, Precision(4, 4))
    assert found.average_weight_bits == 32
    assert set(found.full_precision_layers) == set(WEIGHTS)
    assert found.wider_layers == dict.fromkeys(WEIGHTS.keys() - {"unused"}, "w32a4")


def test_without_a_stated_precision_the_narrowest_counts(quantized: Maker, example: Example) -> None:
    assert set(audit(quantized("w4a4", end_bits=8), example).wider_layers) == {"conv_in", "conv_out"}


def test_parameters_that_belong_to_no_layer_count(example: Example) -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.zeros(4, 8, dtype=torch.bfloat16))

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return x + self.table.float().view(1, 4, 1, 8)

    found = audit(Positions(), example)
    assert found.full_precision_layers == ("table",)
    assert found.average_weight_bits == 16


def test_a_table_over_time_steps_is_counted(quantized: Maker, example: Example) -> None:
    net = quantized("w4a4")
    net.unused = net.down  # a layer that does not run
    net.down = nn.Conv2d(8, 8, 3, stride=2, padding=1)
    net.unused.activation.scale = torch.ones(20)
    net.unused.activation.zero_point = torch.zeros(20, dtype=torch.int32)
    assert audit(net, example).activation_parameter_sets == 20


def off_grid(net: nn.Module) -> None:
    net.down.codes[0, 0, 0, 0] = 100


def changed_weight(net: nn.Module) -> None:
    net.down.weight[0, 0, 0, 0] += 1e-6


def wrong_type(net: nn.Module) -> None:
    net.down.codes = net.down.codes.to(torch.int16)


def claims_fewer_bits(net: nn.Module) -> None:
    net.down.w_bits = 3


def nan_weight(net: nn.Module) -> None:
    net.down.weight[0, 0, 0, 0] = float("nan")


def bad_scale(net: nn.Module) -> None:
    net.down.weight_scale[2] = 0


def bad_input_zero(net: nn.Module) -> None:
    net.down.activation.zero_point = torch.tensor(99, dtype=torch.int32)


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (off_grid, "its codes reach"),
        (changed_weight, "not what its codes stand for"),
        (wrong_type, "int16"),
        (claims_fewer_bits, "its codes reach"),
        (nan_weight, "NaN"),
        (bad_scale, "scale"),
        (bad_input_zero, "zero-point"),
    ],
)
def test_a_layer_that_is_not_what_it_says_is_named(
    quantized: Maker, example: Example, tamper: Callable[[nn.Module], None], says: str
) -> None:
    net = quantized("w4a4")
    verify(net)
    tamper(net)
    with pytest.raises(UserError, match="Layer down is not at w") as caught:
        audit(net, example)
    assert says in str(caught.value)
