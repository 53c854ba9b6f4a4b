"""The audit of a file against the audit of the net that was saved, and against sizes counted by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mini_denoiser import Example, MiniDenoiser
from torch import nn

from pqbench.methods.precision import Precision
from pqbench.quantization.audit import audit
from pqbench.quantization.checkpoint import save_checkpoint
from pqbench.quantization.file_audit import audit_file

Maker = Callable[..., nn.Module]


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
