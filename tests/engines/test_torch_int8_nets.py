"""Whole nets on torch's integer products: what ran, by layer, and whether it is the model of the simulation."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pqbench.base.errors import UserError
from pqbench.contracts import CalibrationSet, ExecutedLayer, Precision
from pqbench.engines.compiled import Lowering
from pqbench.engines.executed import counts, fell_back, stored_weights
from pqbench.engines.torch_compile import TorchCompile
from pqbench.engines.torch_int8 import TorchInt8
from pqbench.engines.torch_int8.attention import MOST_MATRICES
from pqbench.engines.torch_int8.lowering import KEPT, lower
from pqbench.engines.torch_int8.product import Shapes, products_saturate
from pqbench.quantization.grids.time_tables import keep_time
from pqbench.quantization.net.layers import quantized_layers
from pqbench.quantization.net.output_correction import correct_output
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.ranges.fitting import calibrate_activations, calibrate_weights
from pqbench.quantization.ranges.observers import MinMax
from pqbench.quantization.ranges.rules import minmax
from pqbench.testing import check_engine
from pqbench.testing.conditional import TinyText
from pqbench.testing.tiny import TinyWorkload
from pqbench.timing.parity import complaint, measure_parity

needs_integers = pytest.mark.skipif(products_saturate(), reason="products run in float32 where they would saturate")
needs_compiler = pytest.mark.skipif(bool(TorchInt8().available()), reason="inductor needs a C++ compiler")


class Attention(nn.Module):
    def __init__(self, heads: int = 2, *, is_written_out: bool = False) -> None:
        super().__init__()
        self.heads, self.is_written_out = heads, is_written_out

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2) for part in x.chunk(3, -1))
        if self.is_written_out:
            y = torch.matmul(torch.matmul(q, k.transpose(-2, -1)).softmax(-1), v)
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return y.transpose(1, 2).flatten(2)


class Small(nn.Module):
    """A convolution, an attention and a linear layer."""

    def __init__(self, attention: nn.Module | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 24, 3, padding=1)
        self.attention = attention or Attention()
        self.blocks = nn.ModuleList([nn.Linear(8, 3)])

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        h = self.first(x_t + 0.001 * t.view(-1, 1, 1, 1)).flatten(2).transpose(1, 2)
        return self.blocks[0](self.attention(h)).transpose(1, 2).reshape(x_t.shape)


class OneLayer(nn.Module):
    """As few kernels to compile as there can be."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        result: Tensor = self.layer(x_t)
        return result


def inputs(batch: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, 3, 4, 4, generator=torch.Generator().manual_seed(3)), torch.full((batch,), 500)


def rounded(
    precision: Precision, attention: nn.Module | None = None, of: nn.Module | None = None, **options: Any
) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = (of or Small(attention)).eval().requires_grad_(False)
    x, t = inputs()
    quantize_layers(net, precision, (x, t), attention=True, **options)
    calibrate_weights(net, minmax)
    calibrate_activations(net, CalibrationSet(x_t=x, t=t, workload="tiny"), MinMax)
    return net


def tiny(precision: Precision) -> nn.Module:
    net, t = TinyWorkload().denoiser(), torch.full((4,), 500)
    x = torch.randn(4, *TinyWorkload.shape, generator=torch.Generator().manual_seed(0))
    quantize_layers(net, precision, (x, t))
    calibrate_weights(net, minmax)
    calibrate_activations(net, CalibrationSet(x_t=x, t=t, workload="tiny"), MinMax)
    return net


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def by_layer(layers: tuple[ExecutedLayer, ...]) -> dict[str, ExecutedLayer]:
    return {name: each for each in layers for name in each.layers}


@pytest.fixture
def without_inductor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captured graphs are run as they are: everything but the kernels that inductor generates, in no time."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as where it is imported to be used
        inductor = importlib.import_module("torch._inductor.compile_fx")
    monkeypatch.setattr(inductor, "compile_fx", lambda graph, example, config_patches: graph)


@needs_integers
@pytest.mark.slow
@needs_compiler
def test_a_compiled_layer_has_the_numbers_of_the_simulation_and_runs_in_bytes() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = rounded(Precision(8, 8), of=OneLayer())
    x, t = inputs()
    executable = TorchInt8().compile(net, (3, 4, 4), 2, threads=1)
    torch.testing.assert_close(executable(x, t), net(x, t), rtol=1e-4, atol=1e-5)
    assert by_layer(executable.layers()) == {"layer": ExecutedLayer(("layer",), "_int_mm", "i8", "i8")}


@needs_integers
@pytest.mark.usefixtures("without_inductor")
def test_layers_are_reported_by_their_names_and_the_net_stays_as_it_was() -> None:
    net, (x, t) = rounded(Precision(8, 8)), inputs()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    executable = TorchInt8().compile(net, (3, 4, 4), 2, threads=1)
    torch.testing.assert_close(executable(x, t), net(x, t), rtol=1e-4, atol=1e-5)
    layers = executable.layers()
    assert set(by_layer(layers)) == {"first", "attention", "blocks.0"}
    assert set(counts(layers)) == {"i8"}
    assert stored_weights(layers) == {"i8": 2}
    assert all(each.layers for each in layers)
    assert fell_back(net, layers) == ()
    assert len(list(quantized_layers(net))) == 2
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@needs_compiler
@pytest.mark.usefixtures("without_inductor")
def test_torch_compile_names_the_layers_of_a_net_with_a_correction() -> None:
    net = correct_output(Small().eval(), torch.tensor([500]), torch.tensor([2.0]), torch.ones(1, 3))
    executable, (x, t) = TorchCompile().compile(net, (3, 4, 4), 2, threads=1), inputs()
    torch.testing.assert_close(executable(x, t), net(x, t), rtol=1e-4, atol=1e-5)
    assert set(by_layer(executable.layers())) == {"first", "attention", "blocks.0"}


@needs_compiler
@pytest.mark.usefixtures("without_inductor")
def test_nets_that_differ_in_their_weights_alone_are_compiled_as_often_as_there_are_and_told_apart() -> None:
    x, t = inputs()
    nets = [OneLayer().eval() for _ in range(torch._dynamo.config.recompile_limit + 2)]
    executables = [TorchCompile().compile(net, (3, 4, 4), 2, threads=1) for net in nets]
    for net, executable in zip(nets, executables, strict=True):
        torch.testing.assert_close(executable(x, t), net(x, t), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("workload", [TinyWorkload(), TinyText()], ids=lambda workload: workload.name)
def test_full_precision_keeps_the_contract_of_engines(workload: Any) -> None:
    assert check_engine(TorchInt8(), workload=workload) == ""


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("precision", [Precision(8, 8), Precision(4, 4)])
def test_parity_accepts_a_compiled_net(precision: Precision) -> None:
    net = tiny(precision)
    executable = TorchInt8().compile(net, TinyWorkload.shape, 4, threads=1)
    assert complaint(measure_parity(executable, 4, net, TinyWorkload(), steps=4)) == ""


class Uncompiled:
    """A lowered net, run as it is: the arithmetic of the engine without torch.compile, which takes seconds a net."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            prediction: Tensor = self.net(x_t, t)
        return prediction

    def layers(self) -> tuple[ExecutedLayer, ...]:
        return ()


@pytest.mark.parametrize("precision", [Precision(8, 8), Precision(4, 4), Precision(4, 8)])
def test_parity_accepts_what_is_compiled(precision: Precision) -> None:
    net = tiny(precision)
    lowered = Uncompiled(lower(net, Shapes.for_device("cuda")))
    assert complaint(measure_parity(lowered, 4, net, TinyWorkload(), steps=4)) == ""


@needs_integers
@pytest.mark.slow
@pytest.mark.usefixtures("without_inductor")
def test_every_quantized_layer_of_a_unet_runs_in_integers() -> None:
    net = tiny(Precision(4, 8))
    executable = TorchInt8().compile(net, TinyWorkload.shape, 4, threads=1)
    layers = executable.layers()
    found = by_layer(layers)
    for name, _ in quantized_layers(net):
        assert (found[name].precision, found[name].weights) == ("i8", "i8")
    assert all(each.layers for each in layers)
    assert fell_back(net, layers) == ()


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("precision", [Precision(8, 8), Precision(4, 4), Precision(4, 8), Precision(32, 6)])
def test_products_of_attention_have_the_numbers_of_the_simulation(precision: Precision, symmetric: bool) -> None:
    net, (x, t) = rounded(precision, a_symmetric=symmetric), inputs()
    for shapes in (Shapes.for_device("cpu"), Shapes.for_device("cuda")):
        torch.testing.assert_close(lower(net, shapes)(x, t), net(x, t), rtol=1e-4, atol=1e-5)


@needs_integers
@pytest.mark.usefixtures("without_inductor")
@pytest.mark.parametrize(
    ("attention", "batch"), [(Attention(), MOST_MATRICES), (Attention(is_written_out=True), 2)], ids=["many", "own"]
)
def test_attention_that_falls_back_says_so(attention: nn.Module, batch: int) -> None:
    net, (x, t) = rounded(Precision(8, 8), attention), inputs(batch)
    executable = TorchInt8().compile(net, (3, 4, 4), batch, threads=1)
    torch.testing.assert_close(executable(x, t), net(x, t), rtol=1e-4, atol=1e-5)
    assert counts(executable.layers()) == {"f32": 2, "i8": 2}
    assert fell_back(net, executable.layers()) == ("attention",)


@needs_integers
@pytest.mark.usefixtures("without_inductor")
def test_layers_with_scales_of_groups_fall_back() -> None:
    net = rounded(Precision(4, 8), group_size=4)
    layers = TorchInt8().compile(net, (3, 4, 4), 2, threads=1).layers()
    assert fell_back(net, layers) == ("first", "blocks.0")
    assert {name: (each.precision, each.weights) for name, each in by_layer(layers).items()} == {
        "first": ("f32", "f32"),
        "attention": ("i8", ""),
        "blocks.0": ("f32", "f32"),
    }


@pytest.mark.usefixtures("without_inductor")
def test_weights_alone_on_a_grid_do_not_fall_back() -> None:
    net = rounded(Precision(4, 32))
    layers = TorchInt8().compile(net, (3, 4, 4), 2, threads=1).layers()
    assert (set(counts(layers)), fell_back(net, layers)) == ({"f32"}, ())


@needs_integers
@pytest.mark.usefixtures("without_inductor")
def test_tables_and_corrections_follow_the_time_steps_of_each_call() -> None:
    net = rounded(Precision(8, 8))
    correct_output(net, torch.tensor([999, 500, 100]), torch.tensor([0.5, 1.0, 2.0]), torch.eye(3))
    keep_time(net, [100, 500, 999])
    for name, layer in quantized_layers(net):
        scale = layer.activation.scale
        layer.activation.set(scale * torch.tensor([0.5, 1.0, 2.0]), layer.activation.zero_point.expand(3))
        assert layer.activation.scale.shape == (3,), name
    executable = TorchInt8().compile(net, (3, 4, 4), 2, threads=1)
    assert set(counts(executable.layers())) == {"i8"}
    x = inputs()[0]
    for t in (torch.tensor([100, 999]), torch.tensor([640, 640]), torch.tensor([999, 0])):
        torch.testing.assert_close(executable(x, t), net(x, t), rtol=1e-4, atol=1e-4)


def test_what_a_gpu_would_run_has_the_models_numbers_in_bfloat16() -> None:
    """On a CPU: the shapes and the floating-point type of a GPU, on the other kernels."""
    net, (x, t) = tiny(Precision(8, 8)), (inputs(4)[0].repeat(1, 1, 2, 2), torch.tensor([999, 900, 500, 1]))
    # In bfloat16, 999 would be the time step 1000.
    correct_output(net, torch.tensor([1000, 999, 1]), torch.tensor([0.5, 2.0, 1.0]), torch.zeros(3, 3))
    lowered = Lowering(torch.bfloat16, {}, KEPT).apply(lower(net, Shapes.for_device("cuda")))
    with torch.no_grad():
        assert 0 < distance(lowered(x.bfloat16(), t), net(x, t)) < 0.05


def test_a_gpu_without_integer_products_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A Volta")
    monkeypatch.setattr("pqbench.engines.torch_int8.engine.device_of", lambda net: torch.device("cuda"))
    monkeypatch.setattr(TorchInt8, "available", lambda self: "")
    with pytest.raises(UserError, match=r"from compute capability 7\.5 on, and A Volta does not"):
        TorchInt8().compile(nn.Identity(), (3, 4, 4), 2, threads=1)


def test_without_a_compiler_the_engine_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"engine torch-int8 needs a C\+\+ compiler"):
        TorchInt8().compile(nn.Identity(), (3, 4, 4), 2, threads=1)
