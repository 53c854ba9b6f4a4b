"""Finding the modules of a net that compute attention, by running it once."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pqbench.quantization.net.attention_calls import AttentionCalls

_ATTENTION = re.compile(r"(a|psm)+")
"""What a module with attention calls: (a)ttention in one, or (p)roduct, (s)oftmax and the (m)ixing product."""


@dataclass
class _Call:
    """One execution of a module: the calls in it as letters, and whether a product among them was in a submodule."""

    letters: str = ""
    own: bool = True


@dataclass
class _Found:
    calls: list[_Call] = field(default_factory=list)

    @property
    def is_attention(self) -> bool:
        return all(call.own and _ATTENTION.fullmatch(call.letters) for call in self.calls)


class _Search(AttentionCalls):
    """Notes the calls of attention for all modules that are being executed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[_Call] = []

    def softmax(self, result: Tensor) -> None:
        super().softmax(result)
        self._note("s")

    def attention(self, *args: Any, **kwargs: Any) -> Tensor:
        self._note("a")
        return F.scaled_dot_product_attention(*args, **kwargs)

    def scores(self, multiply: Callable[[Tensor, Tensor], Tensor], left: Tensor, right: Tensor) -> Tensor:
        self._note("p")
        return multiply(left, right)

    def mixture(self, multiply: Callable[[Tensor, Tensor], Tensor], left: Tensor, right: Tensor) -> Tensor:
        self._note("m")
        # Otherwise the softmax outputs of the whole net would be kept.
        self.softmaxed.clear()
        return multiply(left, right)

    def _note(self, letter: str) -> None:
        for call in self.open:
            call.letters += letter
            # A softmax may be a module; a product must be the module's own for its operands to be reached.
            call.own &= letter == "s" or call is self.open[-1]


def attention_modules(net: nn.Module, run: Callable[[], object]) -> list[str]:
    """Names of the modules whose own forward computes attention and no other product, in the order of execution.

    A module that mixes attention with products of another kind, or that contains one which does, is left out; so is
    `nn.MultiheadAttention`, which does not show what it calls. The audit lists the products of those.
    """
    found: dict[str, _Found] = {}
    search = _Search()
    hooks = []
    for name, module in net.named_modules():

        def enter(_module: nn.Module, _inputs: object, _name: str = name) -> None:
            search.open.append(_Call())
            found.setdefault(_name, _Found()).calls.append(search.open[-1])

        def leave(_module: nn.Module, _inputs: object, _output: object) -> None:
            search.open.pop()

        hooks += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    watching: AbstractContextManager[object] = search
    try:
        with torch.no_grad(), watching:
            run()
    finally:
        for hook in hooks:
            hook.remove()
    return [name for name, each in found.items() if each.is_attention]
