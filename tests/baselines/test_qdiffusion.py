"""The baseline qdiffusion, on the tiny workload, through the contracts."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from pqbench_qdiffusion import QDiffusion, QDiffusionQuantizer
from pqbench_qdiffusion.ranges import magnitude
from torch import nn

from pqbench.base.errors import UserError
from pqbench.calibration.interval import Interval
from pqbench.calibration.uniform import Uniform
from pqbench.contracts import CalibrationSet, Context, Precision
from pqbench.contracts.parameters import resolve
from pqbench.quantization.grids.grid import Grid
from pqbench.quantization.net.layers import activation_quantizers, quantized_layers
from pqbench.quantization.net.verify import verify
from pqbench.testing.tiny import TinyWorkload

QUICK = {"iterations": 8, "lr": 0.1, "a_iterations": 4, "a_lr": 1e-3, "batch": 8}
PLAIN = {"split": False, "attention": False}


def context(w: int = 4, a: int = 4, seed: int = 0) -> Context:
    return Context(TinyWorkload(), Precision(w, a), TinyWorkload.steps, seed)


@pytest.fixture(scope="module")
def calibration() -> CalibrationSet:
    return Interval(samples=32).sample(context())


@pytest.fixture(scope="module")
def held_out() -> CalibrationSet:
    return Uniform(samples=32).sample(context(seed=9))


def quantize(calibration: CalibrationSet, w: int = 4, a: int = 4, **changed: Any) -> nn.Module:
    quantizer = QDiffusionQuantizer(**{**QUICK, **PLAIN, **changed})
    return quantizer.quantize(context(w, a), TinyWorkload().denoiser(), calibration)


@pytest.fixture(scope="module")
def w4a4(calibration: CalibrationSet) -> nn.Module:
    return quantize(calibration)


def error(net: nn.Module, data: CalibrationSet) -> float:
    """|net - FP| / |FP| of the predictions."""
    with torch.no_grad():
        expected, found = TinyWorkload().denoiser()(data.x_t, data.t), net(data.x_t, data.t)
    return float((found - expected).norm() / expected.norm())


def test_every_layer_is_at_the_target_bits(w4a4: nn.Module) -> None:
    verify(w4a4)
    layers = dict(quantized_layers(w4a4))
    assert {(layer.w_bits, layer.activation.bits) for layer in layers.values()} == {(4, 4)}
    assert {"net.conv_in", "net.conv_out"} <= layers.keys()
    assert not any(layer.w_symmetric for layer in layers.values())
    assert all(layer.activation.symmetric for layer in layers.values())


def test_full_precision_is_the_identity_and_eight_bits_are_close(
    calibration: CalibrationSet, held_out: CalibrationSet, w4a4: nn.Module
) -> None:
    assert error(quantize(calibration, 32, 32), held_out) < 1e-6
    eight, four = error(quantize(calibration, 8, 8), held_out), error(w4a4, held_out)
    assert 0 < eight < 0.05
    assert eight < four


def test_learning_is_nearer_to_full_precision_than_its_start(
    calibration: CalibrationSet, held_out: CalibrationSet
) -> None:
    start = error(quantize(calibration, 3, 32, iterations=0), held_out)
    assert error(quantize(calibration, 3, 32, iterations=40), held_out) < 0.9 * start
    start = error(quantize(calibration, 32, 4, a_iterations=0), held_out)
    assert error(quantize(calibration, 32, 4, a_iterations=30, a_lr=0.02), held_out) < 0.9 * start


def test_weight_ranges_are_the_extremes_of_each_channel(w4a4: nn.Module) -> None:
    original = TinyWorkload().denoiser().state_dict()
    for name, layer in quantized_layers(w4a4):
        weight = original[f"{name}.weight"].double().flatten(1)
        low, high = weight.amin(1).clamp(max=0), weight.amax(1).clamp(min=0)
        torch.testing.assert_close(layer.weight_scale.double(), (high - low) / 15, rtol=1e-5, atol=0)
        # Each weight has gone to one of its two neighbours.
        moved = (layer.weight.double().flatten(1) - weight).abs() / layer.weight_scale.double()[:, None]
        assert float(moved.max()) < 1 + 1e-4


def test_activation_ranges_start_from_the_greatest_magnitude(calibration: CalibrationSet) -> None:
    """conv_in's input is x_t itself, and all samples are among the first ones."""
    net = quantize(calibration, iterations=0, a_iterations=0)
    layer = dict(quantized_layers(net))["net.conv_in"]
    assert float(layer.activation.scale) == pytest.approx(float(calibration.x_t.abs().max()) / 7, rel=1e-6)
    few = dict(quantized_layers(quantize(calibration, iterations=0, a_iterations=0, a_samples=4)))["net.conv_in"]
    assert float(few.activation.scale) < float(layer.activation.scale)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_symmetric_range_is_the_same_for_both_signs(sign: float) -> None:
    values = sign * torch.tensor([[-3.0, 1.0, 14.0], [0.5, -0.7, 0.0]])
    scale, zero = magnitude(values, Grid(4, symmetric=True))
    torch.testing.assert_close(scale, torch.tensor([2.0, 0.1]))
    assert zero.tolist() == [0, 0]


def test_ranges_may_be_searched(calibration: CalibrationSet) -> None:
    extremes, searched = (
        dict(quantized_layers(quantize(calibration, weights=rule, activations=rule, a_symmetric=False, iterations=0)))
        for rule in ("max", "mse")
    )
    for name, layer in searched.items():
        assert bool((layer.weight_scale <= extremes[name].weight_scale * 1.0001).all())
    assert any(
        float(layer.activation.scale) < float(extremes[name].activation.scale) for name, layer in searched.items()
    )


@pytest.mark.parametrize("memory", [1.0, 0.0])
def test_the_same_job_gives_the_same_integers_also_by_way_of_the_disk(
    calibration: CalibrationSet, w4a4: nn.Module, memory: float
) -> None:
    first, second = w4a4.state_dict(), quantize(calibration, memory=memory).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_ends_and_exemptions_are_options(calibration: CalibrationSet) -> None:
    layers = dict(quantized_layers(quantize(calibration, end_bits=8, exempt="net.time_embedding.*")))
    assert not any("time_embedding" in name for name in layers)
    assert {name for name, layer in layers.items() if layer.w_bits == 8} == {"net.conv_in", "net.conv_out"}
    with pytest.raises(UserError, match="matches no layer"):
        quantize(calibration, exempt="nothing*")


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize("attention", [True, False])
def test_split_shortcuts_and_attention_operands_take_part_or_not(
    calibration: CalibrationSet, held_out: CalibrationSet, split: bool, attention: bool
) -> None:
    start, net = (
        quantize(calibration, 4, 8, split=split, attention=attention, iterations=count, a_iterations=count)
        for count in (0, 8)
    )
    verify(net)
    parts = {name: layer for name, layer in quantized_layers(net) if ".parts." in name}
    operands = {name: quantizer for name, quantizer in activation_quantizers(net) if "_product." in name}
    assert bool(parts) == split
    assert {quantizer.bits for quantizer in operands.values()} == ({8} if attention else set())
    assert error(net, held_out) < 1.1 * error(start, held_out)
    before = dict(activation_quantizers(start))
    learned = [*operands, *(f"{name}.activation" for name in parts)]
    scales = {name: quantizer.scale for name, quantizer in activation_quantizers(net)}
    assert all(not torch.equal(scales[name], before[name].scale) for name in learned)


def test_the_softmax_has_its_own_bits(calibration: CalibrationSet) -> None:
    net = quantize(calibration, attention=True, softmax_bits=5, iterations=0)
    bits = {name.rsplit(".", 1)[1]: q.bits for name, q in activation_quantizers(net) if "_product." in name}
    assert bits == {"q": 4, "k": 4, "v": 4, "softmax": 5}


def test_progress_counts_the_blocks_of_both_stages_and_the_trace_names_them(calibration: CalibrationSet) -> None:
    seen: list[tuple[int, int]] = []
    job = dataclasses.replace(context(), progress=lambda done, total, what: seen.append((done, total)))
    QDiffusionQuantizer(**QUICK, **PLAIN).quantize(job, TinyWorkload().denoiser(), calibration)
    total = len(seen)
    assert seen == [(k + 1, total) for k in range(total)]
    assert {row["stage"] for row in job.trace} == {"weights", "activations"}
    assert len({row["block"] for row in job.trace}) == total / 2


def test_the_published_defaults() -> None:
    full = resolve(QDiffusionQuantizer, {}, "full")
    assert full == {
        "split": True,
        "attention": True,
        "softmax_bits": 8,
        "weights": "max",
        "activations": "max",
        "a_symmetric": True,
        "a_samples": 64,
        "iterations": 20_000,
        "lr": 1e-3,
        "regulariser": 0.01,
        "warmup": 0.2,
        "a_iterations": 5000,
        "a_lr": 4e-4,
        "batch": 32,
        "mixed": False,
        "memory": 1.0,
        "end_bits": 0,
        "exempt": "",
    }
    assert (QDiffusion.calibration, QDiffusion.quantizer) == ("interval", "qdiffusion")
    assert resolve(Interval, {}, "full")["samples"] == 5120
