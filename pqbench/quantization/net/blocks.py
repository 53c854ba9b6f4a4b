"""Blocks: the units in which a denoiser is reconstructed (Li et al., "BRECQ", ICLR 2021; Li et al., Q-Diffusion, 2023).

A block is a residual block, an attention block or a small stack of layers (a time embedding), and every quantizable
layer outside of them is a block of its own. Blocks are recognised by structure, so that no model needs to be known by
name: a block owns several quantizable layers and has no such module inside. Of a transformer block, each attention is
one, and the layers of its feed-forward are blocks of their own.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from pqbench.quantization.learning.tuning import TunableLayer
from pqbench.quantization.net.layers import QUANTIZABLE, QuantizedLayer
from pqbench.quantization.net.shortcuts import SplitLayer

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
_LAYERS = (*QUANTIZABLE, QuantizedLayer, TunableLayer, SplitLayer)


def block_names(net: nn.Module, run: Callable[[], object]) -> list[str]:
    """Names of the blocks of `net`, in the order in which `run()` executes them."""
    candidates = _split(net, "")
    order: list[str] = []
    hooks = []
    for name in candidates:

        def note(_module: nn.Module, _inputs: object, _name: str = name) -> None:
            if _name not in order:
                order.append(_name)

        hooks.append(net.get_submodule(name).register_forward_pre_hook(note))
    try:
        with torch.no_grad():
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return order


def _split(module: nn.Module, name: str) -> list[str]:
    """The blocks below `module`."""
    if isinstance(module, _LAYERS):
        return [name]
    if name and _is_block(module):
        return [name]
    found = []
    for child_name, child in module.named_children():
        found += _split(child, f"{name}.{child_name}" if name else child_name)
    return found


def _is_block(module: nn.Module) -> bool:
    """Whether a module owns several quantizable layers (directly, or in plain containers) and has no block inside."""
    return not isinstance(module, _CONTAINERS) and _own_layers(module) >= 2 and not _has_inner_block(module)


def _own_layers(module: nn.Module) -> int:
    count = 0
    for child in module.children():
        if isinstance(child, _LAYERS):
            count += 1
        elif isinstance(child, _CONTAINERS):
            count += _own_layers(child)
    return count


def _has_inner_block(module: nn.Module) -> bool:
    return any(
        _own_layers(inner) >= 2 and not isinstance(inner, (*_CONTAINERS, SplitLayer))
        for inner in module.modules()
        if inner is not module
    )
