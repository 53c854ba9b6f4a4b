"""Sampling with conditions: every sample is denoised under its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.diffusion.trajectories import collect
from pqbench.testing.conditional import TinyConditional, TinyLabelled, TinyText

WORKLOADS = [TinyLabelled(), TinyText()]


def run_alone(workload: TinyConditional, x_T: Tensor, condition: tuple[Tensor, ...]) -> list[Tensor]:
    """The states of one image's run, written down from DDIM's eq. 12 with sigma_t = 0 in float64."""
    net, abar = workload.denoiser(), workload.schedule().alphas_cumprod
    timesteps = workload.timesteps(workload.steps).tolist()
    states = [x_T]
    for t, after in zip(timesteps, [*timesteps[1:], -1], strict=True):
        x = states[-1]
        with torch.no_grad():
            epsilon = net(x, torch.tensor([t]), *condition).double()
        a, b = abar[t], abar[after] if after >= 0 else torch.ones((), dtype=torch.float64)
        x_0 = (x.double() - (1 - a).sqrt() * epsilon) / a.sqrt()
        states.append((b.sqrt() * x_0 + (1 - b).sqrt() * epsilon).float())
    return states


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_each_image_of_a_batch_is_made_under_its_own_condition(workload: TinyConditional) -> None:
    x_T, condition = initial_noise(0, range(3), workload.shape), workload.condition(0, range(3))
    timesteps = workload.timesteps(workload.steps)
    together = ddim_sample(workload.denoiser(), workload.schedule(), timesteps, x_T, condition=condition)
    for i in range(3):
        alone = run_alone(workload, x_T[i : i + 1], workload.condition(0, [i]))
        torch.testing.assert_close(together[i : i + 1], alone[-1], rtol=1e-3, atol=1e-4)
    swapped = run_alone(workload, x_T[:1], tuple(each[1:2] for each in condition))
    assert float((swapped[-1] - together[:1]).norm() / together[:1].norm()) > 0.01


@pytest.mark.parametrize("batch", [64, 2])
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda w: w.name)
def test_a_collected_state_is_that_of_the_run_under_its_own_condition(workload: TinyConditional, batch: int) -> None:
    positions, condition = torch.tensor([1, 3, 0, 2, 3]), workload.condition(7, range(5), "trial")
    found = collect(
        workload.denoiser(), workload.schedule(), workload.timesteps(workload.steps), positions,
        seed=7, purpose="trial", shape=workload.shape, condition=condition, batch=batch,
    )  # fmt: skip
    for i, position in enumerate(positions.tolist()):
        x_T = initial_noise(7, [i], workload.shape, "trial")
        states = run_alone(workload, x_T, workload.condition(7, [i], "trial"))
        torch.testing.assert_close(found[i : i + 1], states[position], rtol=1e-3, atol=1e-4)
