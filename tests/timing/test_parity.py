"""Parity: an engine that computes the model is accepted, one that computes another is not and loses its latency."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from broken_engines import Wrong
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pqbench.contracts import CalibrationSet, ExecutedLayer, Precision
from pqbench.engines.openvino import OpenVino
from pqbench.quantization.checkpoint.io import save_checkpoint
from pqbench.quantization.net.scope import quantize_layers
from pqbench.quantization.ranges.fitting import calibrate_activations, calibrate_weights
from pqbench.quantization.ranges.observers import MinMax
from pqbench.quantization.ranges.rules import minmax
from pqbench.results.records import Metric
from pqbench.run.outcome import parity_failures
from pqbench.scoring.protocol import RunProtocol
from pqbench.testing.tiny import TinyWorkload
from pqbench.timing.child import run
from pqbench.timing.image_parity import LIMIT, image_complaint, image_parity
from pqbench.timing.metrics import metrics_of
from pqbench.timing.parity import complaint, measure_parity
from pqbench.timing.spec import ParityStep, ParityUse, TimingSpec


def quantized(precision: Precision) -> nn.Module:
    workload, generator = TinyWorkload(), torch.Generator().manual_seed(0)
    net, x_t, t = workload.denoiser(), torch.randn(4, *workload.shape, generator=generator), torch.full((4,), 500)
    quantize_layers(net, precision, (x_t, t))
    calibrate_weights(net, minmax)
    calibrate_activations(net, CalibrationSet(x_t=x_t, t=t, workload="tiny"), MinMax)
    return net.eval()


def errors(difference: float, engine: float, simulation: float) -> ParityUse:
    step = ParityStep(t=1, difference=difference, engine_to_fp=engine, simulation_to_fp=simulation)
    return ParityUse(images=4, steps=(step,))


@pytest.mark.parametrize(
    ("difference", "engine", "simulation", "accepted"),
    [
        (0.12, 0.199, 0.199, True),  # design section 8: one W4A4 step
        (0.007, 0.011, 0.011, True),  # and W8A8
        (0.12, 0.26, 0.2, False),  # more than 1.25 times as far
        (0.4, 0.3, 0.3, False),  # as far from full precision, and elsewhere
        (0.029, 0.03, 0.001, True),  # both close to full precision
        (0.031, 0.032, 0.001, False),
        (math.nan, math.nan, 0.2, False),
        (math.inf, math.inf, 0.2, False),
    ],
)
def test_parity_is_judged_by_the_distance_to_full_precision(
    difference: float, engine: float, simulation: float, accepted: bool
) -> None:
    assert (complaint(errors(difference, engine, simulation)) == "") is accepted


def test_errors_are_those_of_the_predictions_along_full_precision_runs() -> None:
    workload, net = TinyWorkload(), quantized(Precision(4, 4))

    class Midway:
        """Half way between the simulation and nothing: its relative difference to the simulation is one half."""

        def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
            assert len(x_t) == 3
            with torch.no_grad():
                return net(x_t, t) / 2

        def layers(self) -> tuple[ExecutedLayer, ...]:
            return ()

    parity = measure_parity(Midway(), 3, net, workload, steps=4)
    assert parity.images == 3
    assert [step.t for step in parity.steps] == workload.timesteps(4).tolist()
    assert parity.mean("difference") == pytest.approx(0.5)
    # The first step's inputs are the noise itself.
    from pqbench.diffusion.noise import initial_noise

    x_t, t = initial_noise(0, range(3), workload.shape), workload.timesteps(4)[:1].expand(3)
    with torch.no_grad():
        exact, simulated = workload.denoiser()(x_t, t), net(x_t, t)
    expected = (simulated.double() - exact.double()).norm() / exact.double().norm()
    assert parity.steps[0].simulation_to_fp == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("precision", [Precision(), Precision(4, 4)])
def test_openvino_agrees_with_its_simulation(precision: Precision) -> None:
    workload = TinyWorkload()
    net = workload.denoiser() if precision == Precision() else quantized(precision)
    executable = OpenVino().compile(net, workload.shape, 2, threads=1)
    parity = measure_parity(executable, 2, net, workload, steps=4)
    assert complaint(parity) == ""
    assert parity.mean("engine_to_fp") == pytest.approx(parity.mean("simulation_to_fp"), rel=0.25, abs=1e-5)


def test_an_engine_that_computes_another_model_gets_no_latency(tmp_path: Path) -> None:
    path = tmp_path / "w8a8.safetensors"
    save_checkpoint(quantized(Precision(8, 8)), path)
    engine = f"{Wrong.__module__}:{Wrong.__name__}"
    spec = TimingSpec(
        workload="tiny", checkpoint=str(path), engine=engine, steps=4, batches=(1,), threads=1, seconds=0.1
    )
    metrics = metrics_of(spec, [run(spec)])  # what a timing process does, in this one
    assert set(metrics) == {f"parity@{engine}"}
    parity = metrics[f"parity@{engine}"]
    assert parity.value == pytest.approx(1.0)
    assert parity.detail["engine_to_fp"] > 0.9
    (text,) = parity_failures(metrics)
    assert text.startswith(f"No latency on {engine}, which does not agree with the simulation: a step is")


def image_metric(executed: Tensor, simulated: Tensor) -> Metric:
    workload = TinyWorkload()
    protocol = RunProtocol.of(
        workload, n=64, seeds=(0,), budget="quick", sampling_batch=64, resamples=2, judge="engine openvino"
    )
    found = image_parity("openvino", executed, simulated, workload.extractor(), workload.reference(), protocol)
    return found["parity_fd@openvino"]


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (64, *TinyWorkload().shape), generator=generator, dtype=torch.uint8)


def test_images_of_both_are_compared(images: Tensor) -> None:
    same, other = image_metric(images, images), image_metric(images, images // 2)
    assert same.value == pytest.approx(0, abs=1e-6)
    assert other.value > 1e-3
    assert other.n == 64
    assert other.detail["psnr_to_simulation"] < same.detail["psnr_to_simulation"]


def test_images_of_another_model_are_not_accepted_and_said(images: Tensor) -> None:
    flipped = (images.int() + torch.tensor([-1, 1]).repeat(32)[:, None, None, None]).clamp(0, 255).to(torch.uint8)
    for executed, accepted in ((images, True), (flipped, True), (images // 2, False)):
        metric = image_metric(executed, images)
        distances = [metric.value, metric.detail["engine_to_reference"], metric.detail["simulation_to_reference"]]
        apart, ours, theirs = (math.sqrt(distance) for distance in distances)
        assert abs(ours - theirs) <= apart + 1e-9  # what the limit stands on
        assert metric.detail["accepted"] == accepted == (metric.value <= 0.01 * theirs**2)
        if accepted:
            assert list(parity_failures({"parity_fd@openvino": metric})) == []
    (text,) = parity_failures({"parity_fd@openvino": metric})
    assert text.startswith("Judged are images of openvino, which does not agree with the simulation: its images are ")
    assert text.endswith("from the real ones; allowed is 1 % of that.")
    before = metric.model_copy(update={"detail": {"psnr_to_simulation": 30.0}})
    assert list(parity_failures({"parity_fd@openvino": before})) == []


@given(st.floats(0, 10), st.floats(0, 10), st.floats(0, 1e-3))
def test_the_limit_is_on_how_far_the_judged_distance_can_move(root: float, real: float, more: float) -> None:
    """One dimension, where the root of the distance of two Gaussians of one variance is that of their means."""
    simulation = real**2
    if image_complaint(root**2, simulation) == "":
        for engine in ((real - root) ** 2, (real + root) ** 2):
            assert 0.81 * simulation - 1e-9 <= engine <= 1.21 * simulation + 1e-9
    assert image_complaint(LIMIT * simulation + more + 1e-9, simulation)
