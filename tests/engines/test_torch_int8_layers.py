"""Single layers on torch's integer products: the numbers of a float64 reference, and the shapes that a GPU asks for."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from pqbench.engines.compiled import Lowering
from pqbench.engines.torch_int8.layer import IntegerLayer
from pqbench.engines.torch_int8.lowering import KEPT, lower
from pqbench.engines.torch_int8.product import Shapes, integer_product
from pqbench.quantization.grids.time_tables import keep_time
from pqbench.quantization.net.layers import QuantizedLayer
from pqbench.quantization.ranges.fitting import freeze_nearest
from pqbench.quantization.ranges.rules import minmax, rows

# Torch says so of even kernels, in the simulation.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def made() -> dict[str, nn.Module]:
    """Layers of every kind, the same ones each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return {
            "conv": nn.Conv2d(6, 10, 3, padding=1),
            "strided": nn.Conv2d(6, 10, 3, stride=2, padding=1, bias=False),
            "uneven": nn.Conv2d(6, 10, (3, 2), stride=(1, 2), padding=(2, 0), dilation=(2, 1)),
            "same": nn.Conv2d(6, 10, 4, padding="same"),
            "valid": nn.Conv2d(6, 10, 3, padding="valid"),
            "grouped": nn.Conv2d(6, 10, 3, padding=1, groups=2),
            "pointwise": nn.Conv2d(6, 10, 1),
            "pointwise strided": nn.Conv2d(6, 10, 1, stride=2, padding=1),
            "conv1d": nn.Conv1d(6, 10, 3, padding=1),
            "linear": nn.Linear(6, 10),
        }


LAYERS = made()
GPU, CPU = Shapes.for_device("cuda"), Shapes.for_device("cpu")


class Net(nn.Module):
    """One layer, called like a denoiser."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        result: Tensor = self.layer(x_t)
        return result


def inputs(kind: str) -> Tensor:
    shape = {"linear": (2, 7, 6), "conv1d": (2, 6, 9)}.get(kind, (2, 6, 8, 9))
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def quantized(
    kind: str, w: int, a: int, w_symmetric: bool = True, a_symmetric: bool = False, group_size: int = 0
) -> QuantizedLayer:
    """Ranges by min-max of the weights and of 0.7 times the inputs, so that some are clipped."""
    source = LAYERS[kind]
    assert isinstance(source, (nn.Conv1d, nn.Conv2d, nn.Linear))
    layer = QuantizedLayer(source, w, a, w_symmetric, a_symmetric, group_size=group_size)
    freeze_nearest(layer, minmax)
    if layer.activation.grid is not None:
        layer.activation.set(*minmax(rows(0.7 * inputs(kind), False), layer.activation.grid))
    return layer.eval()


def exact(layer: QuantizedLayer, x: Tensor) -> Tensor:
    """The layer in float64, from its codes and from those of its input."""
    grid, (scale, zero) = layer.activation.grid, layer.weight_parameters()
    assert grid is not None
    step, origin = layer.activation.scale, layer.activation.zero_point
    on_grid = (grid.quantize(x, step, origin).double() - origin) * step.double()
    weight = (layer.codes.double() - zero) * scale.double()
    return layer.operate(on_grid, weight, None if layer.bias is None else layer.bias.double())


def assert_rounded(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("symmetries", list(itertools.product((True, False), repeat=2)))
@pytest.mark.parametrize(("w", "a"), [(8, 8), (4, 8), (4, 4), (2, 7)])
def test_a_layer_is_the_float64_reference_to_rounding(kind: str, symmetries: tuple[bool, bool], w: int, a: int) -> None:
    layer, x = quantized(kind, w, a, *symmetries), inputs(kind)
    for shapes in (CPU, GPU):
        lowered = lower(Net(layer), shapes).get_submodule("layer")
        assert isinstance(lowered, IntegerLayer)
        assert_rounded(lowered(x), exact(layer, x))


@pytest.mark.parametrize("kind", LAYERS)
def test_a_gpus_products_have_the_shapes_that_it_takes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    multiply, seen = torch._int_mm, []

    def checked(left: Tensor, right: Tensor) -> Tensor:
        seen.append(left.shape)
        assert len(left) > 16
        assert left.shape[1] % 8 == right.shape[1] % 8 == 0
        assert left.stride(1) == right.stride(0) == 1
        return multiply(left, right)

    monkeypatch.setattr(torch, "_int_mm", checked)
    # One sample, so that there are few rows; the widest weights, which take one more column.
    lower(Net(quantized(kind, 8, 8, w_symmetric=False)), replace(GPU, saturates=False))(
        inputs(kind)[:1], torch.zeros(1)
    )
    assert seen


def test_the_largest_codes_of_a_long_sum_do_not_overflow() -> None:
    left = torch.full((3, 9 * 2048), -128, dtype=torch.int8)
    found = integer_product(left, left, 3, GPU)
    assert found.dtype == torch.int32
    assert bool((found == 9 * 2048 * 128**2).all())


@pytest.mark.parametrize("kind", ["pointwise", "linear"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_grid_for_each_token_runs_in_integers(kind: str, symmetric: bool) -> None:
    source, x = LAYERS[kind], inputs(kind)
    layer = QuantizedLayer(source, 8, 8, False, symmetric, a_dynamic=True)  # type: ignore[arg-type]
    freeze_nearest(layer, minmax)
    lowered = lower(Net(layer), CPU).get_submodule("layer")
    assert isinstance(lowered, IntegerLayer)
    with torch.no_grad():
        torch.testing.assert_close(lowered(x), layer(x), rtol=1e-5, atol=1e-5)


def dynamic(kind: str) -> QuantizedLayer:
    layer = QuantizedLayer(LAYERS[kind], 4, 8, a_dynamic=True)  # type: ignore[arg-type]
    freeze_nearest(layer, minmax)
    return layer


def depthwise() -> QuantizedLayer:
    layer = QuantizedLayer(nn.Conv2d(6, 12, 3, groups=6), 4, 8)
    freeze_nearest(layer, minmax)
    layer.activation.set(torch.tensor(0.02), torch.tensor(100))
    return layer


NOT_IN_INTEGERS = {
    "weights alone": lambda: quantized("conv", 4, 32),
    "inputs alone": lambda: quantized("conv", 32, 8),
    "a scale for each group of inputs": lambda: quantized("conv", 4, 8, group_size=5),
    "one for each token under a kernel": lambda: dynamic("conv"),
    "one for each token with a border": lambda: dynamic("pointwise strided"),
    "depthwise": depthwise,
}


@pytest.mark.parametrize("case", NOT_IN_INTEGERS)
def test_what_no_integer_product_computes_runs_in_floating_point_with_the_same_numbers(case: str) -> None:
    layer, x = NOT_IN_INTEGERS[case](), inputs("conv")
    lowered = lower(Net(layer), CPU).get_submodule("layer")
    assert not isinstance(lowered, IntegerLayer)
    with torch.no_grad():
        torch.testing.assert_close(lowered(x), layer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_tables_over_time_steps_are_followed_row_by_row(bits: int) -> None:
    net, x = Net(quantized("conv", 4, bits)), inputs("conv")
    keep_time(net, [100, 500, 900])
    assert isinstance(net.layer, QuantizedLayer)
    zeros = torch.tensor([3, 7, 12]) if bits == 4 else torch.tensor([100, 128, 200])
    net.layer.activation.set(torch.tensor([0.4, 0.2, 0.1]) * 15 / 2**bits, zeros)
    lowered = lower(net, CPU)
    # 300 and 700 are as near to both neighbours, of which the lower counts.
    for t in ([100, 900], [300, 301], [999, 0], [700, 500], [500, 500]):
        with torch.no_grad():
            torch.testing.assert_close(lowered(x, torch.tensor(t)), net(x, torch.tensor(t)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", LAYERS)
def test_in_bfloat16_only_the_layers_output_is_rounded(kind: str) -> None:
    layer, x = quantized(kind, 8, 8), inputs(kind).bfloat16()
    lowered = Lowering(torch.bfloat16, {}, KEPT).apply(lower(Net(layer), GPU))
    found = lowered(x, torch.zeros(2))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), exact(layer, x.float()), rtol=2**-8, atol=1e-6)
