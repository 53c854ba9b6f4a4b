"""Which layers are quantized, and to how many bits."""

from __future__ import annotations

import pytest
import torch
from mini_denoiser import Example, MiniDenoiser, make_net
from torch import nn

from pqbench.base.errors import UserError
from pqbench.contracts.precision import Precision
from pqbench.quantization.net.layers import QuantizedLayer, quantized_layers
from pqbench.quantization.net.scope import execution_order, first_and_last, quantize_layers

ORDER = ["embed", "conv_in", "down", "attention.qkv", "attention.out", "conv_out"]


def bits_of(net: nn.Module) -> dict[str, tuple[int, int]]:
    return {name: (layer.w_bits, layer.activation.bits) for name, layer in quantized_layers(net)}


def test_layers_come_in_the_order_in_which_they_run(net: MiniDenoiser, example: Example) -> None:
    assert execution_order(net, lambda: net(*example)) == ORDER


def test_the_ends_are_the_layers_that_read_x_and_make_the_prediction(net: MiniDenoiser, example: Example) -> None:
    assert first_and_last(net, example) == ("conv_in", "conv_out")
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not any(module._forward_pre_hooks for module in net.modules())


def test_a_net_that_ignores_its_input_has_no_ends(net: MiniDenoiser, example: Example) -> None:
    class Blind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.net(torch.zeros_like(x), t)

    with pytest.raises(UserError, match="reads x_t"):
        quantize_layers(Blind(), Precision(4, 4), example, end_bits=8)


def test_every_layer_that_runs_is_replaced(net: MiniDenoiser, example: Example) -> None:
    assert quantize_layers(net, Precision(4, 6), example) == ORDER
    assert bits_of(net) == dict.fromkeys(ORDER, (4, 6))
    assert isinstance(net.unused, nn.Linear)


@pytest.mark.parametrize(
    ("precision", "end_bits", "expected"),
    [("w4a4", 8, (8, 8)), ("w8a8", 6, (8, 8)), ("w4a32", 8, (8, 32)), ("w32a4", 8, (32, 8)), ("w4a4", None, (4, 4))],
)
def test_the_ends_are_never_narrower(
    example: Example, precision: str, end_bits: int | None, expected: tuple[int, int]
) -> None:
    net, stated = make_net(), Precision.parse(precision)
    quantize_layers(net, stated, example, end_bits=end_bits)
    found = bits_of(net)
    assert {found.pop("conv_in"), found.pop("conv_out")} == {expected}
    assert set(found.values()) == {(stated.w, stated.a)}


def test_named_layers_are_wide(net: MiniDenoiser, example: Example) -> None:
    quantize_layers(net, Precision(4, 32), example, end_bits=6, wide=["attention.*", "conv_in"], exempt=["embed"])
    assert bits_of(net) == {
        name: (4, 32) if name == "down" else (6, 32) if name == "conv_out" else (8, 32) for name in bits_of(net)
    }
    assert "embed" not in bits_of(net)


def test_wide_layers_are_not_exempt_ones(net: MiniDenoiser, example: Example) -> None:
    with pytest.raises(UserError, match=r"wide='embed' matches no layer"):
        quantize_layers(net, Precision(4, 4), example, wide=["embed"], exempt=["embed"])


def test_exempt_layers_stay(net: MiniDenoiser, example: Example) -> None:
    left = quantize_layers(net, Precision(4, 4), example, exempt=["attention.*", "embed"])
    assert left == ["conv_in", "down", "conv_out"]
    assert isinstance(net.attention.qkv, nn.Linear)
    assert not any(isinstance(module, QuantizedLayer) for module in net.attention.modules())


def test_a_pattern_without_a_layer_is_a_mistake(net: MiniDenoiser, example: Example) -> None:
    with pytest.raises(UserError, match=r"'attn\.\*' matches no layer.*attention\.qkv"):
        quantize_layers(net, Precision(4, 4), example, exempt=["attn.*"])


def test_exempting_everything_is_a_mistake(net: MiniDenoiser, example: Example) -> None:
    with pytest.raises(UserError, match="Nothing is left"):
        quantize_layers(net, Precision(4, 4), example, exempt=["*"])


def test_at_full_precision_the_net_is_unchanged(example: Example) -> None:
    net, reference = make_net(), make_net()
    quantize_layers(net, Precision(), example)
    assert torch.equal(net(*example), reference(*example))
