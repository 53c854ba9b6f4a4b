"""Observers and calibration against float64 arithmetic written out."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts import CalibrationSet, Precision
from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.grids.step_clock import StepClock
from pqbench.quantization.net.layers import QuantizedLayer, quantized_layers
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.ranges.fitting import calibrate_activations, calibrate_weights
from pqbench.quantization.ranges.observers import MinMax, MovingAverage, MovingMinMax, Observer, PerTimeStep, Reservoir
from pqbench.quantization.ranges.rules import lp_search, minmax, percentile

grids = st.builds(Grid, st.integers(2, 8), st.booleans())


def draws(count: int, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)) ** 3


def observe(observer: Observer, batches: list[Tensor]) -> tuple[float, int]:
    for batch in batches:
        observer.update(batch)
    scale, zero = observer.parameters()
    assert scale.shape == zero.shape == (1,)
    return float(scale), int(zero)


def scale_and_zero(low: float, high: float, grid: Grid) -> tuple[float, int]:
    low, high = min(low, 0.0), max(high, 0.0)
    if grid.symmetric:
        return max(high / grid.high, low / grid.low), 0
    scale = (high - low) / (grid.high - grid.low)
    return scale, round(-low / scale)


@settings(max_examples=40)
@given(grids, st.integers(1, 5), st.integers(0, 10_000))
def test_minmax_covers_all_batches(grid: Grid, batches: int, seed: int) -> None:
    seen = [draws(50, seed + i) for i in range(batches)]
    values = torch.cat(seen).double()
    scale, zero = observe(MinMax(grid), seen)
    expected = scale_and_zero(float(values.min()), float(values.max()), grid)
    assert scale == pytest.approx(expected[0], rel=1e-6)
    assert abs(zero - expected[1]) <= 1  # a tie may round either way in float32


@settings(max_examples=40)
@given(st.integers(2, 8), st.integers(1, 6), st.floats(0.05, 0.9), st.integers(0, 10_000))
def test_the_moving_average_by_hand(bits: int, batches: int, momentum: float, seed: int) -> None:
    grid = Grid(bits, symmetric=True)
    seen = [draws(50, seed + i) for i in range(batches)]
    average = None
    for batch in seen:
        largest = max(float(batch.max()) / grid.high, float(batch.min()) / grid.low, 0.0)
        average = largest if average is None else (1 - momentum) * average + momentum * largest
    scale, zero = observe(MovingAverage(grid, minmax, momentum), seen)
    assert zero == 0
    assert scale == pytest.approx(average, rel=1e-5)


def test_the_moving_average_of_asymmetric_ranges_moves_both_ends() -> None:
    grid = Grid(8)
    seen = [torch.tensor([-1.0, 3.0]), torch.tensor([-2.0, 1.0])]
    scale, zero = observe(MovingAverage(grid, minmax), seen)
    low, high = 0.9 * -1 + 0.1 * -2, 0.9 * 3 + 0.1 * 1
    assert scale == pytest.approx((high - low) / 255, rel=5e-3)  # each batch's zero-point was rounded to a code
    assert (0 - zero) * scale == pytest.approx(low, abs=scale)


@settings(max_examples=40)
@given(grids, st.integers(1, 6), st.floats(0, 0.99), st.integers(0, 10_000))
def test_moving_extremes_by_hand(grid: Grid, batches: int, keep: float, seed: int) -> None:
    seen = [draws(50, seed + i) for i in range(batches)]
    low, high = float(seen[0].min()), float(seen[0].max())
    for batch in seen[1:]:
        low = keep * low + (1 - keep) * float(batch.min())
        high = keep * high + (1 - keep) * float(batch.max())
    scale, zero = observe(MovingMinMax(grid, keep), seen)
    expected = scale_and_zero(low, high, grid)
    assert scale == pytest.approx(expected[0], rel=1e-6)
    assert abs(zero - expected[1]) <= 1  # a tie may round either way in float32


def test_moving_extremes_forget_as_q_diffusion_does() -> None:
    """After a first batch up to 1 and k batches up to 3, the end is 3 - 2 x 0.95^k: slow, unlike PTQ4DM's 0.9^k."""
    batches = [torch.tensor([-1.0, 1.0]), *[torch.tensor([-1.0, 3.0])] * 10]
    high = 3 - 2 * 0.95**10
    assert observe(MovingMinMax(Grid(8)), batches)[0] == pytest.approx((high + 1) / 255, rel=1e-6)
    # The two observers count in opposite directions: what one keeps is what the other does not take over.
    symmetric = Grid(8, symmetric=True)
    kept, taken = (
        observe(each, batches) for each in (MovingMinMax(symmetric, 0.9), MovingAverage(symmetric, minmax, 0.1))
    )
    assert kept[0] == pytest.approx(taken[0], rel=1e-2)


@settings(max_examples=30)
@given(grids, st.integers(0, 10_000))
def test_each_time_step_has_an_observer_of_its_own(grid: Grid, seed: int) -> None:
    clock, t = StepClock([0, 10, 20, 40]), torch.tensor([[0, 0, 40, 20], [40, 0, 40, 0]])
    observer = PerTimeStep(grid, partial(MovingMinMax, keep=0.5), clock)
    batches = [draws(4 * 30, seed + i).view(4, 30) for i in range(2)]
    for batch, steps in zip(batches, t, strict=True):
        with clock.at(steps):
            observer.update(batch)
    scale, zero = observer.parameters()
    assert scale.shape == zero.shape == (4,)
    for place, step in ((0, 0), (1, 0), (2, 20), (3, 40)):  # 10 has no sample, and 0 is as near as 20
        parts = [batch[steps == step] for batch, steps in zip(batches, t, strict=True)]
        alone = observe(MovingMinMax(grid, 0.5), [part for part in parts if len(part)])
        assert (float(scale[place]), int(zero[place])) == alone


def test_one_batch_through_the_moving_average_is_the_search_itself() -> None:
    values, grid = draws(5000, 1), Grid(4)
    rule = partial(lp_search, p=2.4, candidates=100)
    scale, zero = rule(values[None], grid)
    found = observe(MovingAverage(grid, rule), [values.reshape(10, 500)])
    assert found == (pytest.approx(float(scale), rel=1e-6), int(zero))


def loop_search(values: np.ndarray, grid: Grid, p: float, candidates: int) -> float:
    """The least mean L_p error of any candidate on a symmetric grid."""
    full = max(values.max() / grid.high, values.min() / grid.low)
    errors = []
    for i in range(candidates):
        scale = full * (1 - i / candidates)
        moved = np.clip(np.round(values / scale), grid.low, grid.high) * scale
        errors.append(np.mean(np.abs(moved - values) ** p))
    return min(errors)


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_a_search_on_a_sample_is_within_a_tenth_of_a_loop_over_everything(bits: int) -> None:
    values, grid = torch.randn(200_000, generator=torch.Generator().manual_seed(bits)), Grid(bits, symmetric=True)
    scale, _ = observe(MovingAverage(grid, partial(lp_search, candidates=50)), [values])
    x = values.double().numpy()
    error = np.mean(np.abs(np.clip(np.round(x / scale), grid.low, grid.high) * scale - x) ** 2.4)
    assert error <= 1.1 * loop_search(x, grid, 2.4, 50)


def test_a_reservoir_holds_every_batch_in_its_share() -> None:
    """Batch b holds the value b alone; what the rule sees must be a sample of the whole."""
    sizes = [1000, 300, 4000, 700]
    shown: list[Tensor] = []

    def rule(values: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
        shown.append(values)
        return minmax(values, grid)

    batches = [torch.full((size,), float(i + 1)) for i, size in enumerate(sizes)]
    observe(Reservoir(Grid(8), rule, torch.Generator().manual_seed(0), size=5000), batches)
    assert shown[0].shape == (1, 5000)
    counts = torch.bincount(shown[0][0].long(), minlength=5)[1:].numpy()
    assert stats.chisquare(counts, np.array(sizes) * 5000 / sum(sizes)).pvalue > 1e-3


def test_a_reservoir_estimates_percentiles_in_bounded_memory() -> None:
    batches = [draws(20_000, i) for i in range(10)]
    observer = Reservoir(Grid(8), partial(percentile, share=0.98), torch.Generator().manual_seed(0))
    scale, _ = observe(observer, batches)
    low, high = np.quantile(torch.cat(batches).double().numpy(), [0.01, 0.99])
    assert scale == pytest.approx((high - low) / 255, rel=0.05)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_every_observer(value: float) -> None:
    bad = torch.cat([draws(100_000, 0), torch.tensor([value])])
    generator = torch.Generator()
    by_step = PerTimeStep(Grid(4), MinMax, StepClock([0, 9]))
    plain = (MinMax(Grid(4)), MovingAverage(Grid(4), minmax), MovingMinMax(Grid(4)))
    for observer in (*plain, Reservoir(Grid(4), minmax, generator), by_step):
        with by_step.clock.at(torch.tensor(3)), pytest.raises(UserError, match="NaN or infinite"):
            observer.update(bad)


def test_an_observer_that_saw_nothing_says_so() -> None:
    for observer in (
        MovingAverage(Grid(4), minmax),
        MovingMinMax(Grid(4)),
        PerTimeStep(Grid(4), MinMax, StepClock([0])),
    ):
        with pytest.raises(UserError, match="saw no calibration sample"):
            observer.parameters()


class Net(nn.Module):
    """Two layers and one that is never run."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first = nn.Conv2d(2, 5, 3, padding=1)
            self.second = nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        hidden = torch.nn.functional.silu(self.first(x) + t.view(-1, 1, 1, 1) / 1000)
        result: Tensor = self.second(hidden)
        return result


def calibration(count: int = 21) -> CalibrationSet:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 2, 6, 6, generator=generator)
    return CalibrationSet(x, torch.randint(0, 1000, (count,), generator=generator), workload="net")


def quantized(w: int = 8, a: int = 4) -> Net:
    net, data = Net(), calibration(1)
    quantize_layers(net, Precision(w, a), (data.x_t, data.t))
    return net


@pytest.mark.parametrize("batch", [4, 64])
def test_every_layer_gets_the_range_of_its_unquantized_input(batch: int) -> None:
    net, data = quantized(), calibration()
    calibrate_activations(net, data, MinMax, batch=batch)
    plain = Net().requires_grad_(False)
    hidden = torch.nn.functional.silu(plain.first(data.x_t) + data.t.view(-1, 1, 1, 1) / 1000)
    for name, values in (("first", data.x_t), ("second", hidden)):
        low, high = float(values.min()), float(values.max())
        assert float(net.get_submodule(name).activation.scale) == pytest.approx((high - low) / 15, rel=1e-5)


def test_a_quantized_prefix_shows_later_layers_the_errors_of_earlier_ones() -> None:
    data = calibration()
    net = quantized(a=2)
    calibrate_activations(net, data, MinMax, quantized_prefix=True)
    first, second = (layer for _, layer in quantized_layers(net))
    seen = torch.nn.functional.silu(first(data.x_t) + data.t.view(-1, 1, 1, 1) / 1000)
    low, high = float(seen.min()), float(seen.max())
    assert float(second.activation.scale) == pytest.approx((high - low) / 3, rel=1e-5)
    plain = quantized(a=2)
    calibrate_activations(plain, data, MinMax)
    assert float(plain.second.activation.scale) != pytest.approx(float(second.activation.scale), rel=1e-3)


def test_what_is_at_full_precision_is_left_alone() -> None:
    net, data = quantized(w=32, a=32), calibration()
    calibrate_weights(net, minmax)
    calibrate_activations(net, data, MinMax)
    torch.testing.assert_close(net(data.x_t, data.t), Net()(data.x_t, data.t), rtol=0, atol=0)


def test_a_layer_that_is_not_run_or_diverges_is_named_and_the_net_is_whole_again() -> None:
    net, data = quantized(), calibration()
    net.add_module("idle", QuantizedLayer(nn.Linear(2, 2), 8, 4))
    with pytest.raises(UserError, match=r"^idle: .*saw no calibration sample"):
        calibrate_activations(net, data, MinMax)
    net.first.bias.fill_(float("inf"))
    with pytest.raises(UserError, match=r"^second: .*NaN or infinite"):
        calibrate_activations(net, data, MinMax)
    assert {type(layer.activation).__name__ for _, layer in quantized_layers(net)} == {"ActivationQuantizer"}


@pytest.mark.parametrize("per_channel", [True, False])
def test_weights_are_rounded_to_the_nearest_point_of_their_grid(per_channel: bool) -> None:
    net = quantized(w=4)
    calibrate_weights(net, minmax, per_channel)
    weight = Net().first.weight.detach().double().numpy()
    axes = (1, 2, 3) if per_channel else None
    scale = np.maximum(weight.max(axis=axes, keepdims=True) / 7, weight.min(axis=axes, keepdims=True) / -8)
    np.testing.assert_allclose(net.first.weight.numpy(), np.clip(np.round(weight / scale), -8, 7) * scale, atol=1e-6)
    assert net.first.weight_scale.shape == (5,)
    assert len(net.first.weight_scale.unique()) == (5 if per_channel else 1)
