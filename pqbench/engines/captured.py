"""What dynamo captured of a net: its compute-heavy operations, each with the module whose code called it."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from pqbench.contracts import ExecutedLayer
from pqbench.engines.torch_eager import short_name
from pqbench.quantization.net.attention import OPERANDS

_WEIGHTED = ("conv1d", "conv2d", "linear")
_INTEGER = "_int_mm"
_OPERATIONS = (*_WEIGHTED, _INTEGER, "scaled_dot_product_attention", "matmul", "bmm", "baddbmm")
"""Operations of a captured graph that hold nearly all multiplications."""
_PRODUCTS = {path.partition(".")[0] for path in OPERANDS.values()}
"""Names of the products of a quantized attention, below the attention's module."""
_ROOT = "L['self']"
"""What was compiled, in dynamo's paths."""
_PARTS = re.compile(r"\['([^']+)'\]|\.(\w+)|\[(\d+)\]")


def executed_layers(
    graph: torch.fx.GraphModule, compiled: nn.Module, net: nn.Module, names: Collection[str]
) -> Iterator[ExecutedLayer]:
    """The compute-heavy operations of the graph of `compiled`, with the types that it gives their inputs.

    net     the part of it whose modules are looked for

    names   of those that operations are traced back to: an operation in a part of one counts as that module's,
            and a product of a quantized attention as the attention's
    """
    modules = {id(module): name for name, module in net.named_modules()}
    for node in graph.graph.nodes:
        operation = getattr(node.target, "__name__", str(node.target))
        if node.op == "call_function" and operation in _OPERATIONS:
            inputs = [_type(argument) for argument in node.args if isinstance(argument, torch.fx.Node)]
            name = _known(modules.get(id(_module(node, compiled)), ""), names)
            owner, _, last = name.rpartition(".")
            is_product = last in _PRODUCTS
            holds_weights = operation in _WEIGHTED or (operation == _INTEGER and not is_product)
            yield ExecutedLayer(
                layers=tuple(filter(None, [owner if is_product else name])),
                operation=operation,
                precision=inputs[0],
                weights=inputs[1] if holds_weights else "",
            )


def _type(node: torch.fx.Node) -> str:
    return short_name(node.meta["example_value"].dtype)


def _known(name: str, names: Collection[str]) -> str:
    """The longest beginning of a dotted name that is among `names`; empty when none is."""
    while name and name not in names:
        name = name.rpartition(".")[0]
    return name


def _module(node: torch.fx.Node, compiled: nn.Module) -> object:
    """The module whose code called the operation: the innermost of the stack that dynamo keeps.

    Dynamo says by which attributes it got there from what it compiled, and by the same ones it is found: those of a
    quantized attention, for instance, lead through the arguments of its wrapped forward.
    """
    stack = node.meta.get("nn_module_stack") or {}
    path = next((path for path, _ in reversed(stack.values())), "")
    found: Any = compiled if path.startswith(_ROOT) else None
    for key, attribute, index in _PARTS.findall(path.removeprefix(_ROOT)):
        try:
            found = getattr(found, attribute) if attribute else found[key or int(index)]
        except (AttributeError, LookupError, TypeError):
            return None
    return found
