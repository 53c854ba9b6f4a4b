"""The contract tests: pqbench's own components keep the contracts, and each kind of breach is found."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from pqbench_fp import FullPrecision
from pqbench_pqcad import CalibrationAssistedDistillation, Pqcad, ProgressiveQuantizer, Stratified
from pqbench_ptq4dm import Ptq4dm, Ptq4dmQuantizer
from pqbench_ptqd.method import Ptqd
from pqbench_rtn import MinMaxQuantizer, RoundToNearest
from torch import nn

from pqbench import testing
from pqbench.calibration.ndtc import Ndtc
from pqbench.calibration.trajectories import Trajectories
from pqbench.calibration.uniform import Uniform
from pqbench.components import Registry
from pqbench.contracts import (
    KINDS,
    CalibrationSampler,
    CalibrationSet,
    Context,
    Correction,
    Distiller,
    Method,
    Quantizer,
    Teachers,
    Workload,
)
from pqbench.engines.torch_eager import TorchEager
from pqbench.quantization.net.layers import quantized_layers
from pqbench.quantization.net.output_correction import correct_output
from pqbench.testing import (
    ContractError,
    check_calibration_sampler,
    check_correction,
    check_distiller,
    check_engine,
    check_method,
    check_quantizer,
    check_workload,
    no_leaked_globals,
)
from pqbench.testing.tiny import TinyWorkload
from pqbench.workloads.cifar10 import Cifar10
from pqbench.workloads.fashion import Fashion

PQ = ProgressiveQuantizer(weight_budget=2, activation_budget=2, minimum=1, interval=1, ramp=1, batch=8, start=5)
CAD = CalibrationAssistedDistillation(iterations=4, batch=8)


@pytest.mark.parametrize("quantizer", [MinMaxQuantizer(), Ptq4dmQuantizer(), PQ], ids=lambda q: q.name)
def test_quantizers(quantizer: Quantizer) -> None:
    check_quantizer(quantizer)


@pytest.mark.parametrize(
    "sampler",
    [Uniform(samples=12), Ndtc(samples=12), Trajectories(runs=3), Stratified(trajectories=6)],
    ids=lambda s: s.name,
)
def test_calibration_samplers(sampler: CalibrationSampler) -> None:
    check_calibration_sampler(sampler)


def test_the_distiller() -> None:
    check_distiller(CAD, sampler=Stratified(trajectories=8))


@pytest.mark.parametrize("method", [FullPrecision, RoundToNearest, Ptq4dm, Ptqd, Pqcad], ids=lambda m: m.name)
def test_methods(method: type[Method]) -> None:
    check_method(method)


@pytest.mark.parametrize(
    "workload", [TinyWorkload, *(pytest.param(each, marks=pytest.mark.slow) for each in (Fashion, Cifar10))]
)
def test_workloads(workload: type[Workload]) -> None:
    check_workload(workload())


def test_the_eager_engine() -> None:
    assert check_engine(TorchEager()) == ""


LEAKS: dict[str, Callable[[], Any]] = {
    "gradient mode": lambda: torch.set_grad_enabled(not torch.is_grad_enabled()),
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "deterministic mode": lambda: torch.use_deterministic_algorithms(True),
    "torch's random state": lambda: torch.rand(1),
    "NumPy's random state": lambda: np.random.rand(),
    "Python's random state": lambda: random.random(),
}


@pytest.fixture
def restored() -> Any:
    """Puts back what a leak changed."""
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    yield
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)
    torch.set_rng_state(state)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("what", LEAKS)
def test_a_leak_is_named(what: str) -> None:
    with pytest.raises(ContractError, match=what), no_leaked_globals():
        LEAKS[what]()


def test_what_is_put_back_is_no_leak() -> None:
    with no_leaked_globals(), torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.rand(1)


@dataclass(frozen=True)
class Breach(MinMaxQuantizer):
    """A quantizer that does what it should, and then something else."""

    then: ClassVar[Callable[[Context, nn.Module, CalibrationSet], object]]

    def quantize(self, context: Context, net: nn.Module, calibration: CalibrationSet) -> nn.Module:
        quantized = super().quantize(context, net, calibration)
        type(self).then(context, quantized, calibration)
        return quantized


def with_breach(act: Callable[[Context, nn.Module, CalibrationSet], object]) -> Quantizer:
    return type("Broken", (Breach,), {"then": staticmethod(act)})()  # type: ignore[no-any-return]


def layer(net: nn.Module) -> Any:
    return next(module for name, module in quantized_layers(net) if "resnets" in name)


def only_quantized(act: Callable[[nn.Module], object]) -> Callable[[Context, nn.Module, CalibrationSet], object]:
    return lambda context, net, calibration: act(net) if context.precision.quantizes else None


QUANTIZER_BREACHES: dict[str, Callable[[Context, nn.Module, CalibrationSet], object]] = {
    "At w32a32 its result is not the full-precision model": lambda c, net, s: layer(net).bias.add_(1.0),
    "claimed bits are not its stored ones": only_quantized(lambda net: layer(net).weight.add_(0.01)),
    "answers with NaN": only_quantized(lambda net: layer(net).bias.fill_(float("nan"))),
    "narrowest layers are at w3a4": only_quantized(lambda net: setattr(layer(net), "w_bits", 3) or narrow(layer(net))),
    "two different nets": only_quantized(
        lambda net: layer(net).bias.add_(torch.rand(1, generator=FRESH))
    ),
    "changed the calibration set": lambda c, net, s: s.x_t.add_(1.0),
    "changed torch's random state": lambda c, net, s: torch.rand(1),
}  # fmt: skip
FRESH = torch.Generator().manual_seed(0)


def narrow(quantized: Any) -> None:
    quantized.freeze(quantized.weight, quantized.weight_scale, quantized.weight_zero)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("sentence", QUANTIZER_BREACHES)
def test_a_broken_quantizer_is_found(sentence: str) -> None:
    with pytest.raises(ContractError, match=sentence):
        check_quantizer(with_breach(QUANTIZER_BREACHES[sentence]))


def test_a_component_that_would_not_be_registered_is_found() -> None:
    class Unnamed(MinMaxQuantizer):
        name = "Not A Name"

    with pytest.raises(ContractError, match="names are lower case"):
        check_quantizer(Unnamed())


def test_a_sampler_that_ignores_its_seed_is_found() -> None:
    class Stubborn(Uniform):
        def sample(self, context: Context) -> CalibrationSet:
            return super().sample(Context(context.workload, context.precision, context.steps, seed=0))

    with pytest.raises(ContractError, match="Another seed gives the same set"):
        check_calibration_sampler(Stubborn(samples=8))


class Copies(Distiller):
    """Returns the student as it came, or as a test changes it."""

    name: ClassVar[str] = "copies"

    def distill(
        self, context: Context, student: nn.Module, teachers: Teachers, calibration: CalibrationSet
    ) -> nn.Module:
        return student


def test_a_distiller_that_changes_the_bits_is_found() -> None:
    class Wider(Copies):
        def distill(self, *args: Any) -> nn.Module:
            student: nn.Module = args[1]
            layer(student).activation.bits = 8
            return student

    check_distiller(Copies())
    with pytest.raises(ContractError, match="not on the teacher's grids"):
        check_distiller(Wider())


def test_a_distiller_that_changes_the_kind_of_a_grid_is_found() -> None:
    class Symmetric(Copies):
        def distill(self, *args: Any) -> nn.Module:
            student: nn.Module = args[1]
            activation = layer(student).activation
            activation.symmetric = True
            activation.set(activation.scale, torch.zeros_like(activation.zero_point))
            return student

    with pytest.raises(ContractError, match="not on the teacher's grids"):
        check_distiller(Symmetric())


@pytest.mark.parametrize("share", [Fraction(2), 0.5])
def test_a_distiller_whose_share_is_none_is_found(share: object) -> None:
    wrong = type("Wrong", (Copies,), {"step_share": property(lambda self: share)})
    with pytest.raises(ContractError, match="Its step_share is"):
        check_distiller(wrong())


def test_a_distiller_that_trains_its_teacher_is_found() -> None:
    class Confused(Copies):
        def distill(self, *args: Any) -> nn.Module:
            layer(args[2].quantized).bias.add_(0.1)
            return args[1]  # type: ignore[no-any-return]

    with pytest.raises(ContractError, match="changed one of its teachers"):
        check_distiller(Confused())


def test_a_distiller_whose_steps_do_not_divide_is_found() -> None:
    class Third(Copies):
        step_share: ClassVar[Fraction] = Fraction(1, 3)

    with pytest.raises(ContractError, match="no whole number"):
        check_distiller(Third())


class Leaves(Correction):
    """Returns the net as it came, or as a test changes it."""

    name: ClassVar[str] = "leaves"

    def correct(self, context: Context, net: nn.Module, full_precision: nn.Module, steps: int) -> nn.Module:
        return net


def test_a_correction_that_changes_weights_is_found() -> None:
    class Louder(Leaves):
        def correct(self, *args: Any) -> nn.Module:
            norm = next(module for module in args[1].modules() if isinstance(module, nn.GroupNorm))
            norm.weight.data.mul_(3)
            return args[1]  # type: ignore[no-any-return]

    check_correction(Leaves())
    with pytest.raises(ContractError, match="changed what is not its own"):
        check_correction(Louder())


def test_a_correction_that_draws_as_it_likes_is_found() -> None:
    class Random(Leaves):
        def correct(self, *args: Any) -> nn.Module:
            t = args[0].timesteps()
            gain = 1 + torch.rand(len(t), generator=torch.Generator().manual_seed(time.monotonic_ns() % 2**31))
            return correct_output(args[1], t, gain, torch.zeros(len(t), args[0].workload.shape[0]))

    with pytest.raises(ContractError, match="two different corrections"):
        check_correction(Random())


def test_a_method_with_a_component_that_nobody_has_is_found() -> None:
    class Lost(Pqcad):
        quantizer: ClassVar[str] = "nowhere"

    with pytest.raises(ContractError, match="cannot be composed"):
        check_method(Lost, registry=_registry_of(Lost))


def _registry_of(method: type[Method]) -> Any:
    """All installed plugins, in which one method is replaced by a class of this test."""
    registry = Registry.discover()

    class Replaced:
        def find(self, kind: str, name: str) -> Any:
            found = registry.find(kind, name)  # type: ignore[call-overload]
            return dataclasses.replace(found, component=method) if name == method.name else found

        def names(self, kind: str) -> Any:
            return registry.names(kind)  # type: ignore[arg-type]

    return Replaced()


def test_an_engine_that_computes_something_else_is_found() -> None:
    class Noisy(TorchEager):
        def compile(self, net: nn.Module, shape: tuple[int, int, int], batch: int, threads: int) -> Any:
            inner = super().compile(net, shape, batch, threads)

            class Off:
                layers = inner.layers

                def __call__(self, x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
                    return inner(x_t, t) * 1.1

            return Off()

    with pytest.raises(ContractError, match="away from eager torch"):
        check_engine(Noisy())


def test_an_engine_that_is_missing_says_why() -> None:
    class Missing(TorchEager):
        def available(self) -> str:
            return "There is no such device here."

    assert check_engine(Missing()) == "There is no such device here."


def test_a_workload_whose_denoisers_share_weights_is_found() -> None:
    class Shared(TinyWorkload):
        _one = TinyWorkload().denoiser()

        def denoiser(self) -> nn.Module:
            return self._one

    with pytest.raises(ContractError, match="share their weights"):
        check_workload(Shared())


def test_every_kind_has_a_check() -> None:
    names = {"calibration": "calibration_sampler"}
    assert all(hasattr(testing, f"check_{names.get(kind, kind)}") for kind in KINDS)
