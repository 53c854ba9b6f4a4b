"""The sanity ladder: a sound quantizer climbs it, and each way to be wrong fails its own rung."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pqbench.calibration.uniform import Uniform
from pqbench.contracts import CalibrationSet, Context, Precision
from pqbench.engines.torch_eager import EagerExecutable, TorchEager
from pqbench.quantization.net.layers import quantized_layers
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.ranges.fitting import calibrate_activations, calibrate_weights
from pqbench.quantization.ranges.observers import MinMax
from pqbench.quantization.ranges.rules import minmax
from pqbench.sanity import Rung, climb
from pqbench.sanity.climbing import is_worse
from pqbench.testing.tiny import TinyWorkload

WORKLOAD = TinyWorkload()
ModelAt = Callable[[Precision], nn.Module]


@pytest.fixture(scope="module")
def calibration() -> CalibrationSet:
    return Uniform(samples=64).sample(Context(WORKLOAD, Precision(), WORKLOAD.steps))


@pytest.fixture(scope="module")
def sound(calibration: CalibrationSet) -> ModelAt:
    """Rounding to nearest, at each precision once."""
    made: dict[Precision, nn.Module] = {}

    def model_at(precision: Precision) -> nn.Module:
        if precision not in made:
            net = WORKLOAD.denoiser()
            quantize_layers(net, precision, calibration.inputs(slice(1)))
            calibrate_weights(net, minmax)
            calibrate_activations(net, calibration, MinMax)
            made[precision] = net.requires_grad_(False)
        return made[precision]

    return model_at


class Exact(TorchEager):
    """An engine that claims to execute what the simulation computes."""


class Halved(TorchEager):
    """An engine that forgets half of its prediction."""

    def compile(
        self, net: nn.Module, shape: tuple[int, int, int], batch: int, threads: int, condition: object = ()
    ) -> EagerExecutable:
        return EagerExecutable(_Combined(net, 0.5, 0.0), threads)


class Mirrored(TorchEager):
    """An engine that is as far from full precision as the simulation is, on the other side."""

    def compile(
        self, net: nn.Module, shape: tuple[int, int, int], batch: int, threads: int, condition: object = ()
    ) -> EagerExecutable:
        return EagerExecutable(_Combined(net, -1.0, 2.0), threads)


class _Combined(nn.Module):
    """a times a net's prediction and b times that of full precision."""

    def __init__(self, net: nn.Module, a: float, b: float) -> None:
        super().__init__()
        self.net, self.exact, self.a, self.b = net, WORKLOAD.denoiser(), a, b

    def forward(self, *inputs: Tensor) -> Tensor:
        combined: Tensor = self.a * self.net(*inputs) + self.b * self.exact(*inputs)
        return combined


def rungs(model_at: ModelAt, final: ModelAt | None = None, engine: type[TorchEager] = Exact) -> dict[str, Rung]:
    made = final or model_at
    climbed = climb(model_at, WORKLOAD, lambda: made(Precision(4, 4)), bits=(2, 4, 8), images=4, engines=[engine()])
    return {rung.name: rung for rung in climbed}


def failed(found: dict[str, Rung]) -> list[str]:
    return [name for name, rung in found.items() if not rung.passed]


def test_rounding_to_nearest_climbs_it(sound: ModelAt) -> None:
    found = rungs(sound)
    assert list(found) == ["identity", "near", "weights", "activations", "packed", "engine torch"]
    assert failed(found) == []


def test_a_change_at_32_bits_is_no_identity(sound: ModelAt) -> None:
    def changed(precision: Precision) -> nn.Module:
        if precision.quantizes:
            return sound(precision)
        net = WORKLOAD.denoiser()
        with torch.no_grad():
            next(net.parameters()).mul_(1 + 1e-6)
        return net

    found = rungs(changed)
    assert failed(found) == ["identity"]
    assert "training mode" in found["identity"].look_at


def test_eight_bits_that_are_five_are_not_near(sound: ModelAt) -> None:
    def narrow(precision: Precision) -> nn.Module:
        return sound(Precision(8, 5) if precision == Precision(8, 8) else precision)

    found = rungs(narrow)
    assert "near" in failed(found)
    assert "PSNR" in found["near"].measured


@pytest.mark.parametrize("what", ["weights", "activations"])
def test_a_width_that_is_worse_than_a_narrower_one_is_named(sound: ModelAt, what: str) -> None:
    four = Precision(4, 8) if what == "weights" else Precision(8, 4)
    two = Precision(2, 8) if what == "weights" else Precision(8, 2)

    def swapped(precision: Precision) -> nn.Module:
        return sound({four: two, two: four}.get(precision, precision))

    found = rungs(swapped)
    assert failed(found) == [what]
    assert "worse: 4 than 2" in found[what].measured


def test_weights_that_are_not_their_codes_fail_the_file(sound: ModelAt, calibration: CalibrationSet) -> None:
    def unfrozen(precision: Precision) -> nn.Module:
        import copy

        net = copy.deepcopy(sound(precision))
        _, layer = next(iter(quantized_layers(net)))
        layer.weight.data.add_(0.01)
        return net

    found = rungs(sound, final=unfrozen)
    assert failed(found) == ["packed"]
    assert "codes" in found["packed"].measured


@pytest.mark.parametrize(("engine", "bits"), [(Halved, 8), (Mirrored, 4)])
def test_an_engine_that_computes_something_else_is_named(sound: ModelAt, engine: type[TorchEager], bits: int) -> None:
    found = rungs(sound, final=lambda _: sound(Precision(bits, bits)), engine=engine)
    assert failed(found) == ["engine torch"]
    assert "lowers the net" in found["engine torch"].look_at


def test_worse_means_beyond_noise_and_tolerance() -> None:
    generator = torch.Generator().manual_seed(0)
    fewer = 0.1 + 0.01 * torch.rand(16, generator=generator, dtype=torch.float64)
    noise = 0.02 * torch.randn(16, generator=generator, dtype=torch.float64)
    assert not is_worse(fewer, fewer)
    assert not is_worse(1.04 * fewer, fewer)  # the tolerance
    assert is_worse(1.2 * fewer, fewer)
    assert not is_worse(1.06 * fewer + noise - noise.mean(), fewer)  # the noise
    assert is_worse(torch.full((16,), torch.nan, dtype=torch.float64), fewer)
