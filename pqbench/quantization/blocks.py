"""Blocks: the units in which a denoiser is reconstructed (Li et al., "BRECQ", ICLR 2021; Li et al., Q-Diffusion, 2023).

A block is a residual block, an attention block or a small stack of layers (a time embedding), and every quantizable
layer outside of them is a block of its own. Blocks are recognised by structure, so that no model needs to be known by
name: a block owns several quantizable layers and has no such module inside. Of a transformer block, each attention is
one, and the layers of its feed-forward are blocks of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from pqbench.errors import UserError
from pqbench.quantization.layers import QUANTIZABLE, QuantizedLayer
from pqbench.quantization.shortcuts import SplitLayer
from pqbench.quantization.tuning import TunableLayer

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


class _Reached(Exception):  # noqa: N818  (it is a signal, not an error)
    """Ends a forward pass once the block that was wanted has been seen."""


@dataclass
class BlockData:
    """What a block sees and what it should answer, for every sample of a calibration set.

    arguments   the block's arguments that hold a row a sample, each (N, ...), by position or name
    fixed       all other arguments, the same for every sample
    target      (N, ...) the full-precision block's output
    """

    arguments: dict[int | str, Tensor]
    fixed: dict[int | str, Any]
    target: Tensor

    def call(self, block: nn.Module, index: Tensor) -> Tensor:
        """Run `block` on the samples `index`."""
        merged = self.fixed | {k: v[index] for k, v in self.arguments.items()}
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
    """The arguments with which `net` calls `block` over a calibration set: the tensors (N, ...), and the rest.

    A block that runs several times in one forward is seen at its first call. Raises `UserError` when an argument varies
    over the set without having a row a sample.
    """
    chunks: list[dict[int | str, Any]] = []

    def keep(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments: dict[int | str, Any] = dict(enumerate(args))
        arguments.update(kwargs)
        chunks.append(arguments)
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
    sizes = [min(batch, len(x_t) - i) for i in range(0, len(x_t), batch)]
    names = [k for k in chunks[0] if _has_rows([chunk[k] for chunk in chunks], sizes)]
    # Attention hands on tensors with permuted strides, on which torch 2.13's CPU GroupNorm backward crashes when its
    # gradient comes in another layout.
    tensors = {k: torch.cat([chunk[k] for chunk in chunks]).contiguous() for k in names}
    fixed = {k: v for k, v in chunks[0].items() if k not in tensors}
    for key in fixed:
        if not _is_constant([chunk[key] for chunk in chunks]):
            raise UserError(
                f"Block {block} cannot be reconstructed: its argument {key!r} varies over the calibration set and has "
                f"no row a sample. Leave its layers in full precision: exempt='{block}.*'."
            )
    return tensors, fixed


def _has_rows(values: list[Any], sizes: list[int]) -> bool:
    """Whether an argument is a tensor with one row for every sample of its batch, in every batch."""
    return all(
        isinstance(value, Tensor) and value.dim() > 0 and len(value) == size
        for value, size in zip(values, sizes, strict=True)
    )


def _is_constant(values: list[Any]) -> bool:
    """Whether the tensors in an argument, also nested ones, are the same in every batch."""
    leaves = [[leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)] for value in values]
    return all(
        len(other) == len(leaves[0]) and all(torch.equal(a, b) for a, b in zip(leaves[0], other, strict=True))
        for other in leaves[1:]
    )


@torch.no_grad()
def capture_outputs(net: nn.Module, blocks: list[str], x_t: Tensor, t: Tensor, batch: int = 64) -> dict[str, Tensor]:
    """The outputs of all named blocks over a calibration set, each (N, ...), from one pass.

    Of a block that runs several times in one forward, the first output is kept.
    """
    kept: dict[str, list[Tensor]] = {name: [] for name in blocks}
    batches = 0
    hooks = []
    for name in blocks:

        def keep(_module: nn.Module, _args: object, output: object, _name: str = name) -> None:
            if len(kept[_name]) < batches:
                # A copy: what follows in the net may change the tensor in place.
                kept[_name].append(first_tensor(output).clone(memory_format=torch.contiguous_format))

        hooks.append(net.get_submodule(name).register_forward_hook(keep))
    try:
        for i in range(0, len(x_t), batch):
            batches += 1
            net(x_t[i : i + batch], t[i : i + batch])
    finally:
        for hook in hooks:
            hook.remove()
    return {name: torch.cat(parts) for name, parts in kept.items()}
