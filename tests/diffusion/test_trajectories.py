"""Calibration runs against the sampler itself, and their cost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.contracts.schedule import NoiseSchedule, trailing_timesteps
from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.diffusion.trajectories import collect

SCHEDULE = NoiseSchedule.linear(1000, 1e-4, 0.02)
TIMESTEPS = trailing_timesteps(1000, 10)
SHAPE = (2, 4, 4)


class Counting:
    """A denoiser that is nonlinear in x_t and t, and counts the samples and calls that it serves."""

    def __init__(self) -> None:
        self.samples = 0
        self.calls = 0

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.samples += len(x_t)
        self.calls += 1
        return torch.tanh(x_t + t.view(-1, 1, 1, 1) / 1000)


def run(positions: list[int], batch: int = 64, seed: int = 3, net: Counting | None = None) -> Tensor:
    return collect(
        net or Counting(),
        SCHEDULE,
        TIMESTEPS,
        torch.tensor(positions),
        seed=seed,
        purpose="p",
        shape=SHAPE,
        batch=batch,
    )


@settings(max_examples=25)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(1, 5))
def test_each_sample_is_what_the_sampler_shows_the_net_at_its_own_step(positions: list[int], batch: int) -> None:
    found = run(positions, batch)
    for i, position in enumerate(positions):
        seen: list[Tensor] = []
        noise = initial_noise(3, [i], SHAPE, "p")
        ddim_sample(Counting(), SCHEDULE, TIMESTEPS, noise, visit=lambda _, x, seen=seen: seen.append(x.clone()))
        torch.testing.assert_close(found[i], seen[position][0], rtol=1e-5, atol=1e-6)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=20))
def test_the_net_works_for_running_samples_alone(positions: list[int]) -> None:
    net = Counting()
    run(positions, net=net)
    assert net.samples == sum(positions)
    assert net.calls == max(positions)


def test_position_0_is_the_noise_of_the_purpose() -> None:
    assert torch.equal(run([0, 0]), initial_noise(3, [0, 1], SHAPE, "p"))
    assert not torch.equal(run([0, 0]), initial_noise(3, [0, 1], SHAPE))


def test_a_sample_depends_on_its_own_index_and_seed_only() -> None:
    torch.testing.assert_close(run([4, 9, 2])[2], run([0, 1, 2])[2])
    assert not torch.allclose(run([5]), run([5], seed=4))


def test_progress_ends_at_the_sum_of_the_positions() -> None:
    reports: list[tuple[int, int]] = []
    collect(
        Counting(),
        SCHEDULE,
        TIMESTEPS,
        torch.tensor([3, 1]),
        seed=0,
        purpose="p",
        shape=SHAPE,
        progress=lambda done, total, _: reports.append((done, total)),
    )
    assert reports == [(2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize("positions", [[10], [-1], []])
def test_positions_outside_the_run_are_refused(positions: list[int]) -> None:
    with pytest.raises(UserError, match="each from 0 to 9"):
        run(positions)


def test_the_noise_of_the_evaluation_is_refused() -> None:
    with pytest.raises(UserError, match="evaluation"):
        collect(Counting(), SCHEDULE, TIMESTEPS, torch.tensor([1]), seed=0, purpose="image", shape=SHAPE)
