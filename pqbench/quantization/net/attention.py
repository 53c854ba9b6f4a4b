"""Quantized attention: grids on the operands of both products of softmax(q k') v (Li et al., Q-Diffusion, 2023).

`quantize_attention(net, name, ...)` gives the module `name`, which computes attention in its own forward, two
submodules: `qk_product` with the quantizers `q` and `k`, and `sv_product` with `softmax` and `v`. The module's forward
stays what it is; while it runs, its products go through these two (see `AttentionCalls`), and a fused attention is
written out. So every processor of diffusers is covered, and attention in a module of one's own as well. The softmax
itself stays in floating point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pqbench.base.errors import UserError
from pqbench.contracts.precision import FULL_PRECISION_BITS
from pqbench.quantization.net.attention_calls import AttentionCalls
from pqbench.quantization.net.layers import ActivationQuantizer

Product = Callable[[Tensor, Tensor], Tensor]

OPERANDS = {"q": "qk_product.q", "k": "qk_product.k", "softmax": "sv_product.softmax", "v": "sv_product.v"}
"""Operands of attention and where their quantizers are, below the attention's module."""


class SoftmaxQuantizer(ActivationQuantizer):
    """Quantizes the output of a softmax: an asymmetric grid with its zero-point fixed at 0, as nothing is negative."""

    def __init__(self, bits: int) -> None:
        super().__init__(bits, symmetric=False)

    def set(self, scale: Tensor, zero_point: Tensor) -> None:
        """Take over a scale. Raises `UserError` for a zero-point other than 0, and as every quantizer does."""
        if bool((zero_point != 0).any()):
            raise UserError("The zero-point of a softmax output is fixed at 0: set it with that.")
        super().set(scale, zero_point)


class QuantizedProduct(nn.Module):
    """A matrix product of two activations, each quantized; `operands` are the two quantizers by their names."""

    def __init__(self, **operands: nn.Module) -> None:
        super().__init__()
        for name, quantizer in operands.items():
            self.add_module(name, quantizer)

    def forward(self, left: Tensor, right: Tensor, multiply: Product = torch.matmul) -> Tensor:
        """The product of left (..., n, k) and right (..., k, m), or what `multiply` makes of both, (..., n, m)."""
        first, second = self.children()
        return multiply(first(left), second(right))


def explicit_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
    scores: Product = torch.matmul,
    mixture: Product = torch.matmul,
) -> Tensor:
    """What `scaled_dot_product_attention` computes (its arguments are those), with its two products written out.

    query (..., heads, L, E), key (..., heads, S, E), value (..., heads, S, V) -> (..., heads, L, V)

    scores, mixture   compute q k' (L, S) and the product of the softmax with v
    """
    if enable_gqa:
        repeats = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(repeats, -3), value.repeat_interleave(repeats, -3)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    logits = scores(query, key.transpose(-2, -1)) * factor
    if is_causal:
        attn_mask = torch.ones(logits.shape[-2:], dtype=torch.bool, device=logits.device).tril()
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else logits + attn_mask
    return mixture(F.dropout(logits.softmax(-1), dropout_p, training=dropout_p > 0), value)


class _Quantizing(AttentionCalls):
    """Sends the products of one attention through its quantized ones."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._qk, self._sv = module.get_submodule("qk_product"), module.get_submodule("sv_product")

    def attention(self, *args: Any, **kwargs: Any) -> Tensor:
        return explicit_attention(*args, **kwargs, scores=self._qk, mixture=self._sv)

    def scores(self, multiply: Product, left: Tensor, right: Tensor) -> Tensor:
        result: Tensor = self._qk(left, right, multiply)
        return result

    def mixture(self, multiply: Product, left: Tensor, right: Tensor) -> Tensor:
        result: Tensor = self._sv(left, right, multiply)
        return result


def _quantized_forward(module: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`forward` of the module, its attention quantized."""
    with _Quantizing(module):
        return forward(*args, **kwargs)


def quantize_attention(net: nn.Module, name: str, operands: Mapping[str, ActivationQuantizer]) -> None:
    """Quantize the attention of the submodule `name`, in place.

    operands   a quantizer for each of `OPERANDS`: q, k, softmax, v

    A module that computes several attentions in one forward has the same grids for all. Raises `UserError` when the
    module already has something under the names that are needed.
    """
    module = net.get_submodule(name)
    if hasattr(module, "qk_product") or hasattr(module, "sv_product"):
        raise UserError(f"The attention of {name} is already quantized, or has parts of these names: leave it out.")
    module.add_module("qk_product", QuantizedProduct(q=operands["q"], k=operands["k"]))
    module.add_module("sv_product", QuantizedProduct(softmax=operands["softmax"], v=operands["v"]))
    # On the instance, and not as a class of its own: the net can then still be copied and pickled.
    module.forward = partial(_quantized_forward, module, module.forward)


def operand_names(name: str) -> dict[str, str]:
    """Full names of the operands of the attention `name`, by operand."""
    return {operand: f"{name}.{path}" if name else path for operand, path in OPERANDS.items()}


def make_operands(bits: Mapping[str, int], symmetric: bool) -> dict[str, ActivationQuantizer]:
    """Quantizers of all operands, from the bits of each; `symmetric` is the grid of q, k and v."""
    return {
        operand: SoftmaxQuantizer(bits[operand])
        if operand == "softmax"
        else ActivationQuantizer(bits[operand], symmetric)
        for operand in OPERANDS
    }


def quantized_attentions(net: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a net whose attention is quantized, with their names."""
    for name, module in net.named_modules():
        if isinstance(getattr(module, "qk_product", None), QuantizedProduct):
            yield name, module


def quantized_operands(net: nn.Module) -> Iterator[tuple[str, ActivationQuantizer]]:
    """The quantizers of all attention operands with their names (`mid_block.attentions.0.qk_product.q`)."""
    for name, product in net.named_modules():
        if isinstance(product, QuantizedProduct):
            for operand, quantizer in product.named_children():
                if isinstance(quantizer, ActivationQuantizer):
                    yield f"{name}.{operand}", quantizer


def full_precision_operands(product: QuantizedProduct) -> list[str]:
    """Names of a product's operands that are not quantized."""
    return [
        name
        for name, quantizer in product.named_children()
        if isinstance(quantizer, ActivationQuantizer) and quantizer.bits == FULL_PRECISION_BITS
    ]
