"""Activation tables over time steps: which row is at which step; calibration, training and files with them."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mini_denoiser import Example, make_net
from safetensors import safe_open
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts import CalibrationSet
from pqbench.inspection.audit import audit
from pqbench.quantization.checkpoint.io import load_checkpoint, read_header, save_checkpoint
from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.grids.step_clock import StepClock
from pqbench.quantization.grids.time_tables import at_time_steps, keep_time, table_steps
from pqbench.quantization.learning.tuning import settle, tune
from pqbench.quantization.net.layers import ActivationQuantizer, quantized_layers
from pqbench.quantization.net.verify import verify
from pqbench.quantization.ranges.fitting import calibrate_activations
from pqbench.quantization.ranges.observers import MinMax

Maker = Callable[..., nn.Module]
STEPS = (0, 250, 500, 750)
SCALES = torch.tensor([0.1, 0.2, 0.4, 0.8])
ZEROS = torch.tensor([0, 5, 8, 15], dtype=torch.int32)


def mixed(count: int = 8) -> tuple[Tensor, Tensor]:
    """Samples at several time steps, some of them between those of the table."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(count, 4, 8, 8, generator=generator), torch.randint(0, 1000, (count,), generator=generator)


@pytest.fixture
def timed(quantized: Maker) -> Maker:
    """timed("w4a4", ...): a net whose layers have a table each."""

    def make(precision: str, **options: object) -> nn.Module:
        net = quantized(precision, **options).requires_grad_(False)
        keep_time(net, STEPS)
        for i, (_, layer) in enumerate(quantized_layers(net)):
            if layer.activation.grid is not None:
                zeros = torch.zeros(4) if layer.activation.symmetric else ZEROS.roll(i)
                layer.activation.set(SCALES * (1 + i / 10), zeros)
        return net

    return make


@given(st.sets(st.integers(0, 1000), min_size=1, max_size=12), st.lists(st.integers(-50, 1200), min_size=1, max_size=9))
def test_a_time_step_is_at_the_nearest_place(steps: set[int], t: list[int]) -> None:
    clock = StepClock(steps)
    assert clock.time_steps == tuple(sorted(steps))
    expected = [clock.time_steps.index(min(steps, key=lambda step, now=now: (abs(step - now), step))) for now in t]
    places = clock.places(torch.tensor(t))
    if isinstance(places, int):
        assert set(expected) == {places}
    else:
        assert places.tolist() == expected
    assert clock.places(torch.tensor(t[0])) == expected[0]


def test_a_table_needs_time_steps() -> None:
    with pytest.raises(UserError, match="at least one time step"):
        StepClock([])


@pytest.mark.parametrize("shape", [(6,), (6, 5), (6, 3, 4, 4)])
def test_every_row_is_on_the_grid_of_its_step(shape: tuple[int, ...]) -> None:
    quantizer = ActivationQuantizer(4)
    quantizer.clock = StepClock(STEPS)
    quantizer.set(SCALES, ZEROS)
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    places = [0, 3, 3, 1, 2, 0]
    with quantizer.clock.at(torch.tensor([10, 999, 750, 300, 600, 0])):
        moved = quantizer(x)
    kernel = torch.fake_quantize_per_channel_affine(x, SCALES[places], ZEROS[places], 0, 0, 15)
    torch.testing.assert_close(moved, kernel)
    for row, place, found in zip(x, places, moved, strict=True):
        with quantizer.clock.at(torch.tensor(STEPS[place])):
            assert torch.equal(quantizer(row), found)
        scale, zero = SCALES[place].double(), ZEROS[place].double()
        by_hand = (torch.clamp(torch.round(row.double() / scale) + zero, 0, 15) - zero) * scale
        torch.testing.assert_close(found.double(), by_hand, rtol=1e-5, atol=1e-6)


def test_rows_that_follow_each_other_belong_to_one_sample() -> None:
    clock = StepClock(STEPS)
    with clock.at(torch.tensor([0, 500])):
        assert clock.pick(SCALES, torch.zeros(6, 3)).flatten().tolist() == SCALES[[0, 0, 0, 2, 2, 2]].tolist()
        with pytest.raises(UserError, match="3 rows for 2 samples"):
            clock.rows(torch.zeros(3, 5))
    with clock.at(torch.tensor([500, 510])):
        assert clock.rows(torch.zeros(3, 5)) == 2


@pytest.mark.parametrize("precision", ["w4a4", "w32a5"])
def test_samples_of_a_mixed_batch_are_answered_as_if_alone(timed: Maker, precision: str) -> None:
    net, (x, t) = timed(precision), mixed()
    together = net(x, t)
    alone = torch.cat([net(x[i : i + 1], t=t[i : i + 1]) for i in range(len(x))])
    # Convolutions of one image and of many differ in the last bits, which may flip a code here and there.
    assert float((alone - together).norm()) < 0.02 * float(together.norm())
    with_one_row = copy.deepcopy(net)
    for _, layer in quantized_layers(with_one_row):
        layer.activation.set(layer.activation.scale[1], layer.activation.zero_point[1])
    assert float((with_one_row(x, t) - together).norm()) > 0.2 * float(together.norm())


def test_all_samples_at_one_step_are_as_with_a_static_grid(timed: Maker, quantized: Maker) -> None:
    net, static, (x, _) = timed("w4a4"), quantized("w4a4"), mixed()
    for place, step in enumerate(STEPS):
        for (_, layer), (_, other) in zip(quantized_layers(net), quantized_layers(static), strict=True):
            other.activation.set(layer.activation.scale[place], layer.activation.zero_point[place])
        t = torch.full((len(x),), step)
        assert torch.equal(net(x, t), static(x, t))


def test_outside_of_a_call_the_time_is_not_known(timed: Maker) -> None:
    net, (x, t) = timed("w4a4"), mixed()
    tokens = torch.randn(8, 16, 8)
    net(x, t)
    with pytest.raises(UserError, match="time step is not known"):
        net.attention.out(tokens)
    with pytest.raises(UserError, match=r"call it as net\(x_t, t\)"):
        net(x)
    with pytest.raises(RuntimeError, match="channels"):
        net(x[:, :3], t)  # fails inside
    with pytest.raises(UserError, match="time step is not known"):
        net.attention.out(tokens)
    with at_time_steps(net.attention, t):
        inside = net.attention.out(tokens)
    with at_time_steps(net.attention.out, t[:1]):
        torch.testing.assert_close(net.attention.out(tokens[:1]), inside[:1])
    with pytest.raises(UserError, match="time step is not known"):
        net.attention.out(tokens)


def test_a_net_without_tables_runs_in_parts(quantized: Maker) -> None:
    net, tokens = quantized("w4a4"), torch.randn(8, 16, 8)
    with at_time_steps(net, torch.arange(8)):
        assert torch.equal(net.attention.out(tokens), net.attention.out(tokens))
    assert table_steps(net) == ()


def test_a_copy_has_a_clock_of_its_own(timed: Maker) -> None:
    net, (x, t) = timed("w4a4"), mixed()
    answer, other = net(x, t), copy.deepcopy(net)
    assert other.down.activation.clock is not net.down.activation.clock
    assert other.down.activation.clock is other.conv_in.activation.clock
    assert torch.equal(other(x, t), answer)
    with at_time_steps(net, t), pytest.raises(UserError, match="not known"):
        other.attention.out(torch.randn(8, 16, 8))
    assert torch.equal(net(x, t), answer)


def test_what_does_not_fit_is_refused(timed: Maker, quantized: Maker) -> None:
    net = quantized("w4a4")
    with pytest.raises(UserError, match="4 activation scales does not fit a clock of 0 time steps"):
        net.down.activation.set(SCALES, ZEROS)
    with pytest.raises(UserError, match="zero-point"):
        timed("w4a4").down.activation.set(SCALES, ZEROS + 1)
    net.down.activation.scale, net.down.activation.zero_point = SCALES, ZEROS
    with pytest.raises(UserError, match="need a clock"):
        net(*mixed())
    net = timed("w4a4")
    net.down.activation.scale = SCALES[:3]
    with pytest.raises(UserError, match=r"shape \(3,\) and zero-points of shape \(4,\); its clock has 4"):
        verify(net)
    net.down.activation.zero_point = ZEROS[:3]
    with pytest.raises(UserError, match="Layer down is not at w4a4: its input has scales"):
        verify(net)


def test_one_time_step_is_a_static_grid(quantized: Maker) -> None:
    net = quantized("w4a4")
    keep_time(net, [500])
    net.down.activation.set(SCALES[:1], ZEROS[:1])
    assert net.down.activation.scale.shape == ()
    assert table_steps(net) == ()


def test_a_table_is_not_traced_as_if_it_were_static(timed: Maker) -> None:
    net, (x, t) = timed("w4a4"), mixed()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.trace is what OpenVINO still uses, and it warns of everything
        with pytest.raises(UserError, match="cannot be traced"):
            torch.jit.trace(net, (x[:1], t[:1]))


def test_the_audit_counts_the_parameter_sets(timed: Maker, example: Example) -> None:
    assert audit(timed("w4a4"), example).activation_parameter_sets == 4


# Calibration


def calibration_set(t: list[int]) -> CalibrationSet:
    x = torch.randn(len(t), 4, 8, 8, generator=torch.Generator().manual_seed(2))
    times = torch.tensor(t)
    return CalibrationSet(x * (1 + times.view(-1, 1, 1, 1) / 500), times, workload="mini")


T = [0, 750, 250, 0, 740, 260, 0, 10, 990, 750, 120]  # none near 500


@pytest.mark.parametrize("batch", [2, 64])
@pytest.mark.parametrize("symmetric", [True, False])
def test_each_step_gets_the_range_of_its_samples(quantized: Maker, batch: int, symmetric: bool) -> None:
    net, data = quantized("w4a4", a_symmetric=symmetric), calibration_set(T)
    borrowed = calibrate_activations(net, data, MinMax, batch=batch, time_steps=torch.tensor(STEPS).flip(0))
    assert borrowed == {500: 250}
    groups = {0: [0, 3, 6, 7, 10], 250: [2, 5], 500: [2, 5], 750: [1, 4, 8, 9]}
    activation = net.conv_in.activation  # its input is x_t itself
    for place, step in enumerate(STEPS):
        values = data.x_t[groups[step]].double()
        low, high = float(values.min()), float(values.max())
        scale = max(high / 7, low / -8) if symmetric else (high - low) / 15
        assert float(activation.scale[place]) == pytest.approx(scale, rel=1e-6)
        assert abs(int(activation.zero_point[place]) - (0 if symmetric else round(-low / scale))) <= 1
    for _, layer in quantized_layers(net):
        assert layer.activation.scale.shape == layer.activation.zero_point.shape == (4,)
    verify(net)
    assert torch.isfinite(net(data.x_t, data.t)).all()


def test_a_deeper_layer_sees_the_samples_of_each_step(quantized: Maker) -> None:
    """The input of `down`, taken by a hook from one step's samples alone, has the range in that step's row."""
    net, data = quantized("w4a32").requires_grad_(False), calibration_set(T)
    seen: dict[int, list[Tensor]] = {}
    hook = net.down.register_forward_pre_hook(lambda _m, args: seen.setdefault(step, []).append(args[0]))
    places = [min(range(4), key=lambda i: abs(STEPS[i] - t)) for t in T]
    for step in sorted(set(places)):
        chosen = [i for i, place in enumerate(places) if place == step]
        net(data.x_t[chosen], data.t[chosen])
    hook.remove()
    for _, layer in quantized_layers(net):
        layer.activation.bits = 4
    calibrate_activations(net, data, MinMax, batch=4, time_steps=torch.tensor(STEPS))
    for step, (values,) in seen.items():
        scale = (float(values.max()) - min(float(values.min()), 0)) / 15
        assert float(net.down.activation.scale[step]) == pytest.approx(scale, rel=1e-4)


def test_a_quantized_prefix_works_with_tables(quantized: Maker) -> None:
    net, plain, data = quantized("w4a2"), quantized("w4a2"), calibration_set(T)
    calibrate_activations(net, data, MinMax, batch=4, quantized_prefix=True, time_steps=torch.tensor(STEPS))
    calibrate_activations(plain, data, MinMax, batch=4, time_steps=torch.tensor(STEPS))
    verify(net)
    assert torch.equal(net.conv_in.activation.scale, plain.conv_in.activation.scale)
    assert not torch.allclose(net.conv_out.activation.scale, plain.conv_out.activation.scale)


def test_calibrating_again_replaces_the_table(quantized: Maker) -> None:
    net, data = quantized("w4a4"), calibration_set(T)
    for steps in (STEPS, (0, 999)):
        calibrate_activations(net, data, MinMax, time_steps=torch.tensor(steps))
        assert table_steps(net) == steps
        assert len(net.down.activation.scale) == len(steps)
        verify(net)
    assert len(net._forward_pre_hooks) == 1
    assert calibrate_activations(net, data, MinMax) == {}
    assert table_steps(net) == ()
    assert net.down.activation.scale.shape == ()


def test_a_table_fits_each_step_better_than_one_grid(quantized: Maker) -> None:
    data, errors = calibration_set([0, 250, 500, 750] * 4), []
    for steps in (None, torch.tensor(STEPS)):
        net = quantized("w32a4")
        calibrate_activations(net, data, MinMax, time_steps=steps)
        with at_time_steps(net, data.t):
            moved = net.conv_in.activation(data.x_t)
        quiet = data.t == 0
        errors.append(float((moved - data.x_t)[quiet].square().sum()))
    assert errors[1] < errors[0] / 2


# Training


def test_tuning_and_settling_without_training_change_nothing(timed: Maker) -> None:
    net, (x, t) = timed("w4a4"), mixed()
    before, output = copy.deepcopy(net.state_dict()), net(x, t)
    tune(net)
    assert torch.equal(net(x, t), output)
    settle(net)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(net(x, t), output)


def test_only_the_visited_steps_learn(timed: Maker) -> None:
    net, (x, _) = timed("w4a4"), mixed()
    layers = tune(net)
    for t, visited in ((torch.tensor([240] * 8), [1]), (torch.tensor([10, 990] * 4), [0, 3])):
        for layer in layers.values():
            layer.zero_grad()
        net(5 * x, t).square().mean().backward()
        grad = layers["conv_in"].input_theta.grad
        assert grad.nonzero().flatten().tolist() == visited
        moved = layers["conv_in"].input_zero.grad
        assert set(moved.nonzero().flatten().tolist()) <= set(visited)


def test_a_trained_table_is_kept(timed: Maker) -> None:
    net, (x, t) = timed("w4a4"), mixed()
    start = net.conv_in.activation.scale.clone()
    layers = tune(net)
    optimizer = torch.optim.Adam([p for layer in layers.values() for p in layer.parameters()], lr=0.02)
    for _ in range(3):
        optimizer.zero_grad()
        net(x, t).square().mean().backward()
        optimizer.step()
    with torch.no_grad():
        tuned = net(x, t)
    settle(net)
    verify(net)
    torch.testing.assert_close(net(x, t), tuned, rtol=1e-4, atol=1e-5)
    assert net.conv_in.activation.scale.shape == (4,)
    assert not torch.allclose(net.conv_in.activation.scale, start, rtol=1e-3)


@pytest.mark.parametrize("grid", [Grid(bits, symmetric) for bits in (2, 4, 8) for symmetric in (True, False)], ids=str)
def test_gradients_of_a_table_are_those_of_torchs_channels(timed: Maker, grid: Grid) -> None:
    """Samples in the place of channels: the gradient of a table's row is the sum over its samples."""
    tunable = tune(timed("w4a4", a_symmetric=grid.symmetric))["conv_in"]
    zeros = torch.zeros(4) if grid.symmetric else torch.tensor([0, 1, 2, 3])
    tunable.set_input_grid(grid.bits, SCALES, zeros)
    x, upstream = mixed(6)[0], torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(8))
    places = torch.tensor([0, 3, 3, 1, 0, 1])
    with at_time_steps(tunable, torch.tensor(STEPS)[places]):
        moved = tunable.quantized_input(x)
    moved.backward(upstream)
    leaves = SCALES[places].requires_grad_(), zeros[places].float().requires_grad_()
    reference = torch._fake_quantize_learnable_per_channel_affine(x, *leaves, 0, grid.low, grid.high, 1.0)
    reference.backward(upstream)
    torch.testing.assert_close(moved, reference)
    to_scale = torch.zeros(4).index_add(0, places, leaves[0].grad)
    to_zero = torch.zeros(4).index_add(0, places, leaves[1].grad)
    # d s / d theta = s for s = s_0 exp(theta) at theta = 0.
    torch.testing.assert_close(tunable.input_theta.grad, to_scale * SCALES, rtol=1e-4, atol=1e-3)
    assert (tunable.input_zero is None) == grid.symmetric
    if tunable.input_zero is not None:
        inside = (zeros > grid.low) & (zeros < grid.high)  # at its bounds it is held back
        torch.testing.assert_close(tunable.input_zero.grad[inside], to_zero[inside], rtol=1e-4, atol=1e-3)


def test_one_scale_starts_all_steps_anew(timed: Maker) -> None:
    net = timed("w8a8")
    layer = tune(net)["down"]
    layer.set_input_grid(5, torch.tensor([0.3]), torch.tensor([7]))
    settle(net)
    verify(net)
    assert net.down.activation.scale.tolist() == pytest.approx([0.3] * 4)
    assert net.down.activation.zero_point.tolist() == [7] * 4


# Checkpoints


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_checkpoint_brings_back_the_same_bits(timed: Maker, tmp_path: Path, symmetric: bool) -> None:
    net, path, (x, t) = timed("w4a4", a_symmetric=symmetric), tmp_path / "net", mixed()
    save_checkpoint(net, path)
    loaded = load_checkpoint(path, make_net(seed=99))
    assert torch.equal(loaded(x, t), net(x, t))
    assert torch.equal(loaded(x[:1], t[:1]), net(x[:1], t[:1]))
    assert table_steps(loaded) == read_header(path).time_steps == STEPS
    assert read_header(path).version == 2
    save_checkpoint(loaded, tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


def test_tables_over_different_steps_are_not_saved(timed: Maker, tmp_path: Path) -> None:
    net = timed("w4a4")
    net.down.activation.clock = StepClock([1, 2, 3, 4])
    with pytest.raises(UserError, match="different time steps"):
        save_checkpoint(net, tmp_path / "net")


def test_a_net_without_any_of_this_is_a_file_of_version_1(quantized: Maker, tmp_path: Path) -> None:
    """What was written before is written still, key for key: old readers refuse keys that they do not know."""
    save_checkpoint(quantized("w4a4"), tmp_path / "net")
    with safe_open(tmp_path / "net", "pt") as file:
        header = json.loads(file.metadata()["pqbench"].partition(" ")[2])
        assert not [name for name in file.keys() if "clock" in name or "steps" in name]  # noqa: SIM118
    assert header["version"] == 1
    assert header.keys() == {"format", "version", "layers", "facts"}
    for layer in header["layers"]:
        assert layer.keys() == {"name", "operation", "w_bits", "w_symmetric", "a_bits", "a_symmetric", "shape"}
