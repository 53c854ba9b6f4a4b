"""Packed checkpoints: a quantized (or full-precision) net in one file, with nothing in it that can be derived.

    save_checkpoint(net, path)
    net = load_checkpoint(path, workload.architecture())

A quantized layer leaves its codes, packed to their bits, and float32 scales, an attention operand its scale.
Zero-points are stored as bytes, and not at all where the kind of the grid says that they are 0; the float weight is
derived from the codes when the file is loaded. Everything else in the net's state is stored as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.quantization.checkpoint.format import (
    Header,
    StoredAttention,
    StoredLayer,
    StoredSplit,
    read_file,
    write_file,
)
from pqbench.quantization.grids.packing import pack, unpack
from pqbench.quantization.grids.time_tables import keep_time, table_steps
from pqbench.quantization.net.attention import (
    OPERANDS,
    make_operands,
    operand_names,
    quantize_attention,
    quantized_attentions,
)
from pqbench.quantization.net.layers import (
    QUANTIZABLE,
    ActivationQuantizer,
    QuantizedLayer,
    operation_of,
    replace_module,
)
from pqbench.quantization.net.output_correction import NAME as CORRECTION
from pqbench.quantization.net.output_correction import OutputCorrection, attach, corrected
from pqbench.quantization.net.shortcuts import SplitLayer, split_layer
from pqbench.quantization.net.verify import verify

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def save_checkpoint(net: nn.Module, path: Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write `net` to `path`, atomically; the same net and facts give the same bytes.

    `facts` (values that JSON can hold) are kept in the header. Raises `UserError` when a quantized layer is not what
    it says it is (see `verify`) and when the disk is full.
    """
    verify(net)
    header = Header.of(
        layers=tuple(_stored_layer(*item) for item in _all(net, QuantizedLayer)),
        splits=tuple(StoredSplit(name=name, widths=tuple(split.widths)) for name, split in _all(net, SplitLayer)),
        attentions=tuple(_stored_attention(*item) for item in quantized_attentions(net)),
        facts=dict(facts or {}),
        time_steps=table_steps(net),
        corrected=corrected(net) is not None,
    )
    tensors = {name: value.detach().cpu() for name, value in net.state_dict().items()}
    _to_file(tensors, header)
    write_file(path, header, _unshared(tensors))


def load_checkpoint(path: Path, net: nn.Module) -> nn.Module:
    """Fill `net`, an architecture with unspecified weights, from a checkpoint, in place, and return it (on the CPU).

    Layers that the checkpoint holds as integers become `QuantizedLayer`s, split ones `SplitLayer`s, and attention is
    quantized where it was. The result computes bit for bit what the saved net did. Raises `UserError` for a damaged
    file, one of a newer version, or one of another architecture.
    """
    header, tensors = read_file(path)
    for split in header.splits:
        _split(net, split, path)
    for stored in header.layers:
        _replace(net, stored, path)
    for attention in header.attentions:
        _attend(net, attention, path)
    _from_file(tensors, header)
    _fit_activation_tables(net, tensors)
    if header.time_steps:
        keep_time(net, header.time_steps)
    if header.corrected:
        _correct(net, tensors, path)
    _require_same_state(net, tensors, path)
    net.load_state_dict(tensors, assign=True)
    return net


def read_header(path: Path) -> Header:
    """What a checkpoint says about itself: its version, quantized layers and facts."""
    return read_file(path)[0]


def _all(net: nn.Module, kind: type[AnyModule]) -> Iterator[tuple[str, AnyModule]]:
    # With duplicates: a layer under two names has its state under both.
    for name, module in net.named_modules(remove_duplicate=False):
        if isinstance(module, kind):
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


def _stored_attention(name: str, attention: nn.Module) -> StoredAttention:
    found = {operand: attention.get_submodule(path) for operand, path in OPERANDS.items()}
    quantizers = {operand: module for operand, module in found.items() if isinstance(module, ActivationQuantizer)}
    bits = {operand: quantizer.bits for operand, quantizer in quantizers.items()}
    return StoredAttention(name=name, bits=bits, symmetric=quantizers["q"].symmetric)


def _grids(header: Header) -> Iterator[tuple[str, str, bool]]:
    """Of all weights and activations: the keys of scale and zero-point, and whether the zero-point is always 0."""
    for stored in header.layers:
        yield f"{stored.name}.weight_scale", f"{stored.name}.weight_zero", stored.w_symmetric
        yield f"{stored.name}.activation.scale", f"{stored.name}.activation.zero_point", stored.a_symmetric
    for attention in header.attentions:
        for operand, name in operand_names(attention.name).items():
            yield f"{name}.scale", f"{name}.zero_point", attention.symmetric or operand == "softmax"


def _to_file(tensors: dict[str, Tensor], header: Header) -> None:
    """Turn the net's state into what the file holds, in place."""
    for stored in header.layers:
        codes = f"{stored.name}.codes"
        if codes in tensors:
            tensors[codes] = pack(tensors[codes], stored.w_bits, stored.w_symmetric)
    for scale, zero, without in _grids(header):
        if scale in tensors:
            points = tensors.pop(zero)
            if not without:
                tensors[zero] = points.to(torch.uint8)


def _from_file(tensors: dict[str, Tensor], header: Header) -> None:
    """Turn what the file holds into the net's state, in place."""
    for stored in header.layers:
        codes = f"{stored.name}.codes"
        if codes in tensors:
            tensors[codes] = unpack(tensors[codes], stored.w_bits, stored.w_symmetric, stored.shape)
    for scale, zero, _ in _grids(header):
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


def _part_of(net: nn.Module, name: str, what: str, path: Path) -> nn.Module:
    try:
        return net.get_submodule(name)
    except AttributeError:
        raise UserError(f"{path} belongs to another architecture: this one has no {what} {name}.") from None


def _split(net: nn.Module, stored: StoredSplit, path: Path) -> None:
    """Put a split layer in the place of the architecture's layer."""
    layer = _part_of(net, stored.name, "layer", path)
    if not isinstance(layer, QUANTIZABLE) or layer.weight.shape[1] != sum(stored.widths):
        raise UserError(
            f"{path} belongs to another architecture: {stored.name} is a {type(layer).__name__} here, "
            f"a layer split into {list(stored.widths)} channels there."
        )
    split_layer(net, stored.name, stored.widths)


def _attend(net: nn.Module, stored: StoredAttention, path: Path) -> None:
    """Quantize the attention of the architecture's module."""
    _part_of(net, stored.name, "attention", path)
    quantize_attention(net, stored.name, make_operands(stored.bits, stored.symmetric))


def _replace(net: nn.Module, stored: StoredLayer, path: Path) -> None:
    """Put a quantized layer in the place of the architecture's layer."""
    layer = _part_of(net, stored.name, "layer", path)
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


def _correct(net: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Give the net the stored output correction."""
    try:
        values = [tensors[f"{CORRECTION}.{name}"] for name in ("time_steps", "gain", "bias")]
    except KeyError as missing:
        raise UserError(f"{path} says that its output is corrected, and holds no {missing.args[0]}.") from None
    attach(net, OutputCorrection(*values))


def _fit_activation_tables(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Give activation parameters the stored shape: one for all time steps, or a table."""
    for name, quantizer in _all(net, ActivationQuantizer):
        for key in ("scale", "zero_point"):
            stored = tensors.get(f"{name}.{key}")
            if stored is not None:
                setattr(quantizer, key, torch.empty_like(stored))


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
