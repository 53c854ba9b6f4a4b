"""Dynamic per-token activations against torch's per-channel kernel and float64 arithmetic written out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from mini_denoiser import Example, make_net
from torch import Tensor, nn

from pqbench.contracts import CalibrationSet
from pqbench.inspection.audit import audit
from pqbench.quantization.checkpoint.io import load_checkpoint, read_header, save_checkpoint
from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.grids.tokens import per_token
from pqbench.quantization.learning.tuning import settle, tune
from pqbench.quantization.net.layers import ActivationQuantizer, QuantizedLayer
from pqbench.quantization.net.verify import verify
from pqbench.quantization.ranges.fitting import calibrate_activations
from pqbench.quantization.ranges.observers import MinMax

Maker = Callable[..., nn.Module]
grids = st.builds(Grid, st.integers(2, 8), st.booleans())
tokens = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.floats(-1e4, 1e4, width=32)
).map(torch.from_numpy)


def parameters(x: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero-point of every row of (tokens, features), in float64."""
    low, high = np.minimum(x.min(1), 0), np.maximum(x.max(1), 0)
    if grid.symmetric:
        scale, zero = np.maximum(high / grid.high, low / grid.low), np.zeros(len(x))
    else:
        scale, zero = (high - low) / (grid.high - grid.low), None
    scale = np.where(scale < np.finfo(np.float32).tiny, 1.0, scale).astype(np.float32).astype(np.float64)
    return scale, np.round(-low / scale) if zero is None else zero


def by_hand(x: Tensor, grid: Grid) -> Tensor:
    """Rows of (tokens, features) on their own grids, in float64."""
    values = x.double().numpy()
    scale, zero = (side[:, None] for side in parameters(values, grid))
    return torch.from_numpy((np.clip(np.round(values / scale) + zero, grid.low, grid.high) - zero) * scale)


@given(tokens, grids)
def test_every_token_is_on_the_grid_of_its_own_range(x: Tensor, grid: Grid) -> None:
    scale, zero = (torch.from_numpy(side) for side in parameters(x.double().numpy(), grid))
    ratio = x.double() / scale[:, None]
    # Between two codes float32 may decide either way; elsewhere there is one right answer.
    decided = ((ratio - ratio.floor()) - 0.5).abs() > 1e-3
    moved = per_token(x, grid, axis=-1)
    torch.testing.assert_close(moved.double()[decided], by_hand(x, grid)[decided], rtol=1e-5, atol=0)
    kernel = torch.fake_quantize_per_channel_affine(x, scale.float(), zero.int(), 0, grid.low, grid.high)
    torch.testing.assert_close(moved[decided], kernel[decided])


@given(tokens, grids)
def test_tokens_do_not_see_each_other(x: Tensor, grid: Grid) -> None:
    together = per_token(x, grid, axis=-1)
    assert all(torch.equal(per_token(row, grid, axis=-1), moved) for row, moved in zip(x, together, strict=True))


@given(tokens, grids)
def test_half_a_step_of_the_token_is_the_largest_error(x: Tensor, grid: Grid) -> None:
    scale = torch.from_numpy(parameters(x.double().numpy(), grid)[0])
    error = (per_token(x, grid, axis=-1).double() - x.double()).abs()
    assert bool((error <= scale[:, None] / 2 * (1 + 1e-4)).all())


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0, 1e-44])
@pytest.mark.parametrize("symmetric", [True, False])
def test_constant_tokens_are_kept(value: float, symmetric: bool) -> None:
    x = torch.full((3, 4), value)
    torch.testing.assert_close(per_token(x, Grid(4, symmetric), -1), x)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_token_that_diverged_stays_so_and_the_others_are_not_touched(value: float, symmetric: bool) -> None:
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    moved = per_token(x, Grid(4, symmetric), -1)
    x[1, 2] = value
    broken = per_token(x, Grid(4, symmetric), -1)
    assert not torch.isfinite(broken[1]).any()
    assert torch.equal(broken[[0, 2]], moved[[0, 2]])


def test_a_pixel_is_the_token_of_a_convolution() -> None:
    x = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    rows = per_token(x.permute(0, 2, 3, 1), Grid(4), -1).permute(0, 3, 1, 2)
    for layer in (nn.Conv2d(5, 2, 1), nn.Conv2d(5, 2, 3)):
        quantizer = QuantizedLayer(layer, 32, 4, a_dynamic=True).activation
        assert torch.equal(quantizer(x), rows)
        assert torch.equal(quantizer(x[0]), rows[0])  # without a batch
    flat = QuantizedLayer(nn.Conv1d(5, 2, 3), 32, 4, a_dynamic=True).activation
    assert torch.equal(flat(x.flatten(2)), rows.flatten(2))


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("kind", ["linear", "conv2d"])
def test_the_forward_is_the_operation_on_tokens_quantized_by_hand(kind: str, symmetric: bool) -> None:
    grid, generator = Grid(4, symmetric), torch.Generator().manual_seed(3)
    if kind == "linear":
        layer, x = nn.Linear(6, 3), torch.randn(2, 5, 6, generator=generator)
        moved = by_hand(x.view(-1, 6), grid).view(x.shape)
    else:
        layer, x = nn.Conv2d(6, 3, 3, padding=1), torch.randn(2, 6, 4, 4, generator=generator)
        moved = by_hand(x.permute(0, 2, 3, 1).reshape(-1, 6), grid).view(2, 4, 4, 6).permute(0, 3, 1, 2)
    quantized = QuantizedLayer(layer, 32, 4, a_symmetric=symmetric, a_dynamic=True)
    reference = copy.deepcopy(layer).double()
    torch.testing.assert_close(quantized(x).double(), reference(moved), rtol=1e-4, atol=1e-5)


@given(grids, st.integers(0, 1000))
def test_gradients_pass_straight_through(grid: Grid, seed: int) -> None:
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    other = x.detach().clone().requires_grad_()
    scale, zero = (torch.from_numpy(side) for side in parameters(x.detach().double().numpy(), grid))
    moved = per_token(x, grid, -1)
    kernel = torch.fake_quantize_per_channel_affine(other, scale.float(), zero.int(), 0, grid.low, grid.high)
    (moved * moved.detach()).sum().backward()
    (kernel * moved.detach()).sum().backward()
    torch.testing.assert_close(moved, kernel)
    torch.testing.assert_close(x.grad, other.grad)
    with torch.no_grad():
        torch.testing.assert_close(per_token(x, grid, -1), moved)


def test_nothing_is_stored_but_the_bits(quantized: Maker, example: Example, tmp_path: Path) -> None:
    net, static = quantized("w4a4", a_dynamic=True, a_symmetric=True), quantized("w4a4")
    assert static.state_dict().keys() - net.state_dict().keys() == {
        f"{name}.activation.{part}"
        for name in ("embed", "conv_in", "conv_out", "down", "attention.qkv", "attention.out")
        for part in ("scale", "zero_point")
    }
    save_checkpoint(net, tmp_path / "net")
    loaded = load_checkpoint(tmp_path / "net", make_net(seed=99))
    assert torch.equal(loaded(*example), net(*example))
    assert not torch.equal(loaded(*example), static(*example))
    assert loaded.down.activation.symmetric
    header = read_header(tmp_path / "net")
    assert all(layer.a_dynamic for layer in header.layers)
    assert header.version == 2


def test_at_full_precision_it_is_the_identity() -> None:
    x = torch.randn(3, 4)
    assert ActivationQuantizer(32, dynamic=True)(x) is x


def test_the_audit_counts_no_parameter_sets_and_names_the_operation(quantized: Maker, example: Example) -> None:
    found, static = audit(quantized("w4a4", a_dynamic=True), example), audit(quantized("w4a4"), example)
    assert (found.activation_parameter_sets, static.activation_parameter_sets) == (0, 1)
    assert found.average_activation_bits == static.average_activation_bits
    assert set(found.full_precision_operations) - set(static.full_precision_operations) == {"dynamic range (6)"}


def test_tuning_trains_the_rest_and_settles(quantized: Maker, example: Example) -> None:
    net = quantized("w4a4", a_dynamic=True)
    output = net(*example)
    layers = tune(net)
    assert torch.equal(net(*example), output)
    net(*example).square().mean().backward()
    assert all(layer.weight.grad is not None and layer.input_theta.grad is None for layer in layers.values())
    layers["down"].set_input_grid(6, torch.tensor(1.0), torch.tensor(0))
    settle(net)
    verify(net)
    assert net.down.activation.bits == 6
    assert net.down.activation.dynamic


def test_calibration_leaves_them_alone_and_does_not_run_the_net() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = QuantizedLayer(nn.Linear(4, 4), 32, 4, a_dynamic=True)

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            raise AssertionError("there is nothing to observe")

    data = CalibrationSet(torch.randn(8, 4), torch.arange(8), workload="net")
    assert calibrate_activations(Net(), data, MinMax) == {}
