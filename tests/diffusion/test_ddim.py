from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.base.torchvision_shim import declare_missing_operators
from pqbench.contracts.schedule import PREDICTIONS, NoiseSchedule, trailing_timesteps
from pqbench.diffusion.ddim import ddim_sample, ddim_step, successors
from pqbench.diffusion.noise import initial_noise
from pqbench.testing.tiny import TinyWorkload

BETAS = (1000, 1e-4, 0.02)


def smooth_net(x: Tensor, t: Tensor) -> Tensor:
    """Stands for a denoiser: bounded, depends on x and t, in whatever precision it is given."""
    return torch.sin(1.3 * x + t.view(-1, 1, 1, 1) / 500)


def ddim_scheduler(prediction_type: str) -> Any:
    """An independent implementation of the sampler."""
    declare_missing_operators()
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        num_train_timesteps=BETAS[0],
        beta_start=BETAS[1],
        beta_end=BETAS[2],
        beta_schedule="linear",
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        prediction_type=prediction_type,
    )


def diffusers_trajectory(steps: int, x: Tensor) -> list[Tensor]:
    """The same run by diffusers."""
    scheduler = ddim_scheduler("epsilon")
    scheduler.set_timesteps(steps)
    states = [x]
    for t in scheduler.timesteps:
        x = scheduler.step(smooth_net(x, t.expand(len(x))), t, x, eta=0.0).prev_sample
        states.append(x)
    return states


@pytest.mark.parametrize("steps", [1, 2, 10, 20, 50, 1000])
def test_trajectories_are_those_of_diffusers(steps: int) -> None:
    schedule, timesteps = NoiseSchedule.linear(*BETAS), trailing_timesteps(BETAS[0], steps)
    start = initial_noise(0, range(3), (2, 4, 4))
    states: list[Tensor] = []
    final = ddim_sample(smooth_net, schedule, timesteps, start, visit=lambda _k, x: states.append(x.clone()))
    expected = diffusers_trajectory(steps, start)
    assert len(states) == steps
    # diffusers keeps abar in float32 and goes through the predicted x_0, where 1/sqrt(abar_T) = 158 amplifies rounding.
    for ours, theirs in zip([*states, final], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-3)


def test_one_step_is_equation_12_in_float64() -> None:
    schedule = NoiseSchedule.linear(*BETAS)
    x, epsilon = torch.randn(2, 4, 1, 1, 1, dtype=torch.float64).unbind(0)
    t, t_next = torch.tensor([999, 500, 49, 49]), torch.tensor([949, 0, -1, 49])
    alphas = torch.cat([schedule.alphas_cumprod, torch.ones(1, dtype=torch.float64)])
    now, after = alphas[t].view(4, 1, 1, 1), alphas[t_next].view(4, 1, 1, 1)
    x_0 = (x - (1 - now).sqrt() * epsilon) / now.sqrt()
    expected = after.sqrt() * x_0 + (1 - after).sqrt() * epsilon
    torch.testing.assert_close(ddim_step(schedule, x, epsilon, t, t_next), expected, rtol=1e-11, atol=1e-11)


def converted(prediction: str, x: Tensor, epsilon: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    """The same belief about x_t as another prediction, by its definition."""
    x_0 = (x - sigma * epsilon) / signal
    return {"epsilon": epsilon, "v": signal * epsilon - sigma * x_0, "x": x_0}[prediction]


@given(
    prediction=st.sampled_from(PREDICTIONS), t=st.integers(0, 999), earlier=st.integers(1, 1000), seed=st.integers(0, 9)
)
def test_what_a_net_predicts_does_not_change_where_a_step_lands(
    prediction: str, t: int, earlier: int, seed: int
) -> None:
    schedule = NoiseSchedule.linear(*BETAS)
    now, after = torch.tensor([t]), torch.tensor([max(t - earlier, -1)])
    x, epsilon = torch.randn(2, 1, 2, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    x, epsilon = x[None], epsilon[None]
    predicted = converted(prediction, x, epsilon, schedule.signal(now), schedule.sigma(now))
    expected = ddim_step(schedule, x, epsilon, now, after)
    torch.testing.assert_close(
        ddim_step(schedule, x, predicted, now, after, prediction), expected, rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("steps", [1, 10, 50])
@pytest.mark.parametrize(("prediction", "theirs"), [("epsilon", "epsilon"), ("v", "v_prediction"), ("x", "sample")])
def test_trajectories_of_every_prediction_are_those_of_diffusers_in_float64(
    prediction: str, theirs: str, steps: int
) -> None:
    """diffusers works in float64 too once its table is; what differs then is rounding."""
    scheduler = ddim_scheduler(theirs)
    scheduler.alphas_cumprod = NoiseSchedule.linear(*BETAS).alphas_cumprod
    scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(steps)
    start = initial_noise(0, range(3), (2, 4, 4)).double()
    expected = start
    for t in scheduler.timesteps:
        expected = scheduler.step(smooth_net(expected, t.expand(3)), t, expected, eta=0.0).prev_sample
    found = ddim_sample(
        smooth_net,
        NoiseSchedule.linear(*BETAS),
        trailing_timesteps(BETAS[0], steps),
        start,
        prediction=prediction,
    )
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_another_prediction_is_refused() -> None:
    with pytest.raises(UserError, match=r"cannot predict 'score': a workload's prediction is one of epsilon, v, x\."):
        ddim_sample(
            smooth_net, NoiseSchedule.linear(*BETAS), torch.tensor([999]), torch.zeros(1, 1, 2, 2), None, "score"
        )


def test_a_net_that_knows_the_image_recovers_it_in_any_number_of_steps() -> None:
    schedule = NoiseSchedule.linear(*BETAS)
    image = torch.randn(2, 3, 4, 4, dtype=torch.float64)

    def oracle(x: Tensor, t: Tensor) -> Tensor:
        return (x - schedule.signal(t).view(-1, 1, 1, 1) * image) / schedule.sigma(t).view(-1, 1, 1, 1)

    for steps in (1, 4, 100):
        noise = torch.randn(2, 3, 4, 4, dtype=torch.float64)
        result = ddim_sample(oracle, schedule, trailing_timesteps(1000, steps), noise)
        torch.testing.assert_close(result, image, rtol=1e-9, atol=1e-9)


def test_half_the_steps_visit_every_second_time_step() -> None:
    full, half = trailing_timesteps(1000, 20), trailing_timesteps(1000, 10)
    assert torch.equal(half, full[::2])
    assert full[0] == 999
    assert successors(full)[-1] == -1


@pytest.mark.parametrize("steps", [0, -1, 3, 1001])
def test_steps_that_do_not_divide_are_refused(steps: int) -> None:
    with pytest.raises(UserError, match="do not divide the 1000 training steps"):
        trailing_timesteps(1000, steps)


def test_an_images_noise_depends_on_its_index_alone() -> None:
    whole = initial_noise(7, range(10), (3, 8, 8))
    assert torch.equal(initial_noise(7, [6, 2], (3, 8, 8)), whole[[6, 2]])
    assert len({noise.numpy().tobytes() for noise in whole}) == 10
    for other in (initial_noise(8, range(10), (3, 8, 8)), initial_noise(7, range(10), (3, 8, 8), "acceptance")):
        assert not torch.equal(other[0], whole[0])


def test_images_do_not_depend_on_their_batch() -> None:
    workload = TinyWorkload()
    net, schedule, timesteps = workload.denoiser(), workload.schedule(), workload.timesteps(4)
    together = ddim_sample(net, schedule, timesteps, initial_noise(0, range(6), workload.shape))
    alone = ddim_sample(net, schedule, timesteps, initial_noise(0, [4], workload.shape))
    torch.testing.assert_close(alone[0], together[4], rtol=1e-4, atol=1e-5)
