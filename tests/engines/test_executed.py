"""What an engine says that it executed: by layer, by the net's own names, and what fell back to floating point."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts import CalibrationSet, ExecutedLayer, Precision
from pqbench.engines.compiled import Lowering
from pqbench.engines.executed import counts, fell_back, stored_weights
from pqbench.engines.openvino import OpenVino
from pqbench.engines.torch_compile import TorchCompile
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.ranges.fitting import calibrate_activations, calibrate_weights
from pqbench.quantization.ranges.observers import MinMax
from pqbench.quantization.ranges.rules import minmax


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = x.chunk(3, -1)
        return nn.functional.scaled_dot_product_attention(q, k, v)


class Small(nn.Module):
    """A convolution, an attention and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 1)
        self.attention = Attention()
        self.blocks = nn.ModuleList([nn.Linear(8, 3)])

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        h = self.first(x_t + 0.001 * t.view(-1, 1, 1, 1)).flatten(2).transpose(1, 2)
        return self.blocks[0](self.attention(h[:, None])[:, 0]).transpose(1, 2).reshape(x_t.shape)


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3)), torch.full((2,), 500)


def small(precision: Precision, group_size: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Small().eval().requires_grad_(False)
    x, t = inputs()
    quantize_layers(net, precision, (x, t), attention=True, group_size=group_size)
    calibrate_weights(net, minmax)
    calibrate_activations(net, CalibrationSet(x_t=x, t=t, workload="tiny"), MinMax)
    return net


def by_layer(layers: tuple[ExecutedLayer, ...]) -> dict[str, ExecutedLayer]:
    return {name: each for each in layers for name in each.layers}


def test_openvino_names_each_layer_and_what_fell_back() -> None:
    net = small(Precision(4, 8))
    layers = OpenVino().compile(net, (3, 4, 4), 2, threads=1).layers()
    found = by_layer(layers)
    assert set(found) == {"first", "attention", "blocks.0"}
    assert all(each.layers for each in layers)
    for name in ("first", "blocks.0"):
        assert found[name].precision in ("u8", "i8")
        assert found[name].weights == "i8"
    # The kernels of attention read bytes only from symmetric grids, and these are not.
    assert fell_back(net, layers) == ("attention",)


def test_layers_with_scales_of_groups_fall_back() -> None:
    net = small(Precision(4, 8), group_size=4)
    assert fell_back(net, OpenVino().compile(net, (3, 4, 4), 2, threads=1).layers()) == (
        "first",
        "blocks.0",
        "attention",
    )


def test_weights_alone_on_a_grid_do_not_fall_back() -> None:
    net = small(Precision(4, 32))
    layers = OpenVino().compile(net, (3, 4, 4), 2, threads=1).layers()
    assert set(counts(layers)) == {"f32"}
    assert fell_back(net, layers) == ()


def test_counts() -> None:
    layers = (
        ExecutedLayer(("a", "b"), "one", "u8", "i8"),
        ExecutedLayer((), "two", "f32", "f32"),
        ExecutedLayer(("c",), "three", "u8"),
    )
    assert counts(layers) == {"f32": 1, "u8": 2}
    assert stored_weights(layers) == {"f32": 1, "i8": 1}


@pytest.mark.skipif(bool(TorchCompile().available()), reason="inductor needs a C++ compiler")
def test_torch_compile_answers_as_eager_torch_does_and_names_its_layers() -> None:
    net, (x, t) = Small().eval(), inputs()
    executable = TorchCompile().compile(net, (3, 4, 4), 2, threads=1)
    with torch.no_grad():
        expected = net(x, t)
    torch.testing.assert_close(executable(x, t), expected, rtol=1e-4, atol=1e-5)
    assert set(by_layer(executable.layers())) == {"first", "attention", "blocks.0"}
    assert counts(executable.layers()) == {"f32": 3}


def test_a_gpu_gets_bfloat16_and_graphs() -> None:
    gpu, cpu = Lowering.for_device("cuda"), Lowering.for_device("cpu")
    assert (gpu.floats, dict(gpu.options)) == (torch.bfloat16, {"triton.cudagraphs": True})
    assert (cpu.floats, dict(cpu.options)) == (torch.float32, {})


def test_torch_compile_without_a_compiler_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert TorchCompile().available() == (
        "The engine torch-compile needs a C++ compiler, and none of g++, clang++, c++ is found: install g++."
    )
    with pytest.raises(UserError, match="install g"):
        TorchCompile().compile(nn.Identity(), (3, 4, 4), 2, threads=1)
    monkeypatch.setenv("CXX", "my-compiler")
    assert "none of my-compiler is found" in TorchCompile().available()
