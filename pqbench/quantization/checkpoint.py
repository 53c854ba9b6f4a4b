"""Packed checkpoints: a quantized (or full-precision) net in one file, with nothing in it that can be derived.

    save_checkpoint(net, path)
    net = load_checkpoint(path, workload.architecture())

A quantized layer leaves its codes, packed to their bits, and float32 scales. Zero-points are stored as bytes, and not
at all on symmetric grids; the float weight is derived from the codes when the file is loaded. Everything else in the
net's state is stored as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.errors import UserError
from pqbench.quantization.checkpoint_format import Header, StoredLayer, read_file, write_file
from pqbench.quantization.layers import QUANTIZABLE, QuantizedLayer, operation_of, replace_module
from pqbench.quantization.packing import pack, unpack
from pqbench.quantization.time_tables import keep_time, table_steps
from pqbench.quantization.verify import verify


def save_checkpoint(net: nn.Module, path: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write `net` to `path`, atomically; the same net and facts give the same bytes.

    `facts` (values that JSON can hold) are kept in the header. Raises `UserError` when a quantized layer is not what
    it says it is (see `verify`) and when the disk is full.
    """
    verify(net)
    layers = dict(_all_quantized(net))
    tensors = {name: value.detach().cpu() for name, value in net.state_dict().items()}
    for name, layer in layers.items():
        _to_file(tensors, _stored_layer(name, layer))
    stored = tuple(_stored_layer(*item) for item in layers.items())
    write_file(path, Header.of(stored, dict(facts or {}), table_steps(net)), _unshared(tensors))


def load_checkpoint(path: Path, net: nn.Module) -> nn.Module:
    """Fill `net`, an architecture with unspecified weights, from a checkpoint, in place, and return it (on the CPU).

    Layers that the checkpoint holds as integers become `QuantizedLayer`s. The result computes bit for bit what the
    saved net did. Raises `UserError` for a damaged file, one of a newer version, or one of another architecture.
    """
    header, tensors = read_file(path)
    for stored in header.layers:
        _replace(net, stored, path)
        _from_file(tensors, stored)
    _fit_activation_tables(net, tensors)
    if header.time_steps:
        keep_time(net, header.time_steps)
    _require_same_state(net, tensors, path)
    net.load_state_dict(tensors, assign=True)
    return net


def read_header(path: Path) -> Header:
    """What a checkpoint says about itself: its version, quantized layers and facts."""
    return read_file(path)[0]


def _all_quantized(net: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    # With duplicates: a layer under two names has its state under both.
    for name, module in net.named_modules(remove_duplicate=False):
        if isinstance(module, QuantizedLayer):
            yield name, module


def _stored_layer(name: str, layer: QuantizedLayer) -> StoredLayer:
    return StoredLayer(
        name=name,
        operation=layer.operation,
        w_bits=layer.w_bits,
        w_symmetric=layer.w_symmetric,
        a_bits=layer.activation.bits,
        a_symmetric=layer.activation.symmetric,
        a_dynamic=layer.activation.dynamic,
        group_size=layer.group_size,
        shape=tuple(layer.weight.shape),
    )


def _grids(stored: StoredLayer) -> Iterator[tuple[str, str, bool]]:
    """Of the weights and of the activations: the keys of scale and zero-point, and whether the grid is symmetric."""
    yield f"{stored.name}.weight_scale", f"{stored.name}.weight_zero", stored.w_symmetric
    yield f"{stored.name}.activation.scale", f"{stored.name}.activation.zero_point", stored.a_symmetric


def _to_file(tensors: dict[str, Tensor], stored: StoredLayer) -> None:
    """Turn a layer's state into what the file holds, in place."""
    codes = f"{stored.name}.codes"
    if codes in tensors:
        tensors[codes] = pack(tensors[codes], stored.w_bits, stored.w_symmetric)
    for scale, zero, symmetric in _grids(stored):
        if scale in tensors:
            points = tensors.pop(zero)
            if not symmetric:
                tensors[zero] = points.to(torch.uint8)


def _from_file(tensors: dict[str, Tensor], stored: StoredLayer) -> None:
    """Turn what the file holds into a layer's state, in place."""
    codes = f"{stored.name}.codes"
    if codes in tensors:
        tensors[codes] = unpack(tensors[codes], stored.w_bits, stored.w_symmetric, stored.shape)
    for scale, zero, _ in _grids(stored):
        if scale in tensors:
            tensors[zero] = tensors.get(zero, torch.zeros_like(tensors[scale])).to(torch.int32)


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors of which no two share memory (safetensors refuses those: tied weights are stored twice)."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        place = tensor.untyped_storage().data_ptr()
        result[name] = (tensor.clone() if place in seen else tensor).contiguous()
        seen.add(place)
    return result


def _replace(net: nn.Module, stored: StoredLayer, path: Path) -> None:
    """Put a quantized layer in the place of the architecture's layer."""
    try:
        layer = net.get_submodule(stored.name)
    except AttributeError:
        raise UserError(f"{path} belongs to another architecture: this one has no layer {stored.name}.") from None
    if not isinstance(layer, QUANTIZABLE):
        raise UserError(
            f"{path} belongs to another architecture: {stored.name} is a {type(layer).__name__} here, "
            f"a {stored.operation} there."
        )
    here = (operation_of(layer), tuple(layer.weight.shape))
    if here != (stored.operation, stored.shape):
        raise UserError(
            f"{path} belongs to another architecture: {stored.name} is a {here[0]} of shape {here[1]} here, "
            f"a {stored.operation} of shape {stored.shape} there."
        )
    grids = (stored.w_bits, stored.a_bits, stored.w_symmetric, stored.a_symmetric)
    quantized = QuantizedLayer(layer, *grids, group_size=stored.group_size, a_dynamic=stored.a_dynamic)
    replace_module(net, stored.name, quantized.train(layer.training))


def _fit_activation_tables(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give activation parameters the stored shape: one for all time steps, or a table."""
    for name, layer in _all_quantized(net):
        for key in ("scale", "zero_point"):
            stored = tensors.get(f"{name}.activation.{key}")
            if stored is not None:
                setattr(layer.activation, key, torch.empty_like(stored))


def _require_same_state(net: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    here = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    there = {name: tuple(value.shape) for name, value in tensors.items()}
    if here == there:
        return
    differences = {
        "only in the architecture": sorted(here.keys() - there.keys()),
        "only in the file": sorted(there.keys() - here.keys()),
        "of another shape": sorted(name for name in here.keys() & there.keys() if here[name] != there[name]),
    }
    listed = "; ".join(f"{what}: {_some(names)}" for what, names in differences.items() if names)
    raise UserError(f"{path} belongs to another architecture: {listed}.")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
