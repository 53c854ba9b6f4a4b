"""The granularities of `rtn`, through the contracts and through the grammar of `pqbench run`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pqbench_rtn import MinMaxQuantizer
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.calibration.uniform import Uniform
from pqbench.contracts import CalibrationSet, Context, Precision
from pqbench.contracts.parameters import parameters_of, resolve
from pqbench.inspection.audit import audit
from pqbench.quantization.checkpoint.io import load_checkpoint, save_checkpoint
from pqbench.quantization.grids.time_tables import table_steps
from pqbench.quantization.net.layers import quantized_layers
from pqbench.testing import check_quantizer
from pqbench.testing.tiny import TinyWorkload

GRANULARITIES = [
    MinMaxQuantizer(group_size=16),
    MinMaxQuantizer(group_size=5, range="lp", dynamic=True),
    MinMaxQuantizer(time_tables=True),
    MinMaxQuantizer(time_tables=True, range="percentile", group_size=32),
]


def context(w: int = 4, a: int = 4) -> Context:
    return Context(TinyWorkload(), Precision(w, a), TinyWorkload.steps)


@pytest.fixture(scope="module")
def calibration() -> CalibrationSet:
    return Uniform(samples=48).sample(context())


def quantize(quantizer: MinMaxQuantizer, calibration: CalibrationSet, w: int = 4, a: int = 4) -> nn.Module:
    return quantizer.quantize(context(w, a), TinyWorkload().denoiser(), calibration)


@torch.no_grad()
def answers(net: nn.Module, data: CalibrationSet) -> Tensor:
    prediction: Tensor = net(data.x_t, data.t)
    return prediction


def error(net: nn.Module, data: CalibrationSet) -> float:
    expected = answers(TinyWorkload().denoiser(), data)
    return float((answers(net, data) - expected).norm() / expected.norm())


@pytest.mark.parametrize("quantizer", GRANULARITIES, ids=str)
def test_they_keep_the_contract_of_quantizers(quantizer: MinMaxQuantizer) -> None:
    check_quantizer(quantizer, precisions=("w4a4", "w3a8"))


@pytest.mark.parametrize("quantizer", GRANULARITIES, ids=str)
def test_a_loaded_model_answers_every_mixture_of_steps_with_the_same_bits(
    quantizer: MinMaxQuantizer, calibration: CalibrationSet, tmp_path: Path
) -> None:
    net = quantize(quantizer, calibration)
    save_checkpoint(net, tmp_path / "net")
    loaded = load_checkpoint(tmp_path / "net", TinyWorkload().architecture())
    assert torch.equal(answers(loaded, calibration), answers(net, calibration))


def test_groups_bring_the_weights_nearer(calibration: CalibrationSet) -> None:
    original = TinyWorkload().denoiser().state_dict()

    def distance(group_size: int) -> float:
        net = quantize(MinMaxQuantizer(group_size=group_size), calibration, 4, 32)
        assert {layer.group_size for _, layer in quantized_layers(net)} == {group_size}
        return sum(float((layer.weight - original[f"{n}.weight"]).square().sum()) for n, layer in quantized_layers(net))

    assert distance(8) < distance(32) < distance(0)


def test_dynamic_ranges_are_nearer_than_static_ones_and_stored_nowhere(calibration: CalibrationSet) -> None:
    static, dynamic = (quantize(MinMaxQuantizer(dynamic=each), calibration, 32, 4) for each in (False, True))
    assert error(dynamic, calibration) < error(static, calibration)
    assert not [name for name in dynamic.state_dict() if "activation" in name and "scale" in name]
    example = calibration.x_t[:1], calibration.t[:1]
    assert audit(dynamic, example).activation_parameter_sets == 0


def test_tables_have_a_set_for_each_sampling_step(calibration: CalibrationSet) -> None:
    net, job = quantize(MinMaxQuantizer(time_tables=True), calibration), context()
    steps = sorted(job.timesteps().tolist())
    assert table_steps(net) == tuple(steps)
    assert audit(net, (calibration.x_t[:1], calibration.t[:1])).activation_parameter_sets == len(steps)
    layer = dict(quantized_layers(net))["net.conv_in"]  # its input is x_t
    for place, step in enumerate(steps):
        values = calibration.x_t[calibration.t == step].double()
        scale = float(values.max().clamp(min=0) - values.min().clamp(max=0)) / 255
        assert float(layer.activation.scale[place]) == pytest.approx(scale, rel=1e-6)


def test_a_sampling_step_without_a_sample_is_declared(calibration: CalibrationSet) -> None:
    job = context()
    steps = sorted(job.timesteps().tolist())
    keep = calibration.t != steps[2]
    fewer = CalibrationSet(calibration.x_t[keep], calibration.t[keep], calibration.workload)
    net = MinMaxQuantizer(time_tables=True).quantize(job, TinyWorkload().denoiser(), fewer)
    lower, upper = steps[2] - steps[1], steps[3] - steps[2]
    source = steps[1] if lower <= upper else steps[3]
    assert job.trace == [{"event": "no sample of its own", "time_step": steps[2], "parameters_of": source}]
    for _, layer in quantized_layers(net):
        assert layer.activation.scale[2] == layer.activation.scale[steps.index(source)]


def test_what_excludes_each_other_is_refused(calibration: CalibrationSet) -> None:
    with pytest.raises(UserError, match="time_tables=true has nothing to hold"):
        quantize(MinMaxQuantizer(dynamic=True, time_tables=True), calibration)
    with pytest.raises(UserError, match="exclude each other"):
        quantize(MinMaxQuantizer(group_size=8, per_channel=False), calibration)


def test_they_are_parameters_with_a_range_and_a_help_text() -> None:
    found = {p.name: p for p in parameters_of(MinMaxQuantizer)}
    assert found["group_size"].describe() == "a whole number of at least 0"
    assert all(found[name].help for name in ("group_size", "dynamic", "time_tables"))
    given = {"group_size": "64", "dynamic": "true"}
    assert resolve(MinMaxQuantizer, given, "quick") | {"group_size": 64, "dynamic": True, "time_tables": False} == (
        resolve(MinMaxQuantizer, given, "quick")
    )
    with pytest.raises(UserError, match="group_size=-1 is out of range"):
        resolve(MinMaxQuantizer, {"group_size": "-1"}, "quick")
