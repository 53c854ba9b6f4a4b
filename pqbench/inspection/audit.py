"""The bit audit: what is really quantized, counted from the tensors of a net and from one forward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from statistics import mean

from torch import Tensor, nn

from pqbench.contracts.precision import FULL_PRECISION_BITS, QUANTIZED_BITS, Precision
from pqbench.inspection.audit_result import Audit
from pqbench.inspection.macs import own_macs
from pqbench.quantization.net.attention import QuantizedProduct, full_precision_operands, quantized_operands
from pqbench.quantization.net.layers import ActivationQuantizer, QuantizedLayer, activation_quantizers, quantized_layers
from pqbench.quantization.net.verify import verify

_NOTHING_TO_QUANTIZE = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, ActivationQuantizer)
_PRODUCTS_WITH_WEIGHTS = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)
"""Layers that are listed by their weights; what another module with weights multiplies may be two activations."""


def audit(net: nn.Module, example: tuple[Tensor, ...], precision: Precision | None = None) -> Audit:
    """Count the bits of `net`, which is run once on `example`, (x_t, t, *condition).

    Weights are all parameters with two or more axes (kernels, matrices, embeddings) and the codes of quantized layers;
    those in floating point count with the width of their type. Activations count by the multiply-accumulates that read
    them, those of a product of two activations (attention) with the mean of both; products in full precision count 32
    bits.

    precision   the stated one, beyond which a layer is listed as wider; None: the narrowest bits of any layer

    Raises `UserError` when a layer is not what it says it is (see `verify`).
    """
    verify(net)
    macs = own_macs(net, example)
    weights = list(_weights(net))
    return Audit(
        average_weight_bits=_average((count, bits) for _, count, bits in weights),
        average_activation_bits=_average(_activations(net, macs)),
        full_precision_layers=tuple(dict.fromkeys(name for name, _, bits in weights if bits not in QUANTIZED_BITS)),
        wider_layers=_wider(net, precision or _narrowest(net)),
        activation_parameter_sets=_parameter_sets(net),
        full_precision_operations=tuple(_operations(net, macs)),
    )


def _weights(net: nn.Module) -> Iterator[tuple[str, int, int]]:
    """(layer, number of weights, bits) of all weights of the net."""
    for name, layer in quantized_layers(net):
        yield name, layer.weight.numel(), layer.w_bits
    for name, parameter in net.named_parameters():
        if parameter.dim() >= 2:
            yield name.removesuffix(".weight"), parameter.numel(), parameter.element_size() * 8


def _activations(net: nn.Module, macs: Mapping[str, int]) -> Iterator[tuple[int, float]]:
    """(multiply-accumulates, bits of what they read) of every executed module."""
    for name, count in macs.items():
        yield count, _bits_read(net.get_submodule(name))


def _bits_read(module: nn.Module) -> float:
    if isinstance(module, QuantizedLayer):
        return module.activation.bits
    if isinstance(module, QuantizedProduct):
        return mean(quantizer.bits for _, quantizer in activation_quantizers(module))
    return FULL_PRECISION_BITS


def _average(counted: Iterable[tuple[int, float]]) -> float:
    pairs = list(counted)
    total = sum(count for count, _ in pairs)
    return sum(count * bits for count, bits in pairs) / total if total else float(FULL_PRECISION_BITS)


def _narrowest(net: nn.Module) -> Precision:
    bits = [(layer.w_bits, layer.activation.bits) for _, layer in quantized_layers(net)]
    return Precision(min(w for w, _ in bits), min(a for _, a in bits)) if bits else Precision()


def _wider(net: nn.Module, stated: Precision) -> dict[str, str]:
    found = {name: Precision(layer.w_bits, layer.activation.bits) for name, layer in quantized_layers(net)}
    wider = {
        name: str(bits) for name, bits in found.items() if bits.quantizes and (bits.w > stated.w or bits.a > stated.a)
    }
    operands = {name: operand.bits for name, operand in quantized_operands(net) if operand.grid is not None}
    return wider | {name: f"a{bits}" for name, bits in operands.items() if bits > stated.a}


def _parameter_sets(net: nn.Module) -> int:
    quantizers = [quantizer for _, quantizer in activation_quantizers(net)]
    stored = (q.scale.numel() for q in quantizers if q.grid is not None and not q.dynamic)
    return max(stored, default=0)


def _operations(net: nn.Module, macs: Mapping[str, int]) -> Iterator[str]:
    """Kinds of operations in full precision with how often the net has each: `GroupNorm (21)`.

    They are the products that modules other than layers compute, operands of quantized attention that are left out, and
    the modules without submodules and weights; what a module does in functional code besides products (additions, a
    functional activation) is not seen. The search for a token's range at run time is such an operation too.
    """
    kinds: Counter[str] = Counter()
    for name, count in macs.items():
        module = net.get_submodule(name)
        if isinstance(module, QuantizedProduct):
            kinds.update(f"attention operand {operand}" for operand in full_precision_operands(module))
            continue
        if isinstance(module, ActivationQuantizer) and module.dynamic and module.grid is not None:
            kinds["dynamic range"] += 1
        if isinstance(module, (QuantizedLayer, *_NOTHING_TO_QUANTIZE, *_PRODUCTS_WITH_WEIGHTS)):
            continue
        if count:
            kinds[f"{type(module).__name__} products"] += 1
        elif not list(module.children()) and not _has_weights(module):
            kinds[type(module).__name__] += 1
    for kind, number in sorted(kinds.items()):
        yield f"{kind} ({number})"


def _has_weights(module: nn.Module) -> bool:
    return any(parameter.dim() >= 2 for parameter in module.parameters(recurse=False))
