"""Scales of groups against torch's per-channel kernel, float64 arithmetic written out, and finite differences."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mini_denoiser import Example, make_net
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts.precision import Precision
from pqbench.inspection.audit import audit
from pqbench.quantization.checkpoint.io import load_checkpoint, read_header, save_checkpoint
from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.grids.groups import fit_groups, over_groups, scale_shape, spread
from pqbench.quantization.learning.learned_step import learned_fake_quantize
from pqbench.quantization.learning.tuning import settle, tune
from pqbench.quantization.net.layers import QuantizedLayer, quantized_layers
from pqbench.quantization.net.verify import verify
from pqbench.quantization.ranges.fitting import calibrate_weights, freeze_nearest
from pqbench.quantization.ranges.rules import lp_search, minmax, percentile

grids = st.builds(Grid, st.integers(2, 8), st.booleans())
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(10, 3), (2, 4, 10)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, padding=1), (2, 4, 9)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 7, 7)),
    "grouped conv2d": (lambda: nn.Conv2d(4, 6, 3, groups=2, bias=False), (2, 4, 7, 7)),
}


def blocks(weight: Tensor, size: int) -> list[list[np.ndarray]]:
    """The groups of every output channel, in float64."""
    flat = weight.detach().double().flatten(1).numpy()
    return [[row[i : i + size] for i in range(0, len(row), size)] for row in flat]


def by_hand(block: np.ndarray, grid: Grid, scale: float, zero: int) -> np.ndarray:
    return (np.clip(np.round(block / scale) + zero, grid.low, grid.high) - zero) * scale


def scale_by_hand(block: np.ndarray, grid: Grid) -> float:
    low, high = min(block.min(), 0.0), max(block.max(), 0.0)
    if grid.symmetric:
        return max(high / grid.high, low / grid.low)
    return (high - low) / (grid.high - grid.low)


def random_weight(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * 10 ** torch.randn(shape, generator=generator)


@settings(max_examples=60)
@given(grids, st.integers(1, 4), st.integers(1, 40), st.integers(1, 50), st.integers(0, 10_000))
def test_every_group_is_on_a_grid_of_its_own(grid: Grid, channels: int, length: int, size: int, seed: int) -> None:
    weight = random_weight(seed, channels, length)
    layer = QuantizedLayer(nn.Linear(length, channels), grid.bits, 32, grid.symmetric, group_size=size)
    layer.freeze(weight, *fit_groups(minmax, weight, grid, size))
    assert layer.weight_scale.shape == layer.weight_zero.shape == (channels, -(-length // size))
    assert layer.codes.shape == weight.shape
    for channel, row in enumerate(blocks(weight, size)):
        for place, block in enumerate(row):
            scale, zero = layer.weight_scale[channel, place], layer.weight_zero[channel, place]
            assert float(scale) == pytest.approx(scale_by_hand(block, grid), rel=1e-6)
            ratio = block / float(scale)
            # Between two codes float32 may decide either way; elsewhere there is one right answer.
            decided = np.abs(np.abs(ratio - np.floor(ratio)) - 0.5) > 1e-3
            part = slice(place * size, place * size + len(block))
            found = layer.weight[channel, part]
            expected = by_hand(block, grid, float(scale), int(zero))
            np.testing.assert_allclose(found.numpy()[decided], expected[decided], rtol=1e-5)
            kernel = torch.fake_quantize_per_tensor_affine(weight[channel, part], scale, zero, grid.low, grid.high)
            torch.testing.assert_close(found[torch.from_numpy(decided)], kernel[torch.from_numpy(decided)])


@settings(max_examples=30)
@given(grids, st.integers(1, 4), st.integers(1, 6), st.integers(1, 8), st.integers(0, 10_000))
def test_equal_groups_are_the_channels_of_torchs_kernel(
    grid: Grid, channels: int, groups: int, size: int, seed: int
) -> None:
    weight = random_weight(seed, channels, groups * size)
    scale, zero = fit_groups(minmax, weight, grid, size)
    found = grid.fake_quantize(weight, spread(scale, weight, size), spread(zero, weight, size))
    kernel = torch.fake_quantize_per_channel_affine(
        weight.view(-1, size), scale.flatten(), zero.flatten(), 0, grid.low, grid.high
    )
    undecided = ((weight / spread(scale, weight, size)).frac().abs() - 0.5).abs() < 1e-3
    torch.testing.assert_close(found[~undecided], kernel.view_as(weight)[~undecided])


@pytest.mark.parametrize("rule", [minmax, lp_search, partial(percentile, share=0.8)])
@pytest.mark.parametrize("size", [1, 4, 7, 20, 99])
def test_a_rule_sees_each_group_alone_and_nothing_else(rule: Callable[..., tuple[Tensor, Tensor]], size: int) -> None:
    weight, grid = random_weight(3, 3, 5, 2, 2), Grid(4)
    scale, zero = fit_groups(rule, weight, grid, size)
    for channel, row in enumerate(blocks(weight, size)):
        for place, block in enumerate(row):
            alone = rule(torch.from_numpy(block).float()[None], grid)
            assert float(scale[channel, place]) == pytest.approx(float(alone[0]), rel=1e-6)
            assert int(zero[channel, place]) == int(alone[1])


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("size", [4, 9, 1000])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_forward_is_the_operation_on_weights_quantized_by_hand(kind: str, size: int, symmetric: bool) -> None:
    make, shape = LAYERS[kind]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layer, x = make(), torch.randn(shape)
    quantized = QuantizedLayer(layer, 4, 32, symmetric, group_size=size)
    freeze_nearest(quantized, minmax)
    grid = Grid(4, symmetric)
    rows = []
    for channel, row in enumerate(blocks(layer.weight, size)):
        zeros = quantized.weight_zero[channel].tolist()
        rows.append(
            np.concatenate([by_hand(b, grid, scale_by_hand(b, grid), z) for b, z in zip(row, zeros, strict=True)])
        )
    reference = copy.deepcopy(layer).double()
    reference.weight.data = torch.from_numpy(np.stack(rows)).view_as(layer.weight)
    torch.testing.assert_close(quantized(x).double(), reference(x.double()), rtol=1e-4, atol=1e-5)


def test_smaller_groups_fit_better() -> None:
    weight, errors = random_weight(0, 8, 64), []
    for size in (64, 16, 4):
        layer = QuantizedLayer(nn.Linear(64, 8), 4, 32, group_size=size)
        layer.freeze(weight, *fit_groups(minmax, weight, Grid(4, True), size))
        errors.append(float((layer.weight - weight).square().sum()))
    assert errors[2] < errors[1] < errors[0]


def test_one_group_that_is_the_channel_is_the_channel() -> None:
    weight, grid = random_weight(0, 4, 10), Grid(3)
    for size in (10, 11):
        scale, zero = fit_groups(minmax, weight, grid, size)
        assert torch.equal(scale[:, 0], minmax(weight, grid)[0])
        assert torch.equal(zero[:, 0], minmax(weight, grid)[1])


def test_one_value_a_channel_stands_for_all_its_groups() -> None:
    assert scale_shape(torch.Size([3, 2, 2]), 3) == (3, 2)
    assert over_groups(torch.arange(3), torch.Size([3, 2, 2]), 3).tolist() == [[0, 0], [1, 1], [2, 2]]
    with pytest.raises(UserError, match="A group holds 1 or more"):
        QuantizedLayer(nn.Linear(4, 4), 4, 4, group_size=-1)


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0])
def test_groups_of_one_value_are_kept(value: float) -> None:
    weight = torch.tensor([[value, value, 1.0, -3.0, value]])
    layer = QuantizedLayer(nn.Linear(5, 1), 8, 32, False, group_size=2)
    layer.freeze(weight, *fit_groups(minmax, weight, Grid(8), 2))
    torch.testing.assert_close(layer.weight[0, [0, 1, 4]], torch.full((3,), value))


def test_groups_and_one_scale_a_layer_exclude_each_other(example: Example) -> None:
    layer = QuantizedLayer(nn.Linear(4, 4), 4, 4, group_size=2)
    with pytest.raises(UserError, match="exclude each other"):
        freeze_nearest(layer, minmax, per_channel=False)


@pytest.fixture
def grouped(quantized: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """grouped("w4a4", group_size=5, ...): a net whose groups have their own ranges."""

    def make(precision: str, group_size: int = 5, **options: object) -> nn.Module:
        net = quantized(precision, group_size=group_size, **options)
        # `quantized` froze the weights on the channels' grids: start from the originals again.
        originals = make_net().state_dict()
        for name, layer in quantized_layers(net):
            layer.weight = originals[f"{name}.weight"].clone()
        calibrate_weights(net, minmax)
        return net

    return make


@pytest.mark.parametrize("precision", ["w2a8", "w4a4", "w7a32", "w32a4"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_checkpoint_brings_back_the_same_bits(
    grouped: Callable[..., nn.Module], example: Example, tmp_path: Path, precision: str, symmetric: bool
) -> None:
    net, path = grouped(precision, w_symmetric=symmetric, end_bits=8), tmp_path / "net"
    save_checkpoint(net, path)
    loaded = load_checkpoint(path, make_net(seed=99))
    assert torch.equal(loaded(*example), net(*example))
    before, after = net.state_dict(), loaded.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    assert {layer.group_size for layer in read_header(path).layers} == {5}
    save_checkpoint(loaded, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@settings(max_examples=20)
@given(grids, st.integers(1, 5), st.integers(1, 20), st.integers(1, 25), st.integers(0, 10_000))
def test_layers_of_any_shape_come_back(
    tmp_path_factory: pytest.TempPathFactory, grid: Grid, channels: int, length: int, size: int, seed: int
) -> None:
    net, path = nn.Sequential(nn.Linear(length, channels)), tmp_path_factory.mktemp("any") / "net"
    weight = random_weight(seed, channels, length)
    net[0] = QuantizedLayer(net[0], grid.bits, 32, grid.symmetric, group_size=size)
    net[0].freeze(weight, *fit_groups(minmax, weight, grid, size))
    save_checkpoint(net, path)
    loaded = load_checkpoint(path, nn.Sequential(nn.Linear(length, channels)))
    assert torch.equal(loaded[0].codes, net[0].codes)
    assert torch.equal(loaded[0].weight, net[0].weight)


def test_the_audit_counts_the_same_bits_and_finds_a_broken_group(
    grouped: Callable[..., nn.Module], quantized: Callable[..., nn.Module], example: Example
) -> None:
    net = grouped("w4a4")
    assert audit(net, example) == audit(quantized("w4a4"), example)
    net.down.weight_scale[2, 1] *= 2
    with pytest.raises(UserError, match="Layer down is not at w4a4: its weight is not what its codes"):
        verify(net)
    net = grouped("w4a4")
    net.down.weight_scale = net.down.weight_scale[:, 0]
    with pytest.raises(UserError, match="scales and zero-points have shapes"):
        verify(net)


@pytest.mark.parametrize("w_symmetric", [True, False])
def test_tuning_and_settling_without_training_change_nothing(
    grouped: Callable[..., nn.Module], example: Example, w_symmetric: bool
) -> None:
    net = grouped("w4a4", w_symmetric=w_symmetric)
    before, output = copy.deepcopy(net.state_dict()), net(*example)
    tune(net)
    assert torch.equal(net(*example), output)
    settle(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_every_group_learns_its_step_size(grouped: Callable[..., nn.Module], example: Example) -> None:
    net = grouped("w4a4")
    tunable = tune(net)["down"]
    optimizer = torch.optim.Adam([tunable.weight_theta], lr=0.05)
    tunable.weight.data.mul_(1.03)  # a weight on a grid point does not pull at its step size
    net(*example).square().mean().backward()
    assert tunable.weight_theta.shape == (8, 8)  # 36 inputs in groups of 5
    assert (tunable.weight_theta.grad != 0).all()
    optimizer.step()
    tuned = net(*example)
    settle(net)
    verify(net)
    assert len(net.down.weight_scale.unique()) > 8
    torch.testing.assert_close(net(*example), tuned, rtol=1e-5, atol=1e-6)


def test_a_new_width_may_come_with_one_scale_a_channel(grouped: Callable[..., nn.Module]) -> None:
    net = grouped("w8a8")
    for layer in tune(net).values():
        rows = layer.weight.detach().flatten(1)
        layer.set_weight_grid(3, rows.abs().amax(1) / 3, torch.zeros(len(rows)))
    settle(net)
    verify(net)
    assert {layer.w_bits for _, layer in quantized_layers(net)} == {3}


@pytest.mark.parametrize("grid", [Grid(bits, symmetric) for bits in (2, 4, 8) for symmetric in (True, False)], ids=str)
def test_gradients_of_group_scales_are_those_of_torchs_channels(grid: Grid) -> None:
    weight, upstream = random_weight(1, 3, 12), random_weight(2, 3, 12)
    scale, zero = fit_groups(partial(percentile, share=0.7), weight, grid, 4)
    ours, theirs = scale.clone().requires_grad_(), scale.flatten().clone().requires_grad_()
    moved = learned_fake_quantize(weight, spread(ours, weight, 4), spread(zero.float(), weight, 4), grid)
    moved.backward(upstream)
    reference = torch._fake_quantize_learnable_per_channel_affine(
        weight.view(9, 4), theirs, zero.flatten().float(), 0, grid.low, grid.high, 1.0
    )
    reference.backward(upstream.view(9, 4))
    torch.testing.assert_close(moved.detach(), reference.detach().view_as(weight))
    torch.testing.assert_close(ours.grad.flatten(), theirs.grad, rtol=1e-4, atol=1e-4)


def test_gradients_of_a_short_last_group_are_finite_differences() -> None:
    """With the rounding error held fixed the surrogate is smooth in the scales: its slopes are the gradients."""
    grid, size = Grid(4, symmetric=True), 4
    weight, upstream = random_weight(5, 3, 10).double(), random_weight(6, 3, 10).double()
    scale = fit_groups(partial(percentile, share=0.7), weight.float(), grid, size)[0].double()
    wide = spread(scale, weight, size)
    error = torch.round(weight / wide) - weight / wide
    code = torch.round(weight / wide)
    upstream = torch.where((code == grid.low) | (code == grid.high), 0.0, upstream)  # kinks

    def surrogate(scale: Tensor) -> Tensor:
        wide = spread(scale, weight, size)
        return ((torch.clamp(weight / wide + error, grid.low, grid.high) * wide) * upstream).sum()

    leaf = scale.clone().requires_grad_()
    zeros = torch.zeros_like(weight)
    (learned_fake_quantize(weight, spread(leaf, weight, size), zeros, grid) * upstream).sum().backward()
    for channel in range(3):
        for group in range(3):
            step = torch.zeros_like(scale)
            step[channel, group] = 1e-7 * scale[channel, group]
            slope = (surrogate(scale + step) - surrogate(scale - step)) / (2 * step[channel, group])
            torch.testing.assert_close(leaf.grad[channel, group], slope, rtol=1e-4, atol=1e-5)


def test_quantize_layers_hands_the_group_size_on(example: Example) -> None:
    from pqbench.quantization.net.scope import quantize_layers

    net = make_net()
    quantize_layers(net, Precision(4, 4), example, group_size=7)
    assert {layer.group_size for _, layer in quantized_layers(net)} == {7}
    assert net.down.weight_scale.shape == (8, 6)
