"""What a compiled model really executes, read back from OpenVINO's runtime graph, layer by layer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from pqbench.contracts import ExecutedLayer
from pqbench.quantization.net.layers import QUANTIZABLE, QuantizedLayer

_COMPUTE = ("Convolution", "Deconvolution", "FullyConnected", "MatMul", "ScaledDotProductAttention")
"""Beginnings of the runtime names of operations that hold nearly all multiplications."""
_FUSED = ("Subgraph", "MHA")
"""Runtime names of kernels that several operations were fused into: those of attention, also its products."""
_PRODUCTS = ("/MatMul", "/ScaledDotProductAttention")
"""Ends of the names of operations that are products; what only prepares one has its name and then another."""
_SCOPE = re.compile(r"^__module\.([^/]*)/")
"""The tracer's scope in an operation's name: `__module.net.conv_in/aten::_convolution/Convolution`."""
_PARAMETER = re.compile(r"^self\.(.+)$")
"""The name of a constant that was a tensor of the module: `self.net.conv_in.steps`."""
_PRODUCT_MODULES = re.compile(r"\.(qk_product|sv_product)$")
_REARRANGED = ("Convert", "Reorder", "Reshape", "Transpose")
"""Runtime names of operations that leave the values as they are."""
_WEIGHTS = 1
"""Which input of a layer holds its weights."""


def layer_names(net: nn.Module) -> tuple[str, ...]:
    """The modules to which operations are traced back."""
    return tuple(name for name, module in net.named_modules() if isinstance(module, (*QUANTIZABLE, QuantizedLayer)))


def executed_layers(compiled: Any, layers: Sequence[str]) -> tuple[ExecutedLayer, ...]:
    """The compute-heavy operations of the runtime graph; `layers` are the `layer_names` of the net that was compiled.

    The precision is the type of an operation's input; OpenVINO's own `runtimePrecision` names that of the weights where
    these alone are integers. `weights` is the type of the constant that holds them (a kernel may make a copy of another
    type). Names lead back to modules by that constant, and by the scope that the tracer wrote into the names of the
    operations that became a kernel. Attention that was fused into one kernel counts as one; products of attention are
    named by the module that computes it.
    """
    return tuple(_executed(operation, layers) for operation in _compute_heavy(compiled))


def _compute_heavy(compiled: Any) -> Iterator[Any]:
    for operation in compiled.get_runtime_model().get_ops():
        kind = _fact(operation, "layerType")
        if kind.startswith(_COMPUTE) or (kind in _FUSED and any(map(_is_product, _originals(operation)))):
            yield operation


def _executed(operation: Any, layers: Sequence[str]) -> ExecutedLayer:
    constants = dict(_constants(operation))
    sources = [_PARAMETER.match(constant.get_friendly_name()) for constant in constants.values()]
    weights = _named(layers, [match[1] for match in sources if match])
    scopes = [match[1] for name in _originals(operation) if (match := _SCOPE.match(name))]
    products = [_product_module(name) for name in _originals(operation) if _is_product(name)]
    # A kernel's names include what was fused behind it: the weights are the surer sign, then what is a layer.
    found = weights or _named(layers, scopes) or tuple(dict.fromkeys(filter(None, products)))
    return ExecutedLayer(
        layers=found,
        operation=operation.get_friendly_name(),
        precision=_type(operation.input(0)),
        weights=_type(constants[_WEIGHTS].output(0)) if _WEIGHTS in constants else "",
    )


def _constants(operation: Any) -> Iterator[tuple[int, Any]]:
    """The inputs that are constants, or only rearranged ones, by their place."""
    for place in range(operation.get_input_size()):
        source = operation.input_value(place).get_node()
        while _fact(source, "layerType") in _REARRANGED:
            source = source.input_value(0).get_node()
        if _fact(source, "layerType") == "Const":
            yield place, source


def _type(port: Any) -> str:
    name: str = port.get_element_type().get_type_name()
    return name


def _named(layers: Sequence[str], texts: Sequence[str]) -> tuple[str, ...]:
    """The layers to which dotted names belong, each the one whose name is the longest beginning."""
    found: dict[str, None] = {}
    for text in texts:
        owners = [layer for layer in layers if text == layer or text.startswith(f"{layer}.")]
        if owners:
            found[max(owners, key=len)] = None
    return tuple(found)


def _is_product(name: str) -> bool:
    return name.endswith(_PRODUCTS)


def _product_module(name: str) -> str:
    match = _SCOPE.match(name)
    return _PRODUCT_MODULES.sub("", match[1]) if match else ""


def _originals(operation: Any) -> list[str]:
    """Names of the model's operations that became this kernel."""
    return [name for name in _fact(operation, "originalLayersNames").split(",") if name]


def _fact(operation: Any, key: str) -> str:
    facts = operation.get_rt_info()
    return str(facts[key].astype(str)) if key in facts else ""
