"""Blocks: the units in which a denoiser is reconstructed (Li et al., "BRECQ", ICLR 2021; Li et al., Q-Diffusion, 2023).

A block is a residual block, an attention block or a transformer block, and every quantizable layer outside of them is a
block of its own. Residual and attention blocks are recognised by structure, so that no model needs to be known by name: the
smallest module that owns several quantizable layers and whose children are not themselves such blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pqbench.quantization.layers import QUANTIZABLE, QuantizedLayer
from pqbench.quantization.tuning import TunableLayer

_CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)
_LAYERS = (*QUANTIZABLE, QuantizedLayer, TunableLayer)


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
    """Whether a module owns several quantizable layers itself (directly, or in plain containers) and has no block inside."""
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
        _own_layers(inner) >= 2 and not isinstance(inner, _CONTAINERS)
        for inner in module.modules()
        if inner is not module
    )


class _Reached(Exception):  # noqa: N818  (it is a signal, not an error)
    """Ends a forward pass once the block that was wanted has been seen."""


@dataclass
class BlockData:
    """What a block sees and what it should answer, for every sample of a calibration set.

    arguments   the tensors among the block's positional and keyword arguments, each (N, ...), by position or name
    fixed       all other arguments
    target      (N, ...) the full-precision block's output
    """

    arguments: dict[int | str, Tensor]
    fixed: dict[int | str, Any]
    target: Tensor

    def call(self, block: nn.Module, index: Tensor) -> Tensor:
        """Run `block` on the samples `index`."""
        merged: dict[int | str, Any] = {**self.fixed, **{k: v[index] for k, v in self.arguments.items()}}
        positional = [merged[k] for k in sorted(k for k in merged if isinstance(k, int))]
        named = {k: v for k, v in merged.items() if isinstance(k, str)}
        return first_tensor(block(*positional, **named))


def first_tensor(output: Any) -> Tensor:
    """A block's output tensor, also when it returns a tuple."""
    while isinstance(output, (tuple, list)):
        output = output[0]
    if not isinstance(output, Tensor):
        raise TypeError(f"A block returned {type(output).__name__}, not a tensor.")
    return output


@torch.no_grad()
def capture_inputs(
    net: nn.Module, block: str, x_t: Tensor, t: Tensor, batch: int = 64
) -> tuple[dict[int | str, Tensor], dict[int | str, Any]]:
    """The arguments with which `net` calls `block` over a calibration set: the tensors (N, ...), and the rest."""
    chunks: list[dict[int | str, Any]] = []

    def keep(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        chunks.append({**dict(enumerate(args)), **kwargs})
        raise _Reached

    hook = net.get_submodule(block).register_forward_pre_hook(keep, with_kwargs=True)
    try:
        for i in range(0, len(x_t), batch):
            try:
                net(x_t[i : i + batch], t[i : i + batch])
            except _Reached:
                continue
    finally:
        hook.remove()
    names = [k for k, v in chunks[0].items() if isinstance(v, Tensor)]
    # Attention hands on tensors with permuted strides, on which torch 2.13's CPU GroupNorm backward crashes when its
    # gradient comes in another layout.
    tensors = {k: torch.cat([chunk[k] for chunk in chunks]).contiguous() for k in names}
    return tensors, {k: v for k, v in chunks[0].items() if k not in tensors}


@torch.no_grad()
def capture_outputs(
    net: nn.Module, blocks: list[str], x_t: Tensor, t: Tensor, batch: int = 64
) -> dict[str, Tensor]:
    """The outputs of all named blocks over a calibration set, each (N, ...), from one pass."""
    kept: dict[str, list[Tensor]] = {name: [] for name in blocks}
    hooks = []
    for name in blocks:

        def keep(_module: nn.Module, _args: object, output: object, _name: str = name) -> None:
            kept[_name].append(first_tensor(output))

        hooks.append(net.get_submodule(name).register_forward_hook(keep))
    try:
        for i in range(0, len(x_t), batch):
            net(x_t[i : i + batch], t[i : i + batch])
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(parts).contiguous() for name, parts in kept.items()}
