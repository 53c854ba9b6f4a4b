"""The bit audit of a packed checkpoint, from the file alone: no architecture, no workload, nothing is run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue
from torch import Tensor

from pqbench.contracts.precision import FULL_PRECISION_BITS
from pqbench.quantization.checkpoint.format import Header, StoredAttention, StoredLayer, read_file
from pqbench.quantization.net.attention import operand_names
from pqbench.quantization.net.output_correction import NAME as CORRECTION


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LayerAudit(_Frozen):
    """One layer with integer weights, a quantized input or both, as the file holds it.

    w_scales            scales of its weight: one an output channel, or one a group of weights; 0 for a float weight
    group_size          input elements that share a scale; 0: all of an output channel
    a_parameter_sets    scales of its input: 1 for a static one, S for a table over S time steps; 0 where the input is
                        in full precision or its range is found at run time
    bytes               of all that it keeps in the file: codes, scales, zero-points, bias
    """

    name: str
    operation: str
    shape: tuple[int, ...]
    w_bits: int
    w_grid: str
    w_scales: int
    group_size: int
    a_bits: int
    a_grid: str
    a_parameter_sets: int
    bytes: int


class OperandAudit(_Frozen):
    """One operand of an attention's products (q, k, softmax output, v); the fields are those of a layer's input."""

    name: str
    a_bits: int
    a_grid: str
    a_parameter_sets: int
    bytes: int


class FloatLayer(_Frozen):
    """A layer whose weight (two or more axes) is in floating point; `bytes` are the weight's."""

    name: str
    shape: tuple[int, ...]
    bits: int
    bytes: int


class FileAudit(_Frozen):
    """What a packed checkpoint holds.

    facts                        what its writer wanted kept
    weights                      numbers in weights of two or more axes
    average_weight_bits          over all of them; those in floating point count with the width of their type
    activation_parameter_sets    the most that any layer or operand has
    corrected                    whether its output is corrected, step by step
    other_bytes                  normalisation, biases of float layers, a correction: whatever multiplies no activations
    header_bytes                 the rest of the file
    """

    path: str
    sha256: str
    format_version: int
    facts: dict[str, JsonValue]
    layers: tuple[LayerAudit, ...]
    operands: tuple[OperandAudit, ...]
    float_layers: tuple[FloatLayer, ...]
    weights: int
    average_weight_bits: float
    activation_parameter_sets: int
    corrected: bool = False
    file_bytes: int
    other_bytes: int
    header_bytes: int


def audit_file(path: Path) -> FileAudit:
    """Audit a checkpoint.

    Raises `UserError` when the file is missing, truncated, changed (its digest is checked), no checkpoint of pqbench,
    or of a newer version.
    """
    header, tensors = read_file(path)
    layers = tuple(_layer(stored, tensors) for stored in header.layers)
    operands = tuple(operand for stored in header.attentions for operand in _operands(stored, tensors))
    rest = _unquantized(header, tensors)
    floats = tuple(_float_layer(name, tensor) for name, tensor in rest.items() if _is_weight(name, tensor))
    counted = [(prod(layer.shape), layer.w_bits) for layer in layers]
    counted += [(prod(layer.shape), layer.bits) for layer in floats]
    sets = [layer.a_parameter_sets for layer in layers] + [operand.a_parameter_sets for operand in operands]
    content = path.read_bytes()
    return FileAudit(
        path=str(path),
        sha256=hashlib.sha256(content).hexdigest(),
        format_version=header.version,
        facts=header.facts,
        layers=layers,
        operands=operands,
        float_layers=floats,
        weights=sum(count for count, _ in counted),
        average_weight_bits=_average(counted),
        activation_parameter_sets=max(sets, default=0),
        file_bytes=len(content),
        corrected=header.corrected,
        other_bytes=_bytes(tensor for name, tensor in rest.items() if not _is_weight(name, tensor)),
        header_bytes=len(content) - _bytes(tensors.values()),
    )


def _layer(stored: StoredLayer, tensors: Mapping[str, Tensor]) -> LayerAudit:
    own = dict(_own(stored.name, tensors))
    scales = {kind: own[f"{kind}scale"].numel() if f"{kind}scale" in own else 0 for kind in ("weight_", "activation.")}
    is_float = stored.w_bits == FULL_PRECISION_BITS
    passes = stored.a_bits == FULL_PRECISION_BITS
    return LayerAudit(
        name=stored.name,
        operation=stored.operation,
        shape=stored.shape,
        w_bits=stored.w_bits,
        w_grid="float" if is_float else _grid(stored.w_symmetric),
        group_size=stored.group_size,
        w_scales=0 if is_float else scales["weight_"],
        a_bits=stored.a_bits,
        a_grid="float" if passes else _grid(stored.a_symmetric),
        a_parameter_sets=0 if passes else scales["activation."],
        bytes=_bytes(own.values()),
    )


def _operands(stored: StoredAttention, tensors: Mapping[str, Tensor]) -> Iterator[OperandAudit]:
    for operand, name in operand_names(stored.name).items():
        own = dict(_own(name, tensors))
        bits = stored.bits[operand]
        passes = bits == FULL_PRECISION_BITS
        yield OperandAudit(
            name=name,
            a_bits=bits,
            a_grid="float" if passes else _grid(stored.symmetric and operand != "softmax"),
            a_parameter_sets=0 if passes else own["scale"].numel(),
            bytes=_bytes(own.values()),
        )


def _grid(symmetric: bool) -> str:
    return "symmetric" if symmetric else "asymmetric"


def _own(part: str, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    prefix = f"{part}."
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), tensor


def _unquantized(header: Header, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    operands = (name for stored in header.attentions for name in operand_names(stored.name).values())
    prefixes = tuple(f"{name}." for name in (*(stored.name for stored in header.layers), *operands))
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


def _is_weight(name: str, tensor: Tensor) -> bool:
    return tensor.dim() >= 2 and not name.startswith(f"{CORRECTION}.")


def _float_layer(name: str, tensor: Tensor) -> FloatLayer:
    return FloatLayer(
        name=name.removesuffix(".weight"),
        shape=tuple(tensor.shape),
        bits=tensor.element_size() * 8,
        bytes=_bytes([tensor]),
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _average(counted: Iterable[tuple[int, int]]) -> float:
    pairs = list(counted)
    total = sum(count for count, _ in pairs)
    return sum(count * bits for count, bits in pairs) / total if total else float(FULL_PRECISION_BITS)
