"""The baselines rtn and ptq4dm, on the tiny workload, through the contracts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pqbench_ptq4dm import Ptq4dm, Ptq4dmQuantizer
from pqbench_rtn import MinMaxQuantizer, RoundToNearest
from torch import nn

from pqbench.base.errors import UserError
from pqbench.calibration.ndtc import Ndtc
from pqbench.calibration.uniform import Uniform
from pqbench.contracts import CalibrationSet, Context, Precision, Quantizer
from pqbench.contracts.parameters import resolve
from pqbench.quantization.net.layers import quantized_layers
from pqbench.testing.tiny import TinyWorkload

QUANTIZERS = [
    MinMaxQuantizer(),
    MinMaxQuantizer(range="percentile"),
    MinMaxQuantizer(range="lp", per_channel=False),
    Ptq4dmQuantizer(),
    Ptq4dmQuantizer(w_symmetric=True),
    Ptq4dmQuantizer(a_symmetric=True),
]


@pytest.fixture(scope="module")
def calibration() -> CalibrationSet:
    return Ndtc(samples=32).sample(context())


@pytest.fixture(scope="module")
def held_out() -> CalibrationSet:
    return Uniform(samples=32).sample(context(seed=9))


def context(w: int = 4, a: int = 4, seed: int = 0) -> Context:
    return Context(TinyWorkload(), Precision(w, a), TinyWorkload.steps, seed)


def error(net: nn.Module, data: CalibrationSet) -> float:
    """|net - FP| / |FP| of the predictions."""
    with torch.no_grad():
        expected, found = TinyWorkload().denoiser()(data.x_t, data.t), net(data.x_t, data.t)
    return float((found - expected).norm() / expected.norm())


def quantize(quantizer: Quantizer, calibration: CalibrationSet, w: int = 4, a: int = 4) -> nn.Module:
    return quantizer.quantize(context(w, a), TinyWorkload().denoiser(), calibration)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_full_precision_is_the_identity_and_eight_bits_are_close(
    quantizer: Quantizer, calibration: CalibrationSet, held_out: CalibrationSet
) -> None:
    assert error(quantize(quantizer, calibration, 32, 32), held_out) < 1e-6
    eight, four = (error(quantize(quantizer, calibration, bits, bits), held_out) for bits in (8, 4))
    assert 0 < eight < 0.05
    assert eight < four < 0.6


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_the_same_job_gives_the_same_integers(quantizer: Quantizer, calibration: CalibrationSet) -> None:
    first, second = (quantize(quantizer, calibration).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_bits_are_as_claimed(quantizer: Quantizer, calibration: CalibrationSet) -> None:
    layers = dict(quantized_layers(quantize(quantizer, calibration)))
    wide = {name for name, layer in layers.items() if (layer.w_bits, layer.activation.bits) == (8, 8)}
    assert wide == {"net.conv_in", "net.conv_out"}
    assert all((layer.w_bits, layer.activation.bits) == (4, 4) for name, layer in layers.items() if name not in wide)
    assert all(len(layer.codes.unique()) <= 2**layer.w_bits for layer in layers.values())


@pytest.mark.parametrize("make", [MinMaxQuantizer, Ptq4dmQuantizer])
def test_ends_and_exemptions_are_options(make: type[Quantizer], calibration: CalibrationSet) -> None:
    quantizer = make(end_bits=0, exempt="net.time_embedding.* | *conv_shortcut")  # type: ignore[call-arg]
    layers = dict(quantized_layers(quantize(quantizer, calibration)))
    assert {layer.w_bits for layer in layers.values()} == {4}
    assert not any("time_embedding" in name or "conv_shortcut" in name for name in layers)
    with pytest.raises(UserError, match="matches no layer"):
        quantize(make(exempt="nothing*"), calibration)  # type: ignore[call-arg]


def test_weight_ranges_of_ptq4dm_are_those_of_a_loop_in_float64(calibration: CalibrationSet) -> None:
    net = quantize(Ptq4dmQuantizer(batch=32, w_symmetric=True), calibration)
    name = "net.down_blocks.0.resnets.0.conv1"
    weight = TinyWorkload().denoiser().state_dict()[f"{name}.weight"].double().flatten(1).numpy()
    layer = dict(quantized_layers(net))[name]
    for channel, row in enumerate(weight):
        full = max(row.max() / 7, row.min() / -8)
        errors = []
        for i in range(100):
            scale = full * (1 - i / 100)
            errors.append(np.mean(np.abs(np.clip(np.round(row / scale), -8, 7) * scale - row) ** 2.4))
        found = layer.weight[channel].double().flatten().numpy()
        assert np.mean(np.abs(found - row) ** 2.4) == pytest.approx(min(errors), rel=1e-3)


def test_asymmetric_ranges_of_ptq4dm_are_searched_in_two_dimensions(calibration: CalibrationSet) -> None:
    net = quantize(Ptq4dmQuantizer(batch=32), calibration)
    name = "net.down_blocks.0.resnets.0.conv1"
    weight = TinyWorkload().denoiser().state_dict()[f"{name}.weight"].double().flatten(1).numpy()
    layer = dict(quantized_layers(net))[name]
    for channel, row in enumerate(weight[:4]):
        full = (row.max() - row.min()) / 15
        errors = [
            np.mean(np.abs((np.clip(np.round(row / s) + zero, 0, 15) - zero) * s - row) ** 2.4)
            for s in full * np.arange(1, 101) / 100
            for zero in range(16)
        ]
        found = layer.weight[channel].double().flatten().numpy()
        assert np.mean(np.abs(found - row) ** 2.4) == pytest.approx(min(errors), rel=1e-2)


def test_ptq4dm_averages_ranges_over_batches(calibration: CalibrationSet) -> None:
    """conv_in's input is x_t itself, so its range can be followed by hand: 8 bits, symmetric, 0.9 old + 0.1 new."""
    net = quantize(Ptq4dmQuantizer(batch=8, a_symmetric=True), calibration)
    average = None
    for batch in calibration.x_t.split(8):
        x = batch.double().flatten().numpy()
        full = max(x.max() / 127, x.min() / -128)
        scales = full * (1 - np.arange(100) / 100)
        errors = [np.mean(np.abs(np.clip(np.round(x / s), -128, 127) * s - x) ** 2.4) for s in scales]
        best = scales[int(np.argmin(errors))]
        average = best if average is None else 0.9 * average + 0.1 * best
    layer = dict(quantized_layers(net))["net.conv_in"]
    assert layer.activation.symmetric
    assert float(layer.activation.scale) == pytest.approx(average, rel=1e-4)


def weight_error(net: nn.Module) -> float:
    """Sum of the squared changes of all weights."""
    original = TinyWorkload().denoiser().state_dict()
    return sum(
        float((layer.weight - original[f"{name}.weight"]).square().sum()) for name, layer in quantized_layers(net)
    )


def test_a_search_is_better_than_the_extremes(calibration: CalibrationSet) -> None:
    searched, extremes = (quantize(quantizer, calibration) for quantizer in (Ptq4dmQuantizer(), MinMaxQuantizer()))
    assert weight_error(searched) < weight_error(extremes)


def test_the_published_defaults() -> None:
    assert resolve(Ptq4dmQuantizer, {}, "standard") == {
        "w_symmetric": False,
        "a_symmetric": False,
        "p": 2.4,
        "candidates": 100,
        "batch": 256,
        "end_bits": 8,
        "exempt": "",
    }
    assert [resolve(Ndtc, {}, budget)["samples"] for budget in ("quick", "standard", "full")] == [256, 1024, 1024]
    assert (Ptq4dm.calibration, Ptq4dm.quantizer) == ("ndtc", "ptq4dm")
    assert (RoundToNearest.calibration, RoundToNearest.quantizer) == ("uniform", "minmax")
