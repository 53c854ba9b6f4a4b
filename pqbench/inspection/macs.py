"""Multiply-accumulates of one forward, attributed to the modules that do them."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def own_macs(net: nn.Module, example: tuple[Tensor, ...]) -> dict[str, int]:
    """Multiply-accumulates in the matrix products and convolutions of every module that `net(*example)` executes.

    A module's count leaves out what its submodules do, so the values add up to the whole forward; modules that compute
    no product have 0. Products in functional code (attention) count for the module whose forward holds them.
    """
    # Torch has no formula for the attention kernel that it uses on a CPU.
    cpu_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={cpu_attention: _attention_flops})
    macs: dict[str, int] = {}
    open_modules: list[list[int]] = []
    hooks = []

    def enter(_module: nn.Module, _inputs: object) -> None:
        open_modules.append([counter.get_total_flops(), 0])

    for name, module in net.named_modules():

        def leave(_module: nn.Module, _inputs: object, _output: object, _name: str = name) -> None:
            before, inside = open_modules.pop()
            spent = counter.get_total_flops() - before
            macs[_name] = macs.get(_name, 0) + (spent - inside) // 2
            if open_modules:
                open_modules[-1][1] += spent

        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    # The fast path of torch's own attention module is a single operation, for which there is no formula either.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), counter:
            net(*example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
    return macs


def _attention_flops(query: Any, key: Any, value: Any, *_: object, **__: object) -> int:
    """Of softmax(q k') v, from shapes (N, heads, length, width): two products of 2 flops a multiply-accumulate."""
    scores: int = prod(query[:-1]) * key[-2]
    widths: int = query[-1] + value[-1]
    return 2 * scores * widths
