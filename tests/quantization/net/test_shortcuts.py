"""Split shortcuts: found where a concatenation feeds a layer, and in full precision the layer itself."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from diffusers_nets import make_diffusers_net
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts.precision import Precision
from pqbench.quantization.net.layers import QuantizedLayer, quantized_layers
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.net.shortcuts import SplitLayer, concatenated_inputs, split_layer
from pqbench.quantization.ranges.fitting import calibrate_weights
from pqbench.quantization.ranges.rules import minmax

LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "pointwise": lambda width: nn.Conv2d(width, 5, 1),
    "strided": lambda width: nn.Conv2d(width, 5, 3, stride=2, padding=1, bias=False),
    "dilated": lambda width: nn.Conv2d(width, 5, 3, dilation=2, padding="same"),
    "conv1d": lambda width: nn.Conv1d(width, 5, 3, padding=1),
    "linear": lambda width: nn.Linear(width, 5),
}


def input_of(kind: str, width: int) -> Tensor:
    shape = {"conv1d": (2, width, 9), "linear": (2, 7, width)}.get(kind, (2, width, 8, 8))
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@given(kind=st.sampled_from(sorted(LAYERS)), widths=st.lists(st.integers(1, 6), min_size=2, max_size=4))
@settings(max_examples=40, deadline=None)
def test_the_parts_add_up_to_the_layer(kind: str, widths: list[int]) -> None:
    net = nn.Sequential(LAYERS[kind](sum(widths)))
    x = input_of(kind, sum(widths))
    expected = net.double()(x.double())
    net.float()
    state = torch.get_rng_state()
    names = split_layer(net, "0", widths)
    assert torch.equal(torch.get_rng_state(), state)
    assert names == [f"0.parts.{place}" for place in range(len(widths))]
    assert [net.get_submodule(name).weight.shape[1] for name in names] == widths  # type: ignore[union-attr, index]
    torch.testing.assert_close(net(x).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("layer", "widths", "says"),
    [
        (nn.Conv2d(8, 8, 3, groups=2), [4, 4], "grouped"),
        (nn.Conv2d(8, 8, 3), [4, 5], "cannot be split into"),
        (nn.Conv2d(8, 8, 3), [8], "cannot be split into"),
        (nn.Linear(8, 8), [8, 0], "cannot be split into"),
    ],
)
def test_what_cannot_be_split(layer: nn.Module, widths: list[int], says: str) -> None:
    with pytest.raises(UserError, match=says):
        split_layer(nn.Sequential(layer), "0", widths)


SHORTCUTS = {
    "net.up_blocks.0.resnets.0.conv_shortcut": (16, 16),
    "net.up_blocks.0.resnets.1.conv_shortcut": (16, 8),
    "net.up_blocks.1.resnets.0.conv_shortcut": (16, 8),
    "net.up_blocks.1.resnets.1.conv_shortcut": (8, 8),
}


@pytest.fixture
def example() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(2)), torch.tensor([3, 8])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("UNet2DModel", SHORTCUTS), ("UNet2DConditionModel", SHORTCUTS)]
    + [(kind, {}) for kind in ("DiTTransformer2DModel", "Transformer2DModel")],
)
def test_up_path_shortcuts_are_found_and_nothing_else(
    kind: str, expected: dict[str, tuple[int, int]], example: tuple[Tensor, Tensor]
) -> None:
    net = make_diffusers_net(kind)
    assert concatenated_inputs(net, example) == expected
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not any(module._forward_pre_hooks for module in net.modules())


@pytest.mark.parametrize("kind", ["UNet2DModel", "UNet2DConditionModel"])
@torch.no_grad()
def test_a_net_with_split_shortcuts_is_the_same_net(kind: str, example: tuple[Tensor, Tensor]) -> None:
    net = make_diffusers_net(kind)
    expected = net(*example)
    for name, widths in concatenated_inputs(net, example).items():
        split_layer(net, name, widths)
    torch.testing.assert_close(net(*example), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


class Concatenating(nn.Module):
    """Layers behind a concatenation in every way that counts, and that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Linear(2, 3)
        self.first = nn.Conv2d(3, 4, 1)
        self.direct = nn.Conv2d(7, 4, 3, padding=1)
        self.normed = nn.Conv2d(7, 4, 1)
        self.grouped = nn.Conv2d(8, 4, 1, groups=2)
        self.conditioned = nn.Conv2d(5, 4, 1)
        self.shared = nn.Conv2d(4, 4, 1)
        self.rows = nn.Linear(8, 8)
        self.three = nn.Conv2d(11, 3, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        time = self.time(torch.cat([t.sin()[:, None], t.cos()[:, None]], 1))[:, :, None, None]
        h = self.first(x + time)
        both = torch.cat([h, x], 1)
        h = self.direct(both) + self.normed(both.tanh())
        h = h + self.grouped(torch.concat((h, h), dim=-3))
        h = h + self.conditioned(torch.cat([h, torch.ones_like(h[:, :1])], dim=1))
        h = self.shared(torch.cat([h[:, :1], h[:, 1:]], 1)) + self.shared(h)
        h = self.rows(torch.cat([h[..., :4], h[:, :2].repeat(1, 2, 1, 1)[..., 4:]], dim=-1))
        return self.three(torch.concatenate([h, x, h], axis=1))


def test_only_a_concatenation_that_feeds_a_layer_directly_counts(example: tuple[Tensor, Tensor]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Concatenating()
    assert concatenated_inputs(net, example) == {"direct": (4, 3), "rows": (4, 4), "three": (4, 3, 4)}


def test_each_half_is_on_grids_of_its_own(example: tuple[Tensor, Tensor]) -> None:
    net = make_diffusers_net("UNet2DModel")
    name = "net.up_blocks.0.resnets.1.conv_shortcut"
    weight = net.get_parameter(f"{name}.weight").detach()
    weight[:, 16:] *= 50  # what is read from the skip
    chosen = quantize_layers(net, Precision(4, 8), example, split_shortcuts=True)
    calibrate_weights(net, minmax)
    layers = dict(quantized_layers(net))
    assert [part for part in chosen if "conv_shortcut.parts" in part] == [
        f"{each}.parts.{place}" for each in SHORTCUTS for place in (0, 1)
    ]
    assert set(chosen) == layers.keys()
    split = net.get_submodule(name)
    assert isinstance(split, SplitLayer)
    assert split.widths == [16, 8]
    first, second = layers[f"{name}.parts.0"], layers[f"{name}.parts.1"]
    assert (first.bias is not None, second.bias is None) == (True, True)
    for layer, columns in ((first, weight[:, :16]), (second, weight[:, 16:])):
        torch.testing.assert_close(layer.weight_scale, _symmetric_scales(columns))
    # On one grid, all but the largest weights of the first half would be rounded to zero.
    assert float((first.weight != 0).float().mean()) > 0.8


def _symmetric_scales(weight: Tensor) -> Tensor:
    rows = weight.flatten(1).double()
    return torch.maximum(rows.amax(1) / 7, rows.amin(1) / -8).float()


def test_at_full_precision_nothing_is_split(example: tuple[Tensor, Tensor]) -> None:
    net = make_diffusers_net("UNet2DModel")
    expected = net(*example)
    quantize_layers(net, Precision(), example, split_shortcuts=True, attention=True)
    assert torch.equal(net(*example), expected)


def test_an_end_of_the_net_that_is_split_stays_wide(example: tuple[Tensor, Tensor]) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Concatenating()
    quantize_layers(net, Precision(4, 4), example, end_bits=8, split_shortcuts=True)
    bits = {name: (layer.w_bits, layer.activation.bits) for name, layer in quantized_layers(net)}
    assert {name for name, each in bits.items() if each == (8, 8)} == {"first", *(f"three.parts.{i}" for i in range(3))}


def test_a_quantized_layer_is_not_split_again(example: tuple[Tensor, Tensor]) -> None:
    net = make_diffusers_net("UNet2DModel")
    quantize_layers(net, Precision(4, 4), example)
    assert concatenated_inputs(net, example) == {}
    assert isinstance(net.get_submodule(next(iter(SHORTCUTS))), QuantizedLayer)
