"""Packed checkpoints: what comes back, what it weighs, and what every kind of damage is answered with."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mini_denoiser import Example, MiniDenoiser, freeze, make_net
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from pqbench.base.errors import UserError
from pqbench.contracts.precision import Precision
from pqbench.quantization.checkpoint.format import VERSION, Header, write_file
from pqbench.quantization.checkpoint.io import load_checkpoint, read_header, save_checkpoint
from pqbench.quantization.net.layers import QuantizedLayer, quantized_layers
from pqbench.quantization.net.scope import quantize_layers

Maker = Callable[..., nn.Module]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.safetensors"


@pytest.mark.parametrize("precision", ["w2a8", "w3a3", "w4a4", "w7a5", "w8a8", "w4a32", "w32a4", "w32a32"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_the_loaded_net_computes_the_same_bits(
    quantized: Maker, example: Example, path: Path, precision: str, symmetric: bool
) -> None:
    net = quantized(precision, w_symmetric=symmetric, end_bits=8, exempt=["attention.out"])
    save_checkpoint(net, path)
    loaded = load_checkpoint(path, make_net(seed=99))
    assert torch.equal(loaded(*example), net(*example))
    before, after = dict(quantized_layers(net)), dict(quantized_layers(loaded))
    assert before.keys() == after.keys()
    for name, layer in before.items():
        assert torch.equal(layer.codes, after[name].codes) or layer.grid is None
        assert torch.equal(layer.weight, after[name].weight)
        assert layer.activation.scale == after[name].activation.scale
        assert layer.activation.zero_point.dtype == after[name].activation.zero_point.dtype
    assert not loaded.training


def test_a_full_precision_net_is_stored_as_it_is(net: MiniDenoiser, example: Example, path: Path) -> None:
    save_checkpoint(net, path)
    loaded = load_checkpoint(path, make_net(seed=99))
    assert torch.equal(loaded(*example), net(*example))
    assert read_header(path).layers == ()
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_half_precision_stays_half(net: MiniDenoiser, path: Path) -> None:
    save_checkpoint(net.to(torch.bfloat16), path)
    assert load_checkpoint(path, make_net()).conv_in.weight.dtype == torch.bfloat16


def test_symmetric_activations_come_back(example: Example, path: Path) -> None:
    net, other = nn.Sequential(nn.Linear(5, 3)), nn.Sequential(nn.Linear(5, 3))
    net[0] = QuantizedLayer(net[0], 4, 4, a_symmetric=True)
    save_checkpoint(freeze(net), path)
    x = torch.randn(4, 5)
    assert torch.equal(load_checkpoint(path, other)(x), net(x))
    assert other[0].activation.symmetric


def test_a_table_of_activation_parameters_comes_back(quantized: Maker, path: Path) -> None:
    net = quantized("w4a4")
    net.down.activation.scale = torch.rand(20) + 0.1
    net.down.activation.zero_point = torch.arange(20, dtype=torch.int32) % 16
    save_checkpoint(net, path)
    loaded = load_checkpoint(path, make_net())
    assert torch.equal(loaded.down.activation.scale, net.down.activation.scale)
    assert torch.equal(loaded.down.activation.zero_point, net.down.activation.zero_point)


def test_tied_weights_and_views_are_stored(path: Path) -> None:
    def make() -> nn.Module:
        net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        net[1].weight = net[0].weight
        net[0].bias.data = torch.arange(8.0)[::2]
        return net

    net, x = make(), torch.randn(2, 4)
    save_checkpoint(net, path)
    assert torch.equal(load_checkpoint(path, make())(x), net(x))


@pytest.mark.parametrize("precision", ["w4a4", "w32a32"])
def test_the_same_net_gives_the_same_bytes(quantized: Maker, tmp_path: Path, precision: str) -> None:
    files = [tmp_path / name for name in "abc"]
    for file in files:
        save_checkpoint(quantized(precision, w_symmetric=False), file, {"b": 1, "a": [1.5, None]})
    save_checkpoint(load_checkpoint(files[0], make_net(5)), files[1], {"a": [1.5, None], "b": 1})
    assert len({file.read_bytes() for file in files}) == 1


def test_facts_and_layers_can_be_read(quantized: Maker, path: Path) -> None:
    save_checkpoint(quantized("w4a4", end_bits=8), path, {"method": "rtn", "steps": 20})
    header = read_header(path)
    assert header.facts == {"method": "rtn", "steps": 20}
    layers = {layer.name: layer for layer in header.layers}
    assert (layers["conv_in"].w_bits, layers["down"].w_bits) == (8, 4)
    assert layers["down"].shape == (8, 4, 3, 3)
    assert layers["embed"].operation == "Linear"


def test_nothing_that_can_be_derived_is_stored(quantized: Maker, path: Path) -> None:
    save_checkpoint(quantized("w4a4"), path)
    with safe_open(path, "pt") as file:
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert stored["down.codes"] == (8 * 4 * 9 // 2,)
    assert not [name for name in stored if name.endswith(("down.weight", "weight_zero"))]


def test_w4_of_the_bundled_architecture_is_seven_times_smaller(tmp_path: Path) -> None:
    from pqbench.workloads.diffusers_net import DiffusersDenoiser
    from pqbench.workloads.training.sets import FASHION

    net = DiffusersDenoiser.from_config(FASHION.architecture)
    save_checkpoint(net, tmp_path / "fp")
    for symmetric in (True, False):
        copy = DiffusersDenoiser.from_config(FASHION.architecture)
        example = torch.randn(1, 4, 16, 16), torch.tensor([10])
        quantize_layers(copy, Precision(4, 4), example, end_bits=8, w_symmetric=symmetric)
        save_checkpoint(freeze(copy), tmp_path / "w4")
        assert (tmp_path / "fp").stat().st_size >= 7 * (tmp_path / "w4").stat().st_size


def test_a_missing_file(path: Path, net: MiniDenoiser) -> None:
    with pytest.raises(UserError, match="no checkpoint at"):
        load_checkpoint(path, net)


def test_a_truncated_file(quantized: Maker, path: Path) -> None:
    save_checkpoint(quantized("w4a4"), path)
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="truncated"):
            load_checkpoint(path, make_net())


def test_any_changed_byte_is_noticed(quantized: Maker, path: Path) -> None:
    save_checkpoint(quantized("w4a4"), path)
    whole = path.read_bytes()
    for place in range(0, len(whole), len(whole) // 150):
        changed = bytearray(whole)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(UserError):
            load_checkpoint(path, make_net())


def test_a_file_of_a_newer_version(path: Path, net: MiniDenoiser) -> None:
    write_file(path, Header(version=VERSION + 1), {})
    with pytest.raises(UserError, match=rf"format {VERSION + 1}; this pqbench reads formats up to {VERSION}: upgrade"):
        load_checkpoint(path, net)


@pytest.mark.parametrize("text", ["", "0", "0 {}", "0 []", '0 {"version": "x"}', "no json at all"])
def test_a_header_that_is_none(path: Path, net: MiniDenoiser, text: str) -> None:
    save_file({"a": torch.zeros(1)}, path, {"pqbench": text})
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(path, net)


def test_some_other_safetensors_file(path: Path, net: MiniDenoiser) -> None:
    save_file(net.state_dict(), path, {"format": "pt"})
    with pytest.raises(UserError, match="no checkpoint written by pqbench"):
        load_checkpoint(path, net)


@pytest.mark.parametrize(
    ("name", "layer", "says"),
    [
        ("down", nn.Conv2d(8, 8, 3), "shape"),
        ("down", nn.Linear(8, 8), "down is a Linear"),
        ("down", nn.ReLU(), "down is a ReLU"),
        ("unused", nn.Linear(3, 4), "of another shape: unused.bias, unused.weight"),
        ("unused", nn.Identity(), "only in the file: unused.bias, unused.weight"),
        ("norm", nn.Sequential(nn.GroupNorm(2, 8)), "only in the architecture: norm.0.bias"),
    ],
)
def test_another_architecture(quantized: Maker, path: Path, name: str, layer: nn.Module, says: str) -> None:
    save_checkpoint(quantized("w4a4"), path)
    other = make_net()
    setattr(other, name, layer)
    with pytest.raises(UserError, match="another architecture") as caught:
        load_checkpoint(path, other)
    assert says in str(caught.value)


def test_an_architecture_without_the_layer(quantized: Maker, path: Path) -> None:
    save_checkpoint(quantized("w4a4"), path)
    with pytest.raises(UserError, match="has no layer embed"):
        load_checkpoint(path, nn.Sequential(nn.Linear(2, 2)))


def test_a_layer_that_was_never_frozen_is_not_saved(net: MiniDenoiser, example: Example, path: Path) -> None:
    quantize_layers(net, Precision(4, 4), example)
    with pytest.raises(UserError, match="embed is not at w4a4"):
        save_checkpoint(net, path)
    assert not path.exists()


def test_a_full_disk_keeps_the_old_file(quantized: Maker, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_checkpoint(quantized("w8a8"), path)
    before = path.read_bytes()

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        save_checkpoint(quantized("w4a4"), path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_the_metadata_is_one_entry(quantized: Maker, path: Path) -> None:
    """Several entries would come in a different order in every file."""
    save_checkpoint(quantized("w4a4"), path)
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert list(header["__metadata__"]) == ["pqbench"]
