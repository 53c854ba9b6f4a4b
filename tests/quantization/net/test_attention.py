"""Quantized attention: found by structure, computed as torch and diffusers do, on the grids that it has."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models import attention_processor
from diffusers_nets import make_diffusers_net
from hypothesis import given, settings
from hypothesis import strategies as st
from mini_denoiser import Example, freeze, make_net
from torch import Tensor, nn
from torch.nn import functional as F

from pqbench.base.errors import UserError
from pqbench.contracts.precision import Precision
from pqbench.quantization.net.attention import (
    SoftmaxQuantizer,
    explicit_attention,
    make_operands,
    operand_names,
    quantize_attention,
    quantized_attentions,
    quantized_operands,
)
from pqbench.quantization.net.attention_search import attention_modules
from pqbench.quantization.net.layers import ActivationQuantizer
from pqbench.quantization.net.scope import quantize_layers

IN_FULL_PRECISION = dict.fromkeys(("q", "k", "softmax", "v"), 32)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@given(
    batch=st.integers(1, 3), heads=st.integers(1, 3), length=st.integers(1, 9), source=st.integers(1, 9),
    width=st.integers(1, 8), masked=st.sampled_from(["", "bool", "float", "causal"]), scaled=st.booleans(),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_written_out_it_is_torchs_attention(
    batch: int, heads: int, length: int, source: int, width: int, masked: str, scaled: bool
) -> None:
    q, k = drawn(batch, heads, length, width), drawn(batch, heads, source, width, seed=1)
    v = drawn(batch, heads, source, width + 1, seed=2)
    options: dict[str, Any] = {"scale": 0.3} if scaled else {}
    if masked == "causal":
        options["is_causal"] = True
    elif masked:
        mask = drawn(batch, 1, length, source, seed=3)
        # Torch does not say what comes of a row in which everything is masked.
        mask[..., 0] = 1
        options["attn_mask"] = mask > 0 if masked == "bool" else mask
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), **_in_double(options))
    torch.testing.assert_close(explicit_attention(q, k, v, **options).double(), expected, rtol=1e-5, atol=1e-5)


def _in_double(options: dict[str, Any]) -> dict[str, Any]:
    mask = options.get("attn_mask")
    return options | ({"attn_mask": mask.double()} if mask is not None and mask.dtype == torch.float else {})


def test_grouped_heads_are_torchs() -> None:
    q, k, v = drawn(2, 6, 5, 4), drawn(2, 3, 7, 4, seed=1), drawn(2, 3, 7, 4, seed=2)
    expected = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(explicit_attention(q, k, v, enable_gqa=True), expected)


def test_dropout_drops_and_keeps_the_mean() -> None:
    q, k = torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 4000, 2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped = explicit_attention(q, k, torch.ones(1, 1, 4000, 1), dropout_p=0.5)
    assert dropped.item() != 1
    assert dropped.item() == pytest.approx(1, abs=0.1)


PROCESSORS: dict[str, Callable[[], object]] = {
    "fused": attention_processor.AttnProcessor2_0,
    "explicit": attention_processor.AttnProcessor,
    "sliced": lambda: attention_processor.SlicedAttnProcessor(1),
}
ATTENTIONS = {
    "UNet2DModel": [
        f"{block}.attentions.{place}"
        for block, place in (("down_blocks.1", 0), ("mid_block", 0), ("up_blocks.0", 0), ("up_blocks.0", 1))
    ],
    "UNet2DConditionModel": [
        f"{block}.attentions.{place}.transformer_blocks.0.attn{i}"
        for block, place in (("down_blocks.0", 0), ("mid_block", 0), ("up_blocks.1", 0), ("up_blocks.1", 1))
        for i in (1, 2)
    ],
    "DiTTransformer2DModel": [f"transformer_blocks.{i}.attn1" for i in (0, 1)],
    "Transformer2DModel": [f"transformer_blocks.0.attn{i}" for i in (1, 2)],
}


@pytest.fixture
def images() -> Example:
    return drawn(2, 3, 8, 8, seed=7), torch.tensor([3, 8])


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("kind", ATTENTIONS)
@torch.no_grad()
def test_every_attention_of_diffusers_is_found_and_in_full_precision_the_same(
    kind: str, processor: str, images: Example
) -> None:
    net = make_diffusers_net(kind)
    expected = net(*images)
    for module in net.modules():
        if isinstance(module, attention_processor.Attention):
            module.set_processor(PROCESSORS[processor]())
    found = attention_modules(net, lambda: net(*images))
    assert found == [f"net.{name}" for name in ATTENTIONS[kind]]
    for name in found:
        quantize_attention(net, name, make_operands(IN_FULL_PRECISION, symmetric=False))
    torch.testing.assert_close(net(*images), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def on_grid(x: Tensor, quantizer: ActivationQuantizer) -> Tensor:
    """`x` moved to a quantizer's grid, in float64."""
    low, high = (-(2 ** (quantizer.bits - 1)), 2 ** (quantizer.bits - 1) - 1)
    if not quantizer.symmetric:
        low, high = 0, 2**quantizer.bits - 1
    zero, scale = int(quantizer.zero_point), float(quantizer.scale)
    return ((torch.round(x.double() / scale) + zero).clamp(low, high) - zero) * scale


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("processor", PROCESSORS)
@torch.no_grad()
def test_all_four_operands_are_on_their_grids(processor: str, symmetric: bool) -> None:
    attention = attention_processor.Attention(
        query_dim=8, heads=2, dim_head=4, bias=True, processor=PROCESSORS[processor]()
    ).eval()
    tokens = drawn(3, 5, 8)
    expected = attention(tokens)
    operands = make_operands({"q": 4, "k": 3, "softmax": 5, "v": 6}, symmetric)
    for operand, (scale, zero) in {"q": (0.2, 7), "k": (0.4, 3), "softmax": (0.03, 0), "v": (0.05, 30)}.items():
        operands[operand].set(torch.tensor(scale), torch.tensor(0 if symmetric else zero))
    net = nn.Sequential(attention)
    quantize_attention(net, "0", operands)
    q, k, v = (
        on_grid(layer(tokens).view(3, 5, 2, 4).transpose(1, 2), operands[name])
        for name, layer in (("q", attention.to_q), ("k", attention.to_k), ("v", attention.to_v))
    )
    weights = on_grid((q @ k.mT / 2).softmax(-1), operands["softmax"])
    by_hand = attention.to_out[0]((weights @ v).transpose(1, 2).reshape(3, 5, 8).float())
    torch.testing.assert_close(net(tokens), by_hand, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(by_hand, expected, atol=1e-2)


class WrittenOut(nn.Module):
    """Attention of one's own: no class, and no call, that pqbench could know by name."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.soften = nn.Softmax(-1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        q, k, v = self.qkv(x.flatten(2).mT).chunk(3, -1)
        weights = F.dropout(self.soften(q @ k.mT / 2).to(v.dtype), 0.1, training=self.training)
        return (weights @ v).mT.reshape(x.shape)


@pytest.fixture
def example() -> Example:
    return drawn(2, 4, 8, 8, seed=7), torch.tensor([3, 900])


def test_attention_of_ones_own_is_quantized_also_in_the_net_itself(example: Example) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = WrittenOut().eval()
    assert attention_modules(net, lambda: net(*example)) == [""]
    expected = net(*example)
    quantize_layers(net, Precision(32, 8), example, attention=True)
    assert [name for name, _ in quantized_operands(net)] == list(operand_names("").values())
    freeze(net)
    assert not torch.equal(net(*example), expected)
    torch.testing.assert_close(net(*example), expected, rtol=0, atol=0.1)


class Gram(nn.Module):
    """Two products and no softmax."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ x.mT @ x


class Mixed(nn.Module):
    """Attention beside a product of another kind."""

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x) @ x.mT @ x


class Nested(nn.Module):
    """Attention around another one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = OneCall()

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        return F.scaled_dot_product_attention(y, x, x)


class OneCall(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x)


class Torchs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.attention(x, x, x)[0]
        return result


class Twice(nn.Module):
    """The softmax is used for two products."""

    def forward(self, x: Tensor) -> Tensor:
        weights = (x @ x.mT).softmax(-1)
        return weights @ x + weights @ x


@pytest.mark.parametrize(
    ("make", "expected"),
    [(Gram, []), (Mixed, []), (Nested, ["0.inner"]), (OneCall, ["0"]), (Torchs, []), (Twice, [])],
)
def test_what_is_not_plain_attention_is_left_alone(make: Callable[[], nn.Module], expected: list[str]) -> None:
    net = nn.Sequential(make()).eval()
    assert attention_modules(net, lambda: net(drawn(2, 5, 8))) == expected
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_softmax_has_its_zero_point_at_zero() -> None:
    quantizer = SoftmaxQuantizer(8)
    quantizer.set(torch.tensor(1 / 255), torch.tensor(0))
    assert quantizer.grid is not None
    assert not quantizer.grid.symmetric
    with pytest.raises(UserError, match="fixed at 0"):
        quantizer.set(torch.tensor(1 / 255), torch.tensor(1))


def quantized_net(example: Example) -> nn.Module:
    net = make_net()
    quantize_layers(net, Precision(4, 4), example, attention=True)
    return freeze(net)


def test_a_quantized_attention_can_be_copied_and_pickled(example: Example) -> None:
    net = quantized_net(example)
    output = net(*example)
    for again in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(again(*example), output)
        for _, operand in quantized_operands(again):
            operand.scale.mul_(7)
        assert not torch.equal(again(*example), output)
    assert torch.equal(net(*example), output)


def test_gradients_pass_through(example: Example) -> None:
    x = example[0].clone().requires_grad_()
    quantized_net(example)(x, example[1]).square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().max() > 0


def test_an_attention_is_quantized_once(example: Example) -> None:
    net = quantized_net(example)
    assert [name for name, _ in quantized_attentions(net)] == ["attention"]
    with pytest.raises(UserError, match=r"attention of attention is already quantized"):
        quantize_attention(net, "attention", make_operands(IN_FULL_PRECISION, symmetric=False))


def test_a_quantized_attention_compiles_as_one_graph(example: Example) -> None:
    net = quantized_net(example)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own compiler
        compiled = torch.compile(net, backend="eager", fullgraph=True)
        assert torch.equal(compiled(*example), net(*example))
    torch.compiler.reset()
