"""The audit of a file against the audit of the net that was saved, and against sizes counted by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mini_denoiser import Example, MiniDenoiser
from torch import nn

from pqbench.contracts import CalibrationSet
from pqbench.contracts.precision import Precision
from pqbench.inspection.audit import audit
from pqbench.inspection.stored_bits import audit_file
from pqbench.quantization.checkpoint.io import save_checkpoint
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.ranges.fitting import calibrate_activations, calibrate_weights
from pqbench.quantization.ranges.observers import MinMax
from pqbench.quantization.ranges.rules import minmax
from pqbench.testing.tiny import TinyWorkload

Maker = Callable[..., nn.Module]


@pytest.fixture
def tiny_net() -> nn.Module:
    """The tiny denoiser with all that version 2 of the format holds but tables."""
    net, workload = TinyWorkload().denoiser(), TinyWorkload()
    x_t = torch.randn(4, *workload.shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([10, 200, 500, 900])
    scope = {"attention": True, "softmax_bits": 6, "split_shortcuts": True, "group_size": 16}
    quantize_layers(net, Precision(4, 4), (x_t, t), **scope)  # type: ignore[arg-type]
    calibrate_weights(net, minmax)
    calibrate_activations(net, CalibrationSet(x_t, t, "tiny"), MinMax)
    return net


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.safetensors"


@pytest.mark.parametrize("precision", ["w4a4", "w3a8", "w8a32", "w32a4", "w32a32"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_file_holds_what_the_net_holds(
    quantized: Maker, example: Example, path: Path, precision: str, symmetric: bool
) -> None:
    net = quantized(precision, end_bits=8, exempt=["attention.out"], w_symmetric=symmetric)
    save_checkpoint(net, path)
    found, expected = audit_file(path), audit(net, example, Precision.parse(precision))
    assert found.average_weight_bits == pytest.approx(expected.average_weight_bits)
    assert found.activation_parameter_sets == expected.activation_parameter_sets
    floats = {layer.name for layer in found.float_layers}
    floats |= {layer.name for layer in found.layers if layer.w_grid == "float"}
    assert floats == set(expected.full_precision_layers)
    parts = [layer.bytes for layer in (*found.layers, *found.float_layers)]
    assert sum(parts) + found.other_bytes + found.header_bytes == path.stat().st_size == found.file_bytes
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_scales_of_groups_are_in_the_size_and_not_in_the_average_bits(tmp_path: Path) -> None:
    workload = TinyWorkload()
    x_t, t = torch.zeros(1, *workload.shape), torch.tensor([500])
    audits = {}
    for size in (0, 16):
        net = workload.denoiser()
        quantize_layers(net, Precision(4, 32), (x_t, t), group_size=size)
        calibrate_weights(net, minmax)
        save_checkpoint(net, tmp_path / f"{size}.safetensors")
        audits[size] = audit_file(tmp_path / f"{size}.safetensors")
        assert audits[size].file_bytes == (tmp_path / f"{size}.safetensors").stat().st_size
    channels, groups = audits[0], audits[16]
    assert groups.average_weight_bits == channels.average_weight_bits
    more = sum(layer.w_scales for layer in groups.layers) - sum(layer.w_scales for layer in channels.layers)
    assert more > 1000
    # A scale is a float32; weights on symmetric grids have no zero-points.
    grown = sum(layer.bytes for layer in groups.layers) - sum(layer.bytes for layer in channels.layers)
    assert grown == 4 * more
    assert groups.file_bytes - channels.file_bytes == grown + groups.header_bytes - channels.header_bytes


def test_a_layer_by_hand(quantized: Maker, path: Path) -> None:
    save_checkpoint(quantized("w4a6", w_symmetric=False, exempt=["attention.*"]), path, {"method": "rtn"})
    found = audit_file(path)
    layers = {layer.name: layer for layer in found.layers}
    conv = layers["conv_in"]
    assert (conv.operation, conv.shape, conv.w_bits, conv.a_bits) == ("Conv2d", (8, 4, 3, 3), 4, 6)
    assert (conv.w_grid, conv.a_grid, conv.w_scales, conv.a_parameter_sets) == ("asymmetric", "asymmetric", 8, 1)
    codes, scales, zeros, bias, activation = 8 * 4 * 9 // 2, 8 * 4, 8, 8 * 4, 4 + 1
    assert conv.bytes == codes + scales + zeros + bias + activation
    floats = {layer.name: layer for layer in found.float_layers}
    assert floats.keys() == {"attention.qkv", "attention.out", "unused"}
    assert (floats["attention.qkv"].bits, floats["attention.qkv"].bytes) == (32, 24 * 8 * 4)
    norm, biases, frequencies = 2 * 8 * 4, (24 + 8 + 3) * 4, 6 * 4
    assert found.other_bytes == norm + biases + frequencies
    assert found.facts == {"method": "rtn"}


def test_a_table_over_time_steps_is_counted(quantized: Maker, path: Path) -> None:
    net = quantized("w4a4")
    net.down.activation.scale = torch.rand(20) + 0.1
    net.down.activation.zero_point = torch.zeros(20, dtype=torch.int32)
    save_checkpoint(net, path)
    found = audit_file(path)
    assert found.activation_parameter_sets == 20
    assert {layer.a_parameter_sets for layer in found.layers} == {1, 20}


def test_half_precision_counts_with_its_width(net: MiniDenoiser, path: Path) -> None:
    save_checkpoint(net.to(torch.bfloat16), path)
    found = audit_file(path)
    assert found.average_weight_bits == 16
    assert found.layers == ()


def test_attention_operands_and_groups_are_in_the_file(tiny_net: nn.Module, path: Path) -> None:
    save_checkpoint(tiny_net, path)
    found = audit_file(path)
    operands = {operand.name.rpartition("attentions.0.")[2]: operand for operand in found.operands}
    assert {name: (each.a_bits, each.a_grid, each.a_parameter_sets) for name, each in operands.items()} == {
        "qk_product.q": (4, "asymmetric", 1),
        "qk_product.k": (4, "asymmetric", 1),
        "sv_product.softmax": (6, "asymmetric", 1),
        "sv_product.v": (4, "asymmetric", 1),
    }
    # A scale (float32) and a zero-point (a byte), which a softmax does not have.
    assert [operand.bytes for operand in found.operands] == [5, 5, 4, 5]
    layers = {layer.name: layer for layer in found.layers}
    conv = layers["net.conv_in"]
    assert (conv.group_size, conv.w_scales) == (16, 8 * 2)  # 3x3x3 = 27 inputs: a group of 16 and one of 11
    parts = [each.bytes for each in (*found.layers, *found.operands, *found.float_layers)]
    assert sum(parts) + found.other_bytes + found.header_bytes == path.stat().st_size
