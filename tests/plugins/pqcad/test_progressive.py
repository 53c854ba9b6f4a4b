"""PQ: both stages on a small net, from the trace and from what is left in the layers."""

from __future__ import annotations

import dataclasses
import json
from itertools import groupby
from typing import Any

import pytest
import torch
from pqbench_pqcad.activations import searched
from pqbench_pqcad.better_end import BetterEnd
from pqbench_pqcad.progressive import ProgressiveQuantizer
from pqbench_pqcad.reconstruction import weight_perturbation
from pqbench_pqcad.weights import Blend
from small_denoiser import SmallWorkload, calibration, context, held_out
from torch import nn

from pqbench.base.errors import UserError
from pqbench.contracts.precision import Precision
from pqbench.inspection.audit import audit
from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.grids.step_clock import StepClock
from pqbench.quantization.learning.tuning import TunableLayer
from pqbench.quantization.net.layers import QuantizedLayer, quantized_layers
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.net.verify import verify
from pqbench.quantization.ranges.fitting import calibrate_activations, calibrate_weights
from pqbench.quantization.ranges.observers import Reservoir
from pqbench.quantization.ranges.rules import lp_search, lp_search_2d, minmax, rows

QUICK = {"weight_budget": 8, "activation_budget": 6, "minimum": 2, "interval": 2, "ramp": 2, "batch": 16}
ENDS = {"conv_in", "conv_out"}
BLOCKS = ["conv_in", "block", "middle", "conv_out"]

Rows = list[dict[str, Any]]


def quantize(precision: str = "w4a4", seed: int = 0, **changed: Any) -> tuple[nn.Module, Rows]:
    job = context(precision, seed)
    net = ProgressiveQuantizer(**{**QUICK, **changed}).quantize(job, SmallWorkload().denoiser(), calibration())
    return net, job.trace


@pytest.fixture(scope="module")
def w4a4() -> tuple[nn.Module, Rows]:
    return quantize()


def bits_of(net: nn.Module) -> dict[str, tuple[int, int]]:
    return {name: (layer.w_bits, layer.activation.bits) for name, layer in quantized_layers(net)}


def distance(net: nn.Module) -> float:
    """Relative error of the prediction on the calibration set."""
    data = calibration()
    with torch.no_grad():
        target = SmallWorkload().denoiser()(data.x_t, data.t)
        return float((net(data.x_t, data.t) - target).square().sum() / target.square().sum())


def plain(precision: str) -> nn.Module:
    """Nearest rounding on L_p searched ranges with the same calibration set, first and last layer at 8 bits as well."""
    net, data = SmallWorkload().denoiser(), calibration()
    quantize_layers(net, Precision.parse(precision), (data.x_t[:2], data.t[:2]), end_bits=8)
    calibrate_weights(net, lp_search)
    generator = torch.Generator().manual_seed(0)
    calibrate_activations(net, data, lambda grid: Reservoir(grid, lp_search, generator))
    return net


def test_it_ends_at_the_target_bits(w4a4: tuple[nn.Module, Rows]) -> None:
    net, _ = w4a4
    verify(net)
    bits = bits_of(net)
    assert {name for name, found in bits.items() if found == (8, 8)} == ENDS
    assert {found for name, found in bits.items() if name not in ENDS} == {(4, 4)}
    found = audit(net, held_out(1), Precision(4, 4))
    assert found.full_precision_layers == ()
    assert set(found.wider_layers) == ENDS
    assert found.activation_parameter_sets == 1


def test_what_is_returned_is_frozen(w4a4: tuple[nn.Module, Rows]) -> None:
    net, _ = w4a4
    assert not any(isinstance(module, TunableLayer) for module in net.modules())
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_every_block_goes_down_one_bit_at_a_time_weights_before_activations(w4a4: tuple[nn.Module, Rows]) -> None:
    _, trace = w4a4
    widths = [(stage, block, width) for (stage, block, width), _ in groupby(trace, _width)]
    expected = [
        (stage, block, width)
        for stage in ("weights", "activations")
        for block in BLOCKS
        for width in ([8] if block in ENDS else [8, 7, 6, 5, 4])
    ]
    assert widths == expected


def test_each_width_ends_with_one_event_and_has_a_row_a_check(w4a4: tuple[nn.Module, Rows]) -> None:
    for (stage, _, _), group in groupby(w4a4[1], _width):
        members = list(group)
        assert [bool(row["event"]) for row in members] == [False] * (len(members) - 1) + [True]
        assert members[-1]["event"] in ("plateau", "budget")
        last = members[-1]["iteration"]
        budget = QUICK["weight_budget" if stage == "weights" else "activation_budget"]
        assert last <= budget
        assert (members[-1]["event"] == "budget") == (last == budget)
        assert [row["iteration"] for row in members] == [*range(2, last, 2), last]


def _width(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["stage"], row["block"], row["width"]


def test_the_trace_is_json_and_its_momentum_that_of_loss_plus_perturbation() -> None:
    """With a check at every iteration the rows hold all that the recurrence of the design needs."""
    _, trace = quantize("w4a32", interval=1, minimum=1, beta=0.7)
    assert json.loads(json.dumps(trace, allow_nan=False)) == trace
    for _, group in groupby(trace, _width):
        momentum = 0.0
        for k, row in enumerate(group, 1):
            momentum = 0.7 * momentum + 0.3 * (row["loss"] + row["perturbation"])
            assert row["momentum"] == pytest.approx(momentum / (1 - 0.7**k), abs=3e-6)


def test_the_perturbation_grows_as_bits_are_taken_away(w4a4: tuple[nn.Module, Rows]) -> None:
    last = {_width(row): row["perturbation"] for row in w4a4[1] if row["event"]}
    for block in ("block", "middle"):
        for stage in ("weights", "activations"):
            assert last[stage, block, 4] > last[stage, block, 6] > last[stage, block, 8] > 0


@pytest.mark.parametrize(("precision", "margin"), [("w3a32", 0.9), ("w4a32", 0.8), ("w4a4", 0.97)])
def test_it_is_nearer_to_full_precision_than_rounding_to_nearest_on_searched_ranges(
    precision: str, margin: float
) -> None:
    net, _ = quantize(precision, weight_budget=30, activation_budget=10, tau=0.0)
    assert distance(net) < margin * distance(plain(precision))


def test_the_seed_decides_everything(w4a4: tuple[nn.Module, Rows]) -> None:
    net, trace = w4a4
    again, trace_again = quantize()
    other, _ = quantize(seed=1)
    state, same, different = net.state_dict(), again.state_dict(), other.state_dict()
    assert trace == trace_again
    assert all(torch.equal(state[name], same[name]) for name in state)
    assert not all(torch.equal(state[name], different[name]) for name in state)


def test_at_full_precision_nothing_changes() -> None:
    net, trace = quantize("w32a32")
    assert trace == []
    assert torch.equal(net(*held_out()), SmallWorkload().denoiser()(*held_out()))


def test_weights_alone() -> None:
    net, trace = quantize("w4a32")
    assert {row["stage"] for row in trace} == {"weights"}
    assert {found for name, found in bits_of(net).items() if name not in ENDS} == {(4, 32)}
    verify(net)


def test_activations_alone_leave_the_weights_as_they_were() -> None:
    net, trace = quantize("w32a4")
    assert {row["stage"] for row in trace} == {"activations"}
    original = SmallWorkload().denoiser()
    for name, layer in quantized_layers(net):
        assert layer.activation.bits == (8 if name in ENDS else 4)
        assert torch.equal(layer.weight, original.get_submodule(name).weight)


def test_the_second_stage_leaves_the_weights_of_the_first() -> None:
    weights, _ = quantize("w4a32")
    both, _ = quantize("w4a4")
    codes = dict(quantized_layers(weights))
    for name, layer in quantized_layers(both):
        assert torch.equal(layer.codes, codes[name].codes)
        assert torch.equal(layer.weight_scale, codes[name].weight_scale)


def test_exempt_layers_stay_in_full_precision() -> None:
    net, trace = quantize("w4a4", exempt="block.embed|middle")
    assert isinstance(net.get_submodule("middle"), nn.Conv2d)
    assert isinstance(net.get_submodule("block.embed"), nn.Linear)
    assert "middle" not in {row["block"] for row in trace}
    assert audit(net, held_out(1)).full_precision_layers == ("block.embed", "middle")


def test_the_ends_may_be_as_narrow_as_the_rest() -> None:
    net, trace = quantize("w4a4", end_bits=0)
    assert set(bits_of(net).values()) == {(4, 4)}
    assert {row["width"] for row in trace if row["block"] == "conv_in"} == {8, 7, 6, 5, 4}


def test_named_layers_stay_at_eight_bits() -> None:
    net, trace = quantize("w4a4", wide="middle|block.embed")
    found = bits_of(net)
    assert found["middle"] == found["block.embed"] == (8, 8)
    assert {row["width"] for row in trace if row["block"] == "middle"} == {8}


def test_without_a_way_down_it_begins_at_the_target() -> None:
    _, trace = quantize("w4a4", start=4)
    assert {row["width"] for row in trace if row["block"] == "middle"} == {4}


def test_a_width_has_its_minimum_on_its_own_grid_after_the_blend() -> None:
    _, trace = quantize("w4a32", tau=1.0, patience=1, minimum=3, ramp=5, interval=1, weight_budget=20)
    assert {row["iteration"] for row in trace if row["event"]} == {5 + 3}


def test_checks_within_the_blend_do_not_count() -> None:
    """The first check after it has nothing to compare with, and two more are the patience."""
    _, trace = quantize("w4a32", tau=1.0, patience=2, minimum=1, ramp=5, interval=1, weight_budget=20)
    assert {row["iteration"] for row in trace if row["event"]} == {5 + 1 + 2}


def test_a_ramp_that_leaves_nothing_of_the_budget_is_refused() -> None:
    with pytest.raises(UserError, match="ramp=12 leaves no iteration of weight_budget=12 to the new grid alone"):
        ProgressiveQuantizer(weight_budget=12, ramp=12)


def test_the_blend_goes_from_the_old_grid_to_the_new_one() -> None:
    layer = QuantizedLayer(nn.Linear(6, 3), 4, 32)
    old = Grid(5, True)
    scale, zero = minmax(rows(layer.weight, True), old)
    layer.freeze(layer.weight, *minmax(rows(layer.weight, True), Grid(4, True)))
    on_new = layer.weight.double()
    tunable = TunableLayer(layer)
    blend = Blend(tunable, old, scale, zero)
    shares = []
    for iteration in range(5):
        blend.apply(iteration, ramp=3)
        shares.append(1.0 if tunable.weight_blend is None else tunable.weight_blend.share)
    assert shares == [0.25, 0.5, 0.75, 1.0, 1.0]
    blend.apply(0, ramp=3)
    # The detector follows the new grid, not the mixture.
    original = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))
    expected = (on_new - original).square().sum() / original.double().square().sum()
    assert float(weight_perturbation([tunable], [original]).detach()) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("precision", ["w3a32", "w32a3"])
def test_no_width_leaves_a_block_worse_than_it_found_it(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps so large that the end is worse: the block must go back to where the width began."""
    errors: list[tuple[float, float]] = []

    class Watched(BetterEnd):
        def choose(self) -> bool:
            restored = super().choose()
            errors.append((self._error, self._measure()))
            return restored

    monkeypatch.setattr("pqbench_pqcad.weights.BetterEnd", Watched)
    monkeypatch.setattr("pqbench_pqcad.activations.BetterEnd", Watched)
    _, trace = quantize(precision, weight_lr=1.0, step_lr=0.5)
    assert all(after <= before for before, after in errors)
    assert [row["restored"] for row in trace if row["event"]].count(True) >= 3


def test_progress_counts_the_blocks_of_both_stages() -> None:
    seen: list[tuple[int, int]] = []
    job = context()
    job = dataclasses.replace(job, progress=lambda done, total, what: seen.append((done, total)))
    ProgressiveQuantizer(**QUICK).quantize(job, SmallWorkload().denoiser(), calibration())
    assert seen == [(k, 2 * len(BLOCKS)) for k in range(1, 2 * len(BLOCKS) + 1)]


def test_weights_that_run_away_are_reported_not_stored() -> None:
    class Broken(SmallWorkload):
        def denoiser(self) -> nn.Module:
            net = super().denoiser()
            net.get_submodule("middle").weight.data[0, 0] = float("nan")
            return net

    with pytest.raises(UserError, match="NaN"):
        ProgressiveQuantizer(**QUICK).quantize(context(), Broken().denoiser(), calibration())


def test_without_the_detector_every_width_spends_its_whole_budget() -> None:
    eager = {"tau": 1.0, "patience": 1, "interval": 1, "minimum": 1, "ramp": 0}
    with_it, without = (
        [
            (row["stage"], row["event"], row["iteration"])
            for row in quantize("w4a4", **eager, detector=on)[1]
            if row["event"]
        ]
        for on in (True, False)
    )
    assert {event for _, event, _ in with_it} == {"plateau"}
    assert {(stage, event, last) for stage, event, last in without} == {
        ("weights", "budget", QUICK["weight_budget"]),
        ("activations", "budget", QUICK["activation_budget"]),
    }
    assert len(with_it) == len(without)


def test_with_tables_every_layer_has_a_range_for_each_sampling_step() -> None:
    net, _ = quantize("w32a3", time_tables=True)
    verify(net)
    steps = SmallWorkload().steps
    shapes = {name: tuple(layer.activation.scale.shape) for name, layer in quantized_layers(net)}
    assert set(shapes.values()) == {(steps,)}
    assert any(layer.activation.scale.unique().numel() > 1 for _, layer in quantized_layers(net))
    static, _ = quantize("w32a3")
    assert distance(net) < distance(static)


def test_a_table_s_range_is_searched_on_its_own_time_steps_alone() -> None:
    layer = TunableLayer(QuantizedLayer(nn.Linear(4, 4), 32, 4))
    clock = StepClock([100, 200, 300])
    layer.layer.activation.clock = clock
    layer.input_theta = nn.Parameter(torch.zeros(3))
    x, t = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([300, 100, 300, 100, 100, 300])
    x[t == 300] *= 10
    scale, zero = searched(layer, 4, x, t)
    for place, step in enumerate((100, 100, 300)):  # 200 has no sample: the lower of two equally near ones
        expected = lp_search_2d(x[t == step].reshape(1, -1), Grid(4))
        assert (float(scale[place]), int(zero[place])) == (float(expected[0]), int(expected[1]))
