"""C_DC: strata, trajectory points, injected noise."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from pqbench_pqcad.stratified import Stratified
from scipy.stats import chisquare, kstest
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.contracts import Context, Precision
from pqbench.contracts.schedule import NoiseSchedule
from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.distillation.targets import student_timesteps
from pqbench.testing.tiny import TinyWorkload


class Linear(nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * x + t.view(-1, 1, 1, 1) / 2000


class LinearWorkload(TinyWorkload):
    """A denoiser that costs nothing and whose results do not depend on the batch."""

    name: ClassVar[str] = "linear"
    steps: ClassVar[int] = 20

    def denoiser(self) -> nn.Module:
        return Linear()

    def schedule(self) -> NoiseSchedule:
        return NoiseSchedule.linear(1000, 1e-4, 0.02)


def context(seed: int = 0, steps: int = 20) -> Context:
    return Context(LinearWorkload(), Precision(4, 4), steps, seed=seed)


def trajectories(count: int, seed: int = 0) -> dict[int, Tensor]:
    """The FP runs at every time step, each (count, C, H, W), made by the sampler itself."""
    workload = LinearWorkload()
    timesteps = workload.timesteps(20)
    noise = initial_noise(seed, range(count), workload.shape, purpose="distillation calibration")
    seen: dict[int, Tensor] = {}
    ddim_sample(Linear(), workload.schedule(), timesteps, noise, lambda k, x: seen.update({int(timesteps[k]): x}))
    return seen


def positions(t: Tensor) -> Tensor:
    """Which of the student's steps each time step is."""
    return (student_timesteps(LinearWorkload().timesteps(20))[None] == t[:, None]).int().argmax(1)


def test_all_time_steps_are_student_steps_and_every_run_gives_as_many_samples_as_there_are() -> None:
    found = Stratified(trajectories=13).sample(context())
    assert len(found) == 13 * 10
    assert set(found.t.tolist()) == set(student_timesteps(LinearWorkload().timesteps(20)).tolist())


@pytest.mark.parametrize("strata", [0, 1, 2, 5, 10])
def test_strata_have_equal_counts_and_are_uniform_inside(strata: int) -> None:
    found = Stratified(trajectories=400, strata=strata).sample(context())
    count = strata or 10
    position = positions(found.t)
    width = 10 // count
    assert (position // width).bincount().tolist() == [4000 // count] * count
    assert found.facts["strata"] == str(count)
    for stratum in range(count):
        inside = position[position // width == stratum] % width
        if width > 1:
            assert chisquare(inside.bincount(minlength=width).numpy()).pvalue > 0.001


@pytest.mark.parametrize("strata", [3, 4, 11, 1000])
def test_strata_that_cannot_be_equal_are_refused(strata: int) -> None:
    with pytest.raises(UserError, match=f"strata={strata} cannot split the student's 10 steps"):
        Stratified(trajectories=4, strata=strata).sample(context())


def test_without_noise_every_sample_is_a_point_of_a_trajectory() -> None:
    found = Stratified(trajectories=7, rho=0.0, strata=2).sample(context())
    runs = trajectories(7)
    for x, t in zip(found.x_t, found.t.tolist(), strict=True):
        assert any(torch.equal(x, point) for point in runs[t])


def test_every_run_is_used_equally() -> None:
    found = Stratified(trajectories=7, rho=0.0).sample(context())
    for t, points in trajectories(7).items():
        if (found.t == t).any():
            assert torch.equal(found.x_t[found.t == t], points)


@pytest.mark.parametrize("rho", [0.05, 0.5])
def test_the_injected_noise_is_gaussian_with_rho_times_sigma(rho: float) -> None:
    clean = Stratified(trajectories=40, rho=0.0).sample(context())
    noisy = Stratified(trajectories=40, rho=rho).sample(context())
    assert torch.equal(clean.t, noisy.t)
    sigma = (1 - LinearWorkload().schedule().alphas_cumprod[clean.t]).sqrt().view(-1, 1, 1, 1)
    unit = (noisy.x_t - clean.x_t).double() / (rho * sigma)
    for t in clean.t.unique():
        values = unit[clean.t == t].flatten()  # 40 x 192 values; the deviation's own error is 0.8 %
        assert float(values.std()) == pytest.approx(1, abs=0.035)
        assert kstest(values.numpy(), "norm").pvalue > 0.001


def test_batches_decide_about_speed_alone() -> None:
    whole = Stratified(trajectories=11, batch=64, strata=2).sample(context())
    parts = Stratified(trajectories=11, batch=3, strata=2).sample(context())
    assert torch.equal(whole.t, parts.t)
    assert torch.equal(whole.x_t, parts.x_t)


def test_the_seed_decides_everything() -> None:
    first, again, other = (Stratified(trajectories=5).sample(context(seed)) for seed in (1, 1, 2))
    assert first.digest == again.digest
    assert not torch.equal(first.x_t, other.x_t)


def test_the_evaluation_never_sees_its_noise() -> None:
    found = Stratified(trajectories=5, rho=0.0).sample(context())
    start = found.x_t[found.t == found.t.max()]
    evaluation = initial_noise(0, range(5), LinearWorkload.shape)
    assert not any(torch.equal(a, b) for a in start for b in evaluation)


@pytest.mark.parametrize("steps", [1, 5, 25])
def test_steps_that_cannot_be_halved_are_refused(steps: int) -> None:
    with pytest.raises(UserError, match="cannot be halved"):
        Stratified(trajectories=2).sample(context(steps=steps))
