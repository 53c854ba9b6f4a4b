"""Integer products of OpenVINO equal those of 64-bit arithmetic, on CPUs whose int8 kernels saturate as well."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from openvino_kernels import BYTES
from torch import Tensor, nn
from torch.nn import functional as F

from pqbench.engines.executed import counts, fell_back
from pqbench.engines.openvino import OpenVino
from pqbench.engines.openvino.engine import OpenVinoExecutable
from pqbench.engines.openvino.exact import KINDS, saturating_kinds
from pqbench.quantization.net.attention import make_operands, quantize_attention
from pqbench.quantization.net.layers import QuantizedLayer

ISAS = ("SSE41", "AVX2", "AVX512_CORE")
CHANNELS = 24


def layer(
    source: nn.Module, codes: Tensor, bits: tuple[int, int], symmetric: tuple[bool, bool], zero: int
) -> nn.Module:
    """`source` with these weight codes at scale 1, and inputs on a grid of step 1."""
    made = QuantizedLayer(source, *bits, *symmetric)  # type: ignore[arg-type]
    scale = torch.ones(len(codes))
    made.freeze(codes.float(), scale, torch.zeros(len(codes), dtype=torch.int32))
    made.activation.set(torch.ones(()), torch.tensor(zero, dtype=torch.int32))
    return made.eval()


class Timed(nn.Module):
    """A layer that is called like a denoiser. The time steps are 0: adding them keeps the input as it is."""

    def __init__(self, inner: nn.Module, linear: bool = False) -> None:
        super().__init__()
        self.inner, self.linear = inner, linear

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        x = x_t + t.view(-1, 1, 1, 1)
        return self.inner(x.movedim(1, -1)).movedim(-1, 1) if self.linear else self.inner(x)


def executed(net: nn.Module, x: Tensor) -> tuple[Tensor, OpenVinoExecutable]:
    executable = OpenVino().compile(net, tuple(x.shape[1:]), len(x), threads=1)  # type: ignore[arg-type]
    return executable(x, torch.zeros(len(x), dtype=torch.int64)), executable


def assert_equal(found: Tensor, expected: Tensor, magnitude: Tensor) -> None:
    """To the last digit while every partial sum is a float32 number; beyond 2^24 a float32 kernel rounds its sums."""
    bound = torch.where(magnitude < 2**24, 0.0, 1e-5 * magnitude.double())
    assert bool(((found.double() - expected.double()).abs() <= bound).all())


@pytest.mark.parametrize("kind", ["conv", "linear", "pointwise", "conv1d"])
@pytest.mark.parametrize("weight", [127, 63, -128])
def test_products_of_the_largest_codes_are_exact(kind: str, weight: int) -> None:
    sources = {
        "conv": nn.Conv2d(64, CHANNELS, 3, bias=False),
        "pointwise": nn.Conv2d(64, CHANNELS, 1, bias=False),
        "linear": nn.Linear(64, CHANNELS, bias=False),
        "conv1d": nn.Conv1d(64, CHANNELS, 3, bias=False),
    }
    source = sources[kind]
    made = layer(source, torch.full_like(source.weight, weight), (8, 8), (True, False), 0)
    net = Rows(made) if kind == "conv1d" else Timed(made, kind == "linear")
    found, executable = executed(net, torch.full((2, 64, 5, 5), 255.0))
    expected = torch.full_like(found, float(source.weight[0].numel() * 255 * weight), dtype=torch.float64)
    assert_equal(found, expected, expected.abs())
    saturates = abs(weight) > 64 and "linear" in saturating_kinds()
    assert set(counts(executable.layers())) <= ({"f32"} if saturates else BYTES)
    assert bool(fell_back(net, executable.layers())) == saturates


class Rows(nn.Module):
    """A one-dimensional convolution along the rows of an image."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        return self.inner((x_t + t.view(-1, 1, 1, 1)).flatten(2))


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**31),
    kind=st.sampled_from(["conv", "depthwise", "grouped", "linear"]),
    w=st.integers(2, 8),
    a=st.integers(2, 8),
    a_symmetric=st.booleans(),
    channels=st.sampled_from([2, 4, 8, 36]),
    kernel=st.sampled_from([1, 3]),
    extreme=st.booleans(),
)
@example(seed=0, kind="conv", w=8, a=8, a_symmetric=False, channels=36, kernel=3, extreme=True)
@example(seed=0, kind="linear", w=8, a=4, a_symmetric=True, channels=36, kernel=1, extreme=True)
@example(seed=0, kind="grouped", w=8, a=7, a_symmetric=True, channels=36, kernel=3, extreme=True)
@example(seed=0, kind="depthwise", w=8, a=8, a_symmetric=True, channels=36, kernel=3, extreme=True)
def test_layers_equal_integer_arithmetic(
    seed: int, kind: str, w: int, a: int, a_symmetric: bool, channels: int, kernel: int, extreme: bool
) -> None:
    generator = torch.Generator().manual_seed(seed)
    groups = {"depthwise": channels, "grouped": 2}.get(kind, 1)
    source: nn.Module = (
        nn.Linear(channels, channels, bias=False)
        if kind == "linear"
        else nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=groups, bias=False)
    )
    low, high = -(1 << (w - 1)), (1 << (w - 1)) - 1
    shape = tuple(source.weight.shape)  # type: ignore[arg-type]
    # Worst cases have all codes at an end of the grid.
    pick = (
        (lambda lo, hi, size: torch.where(torch.rand(size, generator=generator) < 0.5, lo, hi))
        if extreme
        else (lambda lo, hi, size: torch.randint(lo, hi + 1, size, generator=generator))
    )
    codes = pick(low, high, shape)
    zero = 0 if a_symmetric else int(torch.randint(0, 1 << a, (), generator=generator))
    first, last = (-(1 << (a - 1)), (1 << (a - 1)) - 1) if a_symmetric else (-zero, (1 << a) - 1 - zero)
    x = pick(first, last, (2, channels, 4, 4))
    net = Timed(layer(source, codes, (w, a), (True, a_symmetric), zero), kind == "linear")
    found, executable = executed(net, x.float())
    if kind == "linear":
        expected = F.linear(x.movedim(1, -1), codes).movedim(-1, 1)
        magnitude = F.linear(x.abs().movedim(1, -1), codes.abs()).movedim(-1, 1)
    else:
        expected, magnitude = (
            F.conv2d(b.double(), c.double(), padding=kernel // 2, groups=groups)
            for b, c in ((x, codes), (x.abs(), codes.abs()))
        )
    assert_equal(found, expected, magnitude)
    if max(w, a) < 8:
        assert set(counts(executable.layers())) <= BYTES


class Products(nn.Module):
    """Attention whose softmax is as sharp as it can be: its products are those of codes."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = x.flatten(2).transpose(1, 2)[:, None].chunk(3, -1)
        return F.scaled_dot_product_attention(q, k, v, scale=1.0)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_products_of_attention_are_exact(bits: int, symmetric: bool) -> None:
    holder = nn.Module()
    holder.attention = Products()
    operands = make_operands(dict.fromkeys(("q", "k", "softmax", "v"), bits), symmetric)
    largest = (1 << (bits - 1)) - 1
    for name, operand in operands.items():
        if name == "softmax":
            operand.set(torch.tensor(1 / ((1 << bits) - 1)), torch.tensor(0, dtype=torch.int32))
        else:
            zero = 0 if symmetric else 1 << (bits - 1)
            operand.set(torch.ones(()), torch.tensor(zero, dtype=torch.int32))
    quantize_attention(holder, "attention", operands)
    # One key is the query's own direction, all others are opposite: the softmax is 1 at one place and 0 elsewhere.
    x = torch.full((1, 96, 4, 4), float(largest))
    x[:, 32:64] = -float(largest)
    x[:, 32:64, 1, 2] = float(largest)
    x[:, 64:] = torch.randint(-largest, largest + 1, (32, 4, 4), generator=torch.Generator().manual_seed(0))
    found, _ = executed(Timed(holder.attention), x)
    torch.testing.assert_close(found, x[:, 64:, 1, 2].view(1, 1, 1, 32).expand(1, 1, 16, 32), rtol=1e-6, atol=1e-5)


def test_the_probe_knows_the_kernels_of_this_process() -> None:
    assert saturating_kinds() <= set(KINDS)
    assert saturating_kinds() is saturating_kinds()


@pytest.mark.parametrize("isa", [pytest.param(isa, marks=[] if isa == "AVX2" else pytest.mark.slow) for isa in ISAS])
def test_the_same_holds_for_the_kernels_of_other_cpus(isa: str) -> None:
    if os.environ.get("ONEDNN_MAX_CPU_ISA"):
        pytest.skip("this run is capped itself")
    code = "from pqbench.engines.openvino.exact import saturating_kinds; print(*sorted(saturating_kinds()))"
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": isa}
    probed = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert probed.stdout.split() == ["attention", "convolution", "linear"]
    child = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(Path(__file__))]
    done = subprocess.run(child, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:]
