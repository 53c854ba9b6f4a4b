"""The reconstruction loop and its two stages, against float64 references and an exhaustive search."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from mini_denoiser import Example, MiniDenoiser, make_net
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts import CalibrationSet
from pqbench.contracts.precision import Precision
from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.learning.block_data import BlockData
from pqbench.quantization.learning.block_source import BlockSource, Inputs
from pqbench.quantization.learning.reconstruction import Descent, lp_error, reconstruct
from pqbench.quantization.learning.reconstruction_stages import RoundingStage, StepSizeStage, activations_off
from pqbench.quantization.learning.rounding import RoundingLayer, RoundingPressure, rectified_sigmoid
from pqbench.quantization.net.blocks import block_names
from pqbench.quantization.net.layers import QuantizedLayer, quantized_layers
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.net.verify import verify
from pqbench.quantization.ranges.fitting import calibrate_activations, calibrate_weights
from pqbench.quantization.ranges.observers import MinMax
from pqbench.quantization.ranges.rules import minmax, rows


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("p", [2.0, 2.4])
@pytest.mark.parametrize("shape", [(4, 3), (4, 3, 5, 5)])
def test_the_error_sums_over_channels_and_averages_the_rest(p: float, shape: tuple[int, ...]) -> None:
    answer, target = (torch.randn(shape, generator=generator(seed), dtype=torch.float64) for seed in (1, 2))
    expected = (np.abs((answer - target).numpy()) ** p).sum(1).mean()
    assert float(lp_error(p)(answer, target)) == pytest.approx(expected, rel=1e-12)


def test_a_cosine_rate_falls_to_nothing() -> None:
    descent = Descent(100, 4e-4, cosine=True)
    assert [descent.rate(i) for i in (0, 50, 100)] == pytest.approx([4e-4, 2e-4, 0.0])
    assert Descent(100, 0.3).rate(77) == 0.3


def exhaustive() -> tuple[nn.Linear, Tensor, Tensor]:
    """A linear layer whose inputs are so correlated that rounding to nearest is far from best."""
    with torch.random.fork_rng():
        torch.manual_seed(6)
        linear = nn.Linear(8, 1)
    common = torch.randn(256, 1, generator=generator(1))
    x = common + 0.3 * torch.randn(256, 8, generator=generator(2))
    return linear, x, linear(x).detach()


def test_adaround_finds_what_an_exhaustive_search_finds() -> None:
    linear, x, target = exhaustive()
    weight, grid = linear.weight.detach(), Grid(3)
    layer = QuantizedLayer(linear, 3, 32, w_symmetric=False)
    layer.freeze(weight, *minmax(rows(weight, True), grid))
    scale, zero = float(layer.weight_scale), float(layer.weight_zero)
    nearest = float((layer(x) - target).square().mean())
    down = np.floor(weight.double().numpy() / scale) + zero
    errors = []
    for ups in itertools.product((0, 1), repeat=8):
        values = (np.clip(down + np.array(ups), 0, 7) - zero) * scale
        answer = x.double().numpy() @ values.T + linear.bias.detach().double().numpy()
        errors.append(float(np.mean((answer - target.double().numpy()) ** 2)))
    rounding = RoundingLayer(layer, weight)
    descent = Descent(800, 0.06, batch=64)
    reconstruct(
        "linear",
        rounding,
        BlockData({0: x}, {}, target),
        [rounding.rounding.v],
        descent,
        generator(),
        regulariser=RoundingPressure([rounding.rounding], descent.iterations, weight=1e-2),
    )
    h = rectified_sigmoid(rounding.rounding.v.detach())
    assert bool(((h < 0.05) | (h > 0.95)).all())
    found = float((rounding.settled()(x) - target).square().mean())
    assert min(errors) < 0.2 * nearest
    assert found <= sorted(errors)[4]  # among the best five of 256
    assert found < 0.3 * nearest


def samples(count: int = 24) -> Example:
    return torch.randn(count, 4, 8, 8, generator=generator(7)), torch.randint(0, 1000, (count,), generator=generator(8))


def job(precision: str = "w3a4") -> tuple[BlockSource, dict[str, Tensor]]:
    """A quantized net with nearest rounding and min-max grids, ready for the stages, and its float weights."""
    data, reference = samples(), make_net()
    net = copy.deepcopy(reference).requires_grad_(False)
    blocks = block_names(net, lambda: net(*data))
    quantize_layers(net, Precision.parse(precision), data, w_symmetric=False, a_symmetric=True)
    floats = {name: layer.weight.clone() for name, layer in quantized_layers(net)}
    calibrate_weights(net, minmax)
    calibrate_activations(net, CalibrationSet(*data, "mini"), MinMax)
    return BlockSource(net, reference, blocks, *data), floats


@torch.no_grad()
def distance(source: BlockSource) -> float:
    target = source.reference(*samples())
    return float((source.net(*samples()) - target).square().sum() / target.square().sum())


def run_weights(inputs: Inputs = "quantized", **changed: Any) -> tuple[BlockSource, float, list[dict[str, Any]]]:
    source, floats = job(changed.pop("precision", "w3a32"))
    before, trace = distance(source), []
    descent = Descent(**{"iterations": 60, "lr": 0.1, "batch": 8, **changed})
    with source:
        RoundingStage(descent, weight=1e-3, inputs=inputs).run(source, floats, generator(), trace)
    return source, before, trace


@pytest.mark.parametrize("inputs", ["quantized", "full", "mixed"])
def test_learned_rounding_is_nearer_to_full_precision_than_rounding_to_nearest(inputs: Inputs) -> None:
    source, before, trace = run_weights(inputs)
    verify(source.net)
    assert distance(source) < 0.7 * before
    assert list(dict.fromkeys(row["block"] for row in trace)) == source.blocks
    assert [row["iteration"] for row in trace[:10]] == list(range(6, 61, 6))


def test_only_the_rounding_of_weights_changes() -> None:
    before = dict(quantized_layers(job("w3a4")[0].net))
    source, _, _ = run_weights(precision="w3a4")
    for name, layer in quantized_layers(source.net):
        assert torch.equal(layer.weight_scale, before[name].weight_scale)
        assert torch.equal(layer.weight_zero, before[name].weight_zero)
        assert torch.equal(layer.activation.scale, before[name].activation.scale)
        assert int((layer.codes.int() - before[name].codes.int()).abs().max()) <= 1
        assert layer.activation.bits == 4
    assert any(not torch.equal(layer.codes, before[name].codes) for name, layer in quantized_layers(source.net))


def test_bfloat16_convolutions_find_roundings_as_good() -> None:
    exact, before, _ = run_weights()
    mixed, _, _ = run_weights(mixed=True)
    assert distance(mixed) == pytest.approx(distance(exact), abs=0.1 * before)
    assert any(
        not torch.equal(a.codes, b.codes)
        for (_, a), (_, b) in zip(quantized_layers(exact.net), quantized_layers(mixed.net), strict=True)
    )


def test_layers_alone_can_be_reconstructed_as_well() -> None:
    source, floats = job("w3a32")
    before = distance(source)
    order = ["embed", "conv_in", "down", "attention.qkv", "attention.out", "conv_out"]
    layers = BlockSource(source.net, source.reference, order, *samples())
    with layers:
        RoundingStage(Descent(60, 0.1, 8), weight=1e-3).run(layers, floats, generator(), [])
    assert distance(layers) < 0.8 * before


@pytest.mark.parametrize("inputs", ["full", "quantized"])
def test_learned_step_sizes_are_nearer_to_full_precision_than_the_extremes(inputs: Inputs) -> None:
    source, _ = job("w8a3")
    before, trace = distance(source), []
    codes = {name: layer.codes.clone() for name, layer in quantized_layers(source.net)}
    with source:
        StepSizeStage(Descent(100, 0.02, 16, cosine=True, p=2.4), inputs).run(source, generator(), trace)
    verify(source.net)
    assert distance(source) < 0.8 * before
    assert all(torch.equal(layer.codes, codes[name]) for name, layer in quantized_layers(source.net))
    assert {row["stage"] for row in trace} == {"activations"}
    assert trace[0]["rate"] > trace[9]["rate"] > 0


def test_the_seed_decides_everything() -> None:
    first, second = (run_weights()[0].net.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_is_returned_is_frozen() -> None:
    source, _, _ = run_weights()
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in source.net.parameters())
    assert not any(isinstance(module, RoundingLayer) for module in source.net.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in source.net.modules())


def test_exempt_layers_are_left_and_their_blocks_passed_over() -> None:
    source, floats = job()
    del floats["conv_in"]
    codes = source.net.get_submodule("conv_in").codes.clone()
    done: list[str] = []
    with source:
        RoundingStage(Descent(5, 0.1, 16)).run(source, floats, generator(), [], done.append)
    assert torch.equal(source.net.get_submodule("conv_in").codes, codes)
    assert done == source.blocks


def test_activations_come_back_on_also_after_an_error() -> None:
    net = job("w3a4")[0].net

    def fail() -> None:
        with activations_off(net):
            assert {layer.activation.bits for _, layer in quantized_layers(net)} == {32}
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert {layer.activation.bits for _, layer in quantized_layers(net)} == {4}


def lone_parameter(x: Tensor, target: Tensor, lr: float, iterations: int = 50) -> nn.Linear:
    linear = nn.Linear(x.shape[1], target.shape[1], bias=False)
    with torch.no_grad():
        linear.weight.copy_(0.1 * torch.ones_like(linear.weight))
    reconstruct("up.3", linear, BlockData({0: x}, {}, target), [linear.weight], Descent(iterations, lr), generator())
    return linear


def test_a_linear_layer_is_brought_to_the_least_squares_solution() -> None:
    x = torch.randn(64, 5, generator=generator(1))
    target = torch.randn(64, 2, generator=generator(2))
    linear = lone_parameter(x, target, 0.02, 600)
    best = torch.linalg.lstsq(x.double(), target.double()).solution.T
    torch.testing.assert_close(linear.weight.detach().double(), best, rtol=0.1, atol=0.02)


def test_an_explosion_names_the_block_the_iteration_and_what_to_lower() -> None:
    x = torch.randn(64, 5, generator=generator(1))
    with pytest.raises(
        UserError, match=r"block up\.3 failed at iteration [1-9]\d* of 50: .* Lower its learning rate, 10000"
    ):
        lone_parameter(x, x, 1e4)


@pytest.mark.parametrize("where", ["input", "target"])
def test_nan_is_found_at_once(where: str) -> None:
    x, target = torch.ones(64, 5), torch.ones(64, 5)
    (x if where == "input" else target)[:] = float("nan")
    with pytest.raises(UserError, match=r"failed at iteration 0 of 50: its error is NaN"):
        lone_parameter(x, target, 1e-3)


def test_parameters_that_the_last_step_made_nan_are_not_kept() -> None:
    class Poison:
        def __init__(self, parameter: nn.Parameter) -> None:
            self.parameter = parameter

        def add_gradient(self, iteration: int) -> None:
            self.parameter.grad.fill_(float("nan") if iteration == 2 else 0.0)

        def value(self, iteration: int) -> float:
            return 0.0

    linear, x = nn.Linear(3, 3), torch.ones(8, 3)
    data, poison = BlockData({0: x}, {}, x), Poison(linear.weight)
    with pytest.raises(UserError, match="at iteration 3 of 3: its error is NaN"):
        reconstruct("b", linear, data, [linear.weight], Descent(3, 0.1), generator(), regulariser=poison)


def test_a_block_that_already_answers_perfectly_is_no_explosion() -> None:
    source, floats = job("w8a32")
    with source:
        RoundingStage(Descent(20, 0.1, 16), weight=0.1, warmup=0.0).run(source, floats, generator(), [])
    assert isinstance(source.net, MiniDenoiser)
