"""The two-step target against DDIM steps in float64 and against diffusers' own scheduler."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pqbench.base.errors import UserError
from pqbench.contracts.schedule import PREDICTIONS, NoiseSchedule, trailing_timesteps
from pqbench.diffusion.ddim import ddim_step
from pqbench.diffusion.merged import merged_prediction
from pqbench.distillation.targets import in_batches, student_samples, student_timesteps

SCHEDULE = NoiseSchedule.linear(1000, 1e-4, 0.02)
TEACHER = trailing_timesteps(1000, 20)


def net(x: Tensor, t: Tensor) -> Tensor:
    """Something nonlinear that depends on both arguments and keeps the type."""
    return torch.tanh(x * (1 + t.to(x.dtype) / 1000).view(-1, 1, 1, 1)) + 0.1


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """One sample at every step of the student, the last pair (to clean data) among them."""
    t = student_timesteps(TEACHER)
    return torch.randn(len(t), 2, 4, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype), t


def by_hand(x: Tensor, t: int, t_next: int) -> Tensor:
    """Song et al. (2021), eq. 12, through the predicted x_0, in float64."""
    abar = SCHEDULE.alphas_cumprod
    here, there = abar[t], abar[t_next] if t_next >= 0 else torch.tensor(1.0, dtype=torch.float64)
    epsilon = net(x, torch.tensor([t]))
    x_0 = (x - (1 - here).sqrt() * epsilon) / here.sqrt()
    return there.sqrt() * x_0 + (1 - there).sqrt() * epsilon


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_one_step_with_the_target_lands_where_two_teacher_steps_land(dtype: torch.dtype, tolerance: float) -> None:
    x, t = inputs(dtype)
    epsilon = merged_prediction(net, SCHEDULE, TEACHER, x, t)
    assert epsilon.dtype == dtype
    visited = [*TEACHER.tolist(), -1]
    for i, now in enumerate(t.tolist()):
        middle, end = visited[2 * i + 1], visited[2 * i + 2]
        landing = by_hand(by_hand(x[i : i + 1].double(), now, middle), middle, end)
        student = ddim_step(SCHEDULE, x[i : i + 1], epsilon[i : i + 1], t[i : i + 1], torch.tensor([end]))
        torch.testing.assert_close(student.double(), landing, rtol=tolerance, atol=tolerance)


def test_the_landing_is_that_of_diffusers_stepping_twice() -> None:
    scheduler = DDIMScheduler(
        1000, 1e-4, 0.02, "linear", clip_sample=False, set_alpha_to_one=True, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(20)
    assert scheduler.timesteps.tolist() == TEACHER.tolist()
    x, t = inputs()
    epsilon = merged_prediction(net, SCHEDULE, TEACHER, x, t)
    ends = [*t.tolist()[1:], -1]
    for i, (now, end) in enumerate(zip(t.tolist(), ends, strict=True)):
        landing = x[i : i + 1]
        for step in TEACHER.tolist()[2 * i : 2 * i + 2]:
            landing = scheduler.step(net(landing, torch.tensor([step])), step, landing).prev_sample
        student = ddim_step(SCHEDULE, x[i : i + 1], epsilon[i : i + 1], torch.tensor([now]), torch.tensor([end]))
        torch.testing.assert_close(student, landing, rtol=2e-4, atol=2e-4)


@settings(max_examples=60)
@given(
    prediction=st.sampled_from(PREDICTIONS),
    pair=st.integers(0, 2),
    halvings=st.integers(1, 2),
    steps=st.sampled_from([4, 8, 20, 40]),
    seed=st.integers(0, 99),
)
def test_one_student_step_lands_exactly_where_the_teachers_land(
    prediction: str, pair: int, halvings: int, steps: int, seed: int
) -> None:
    """For every prediction, in float64, against diffusers taking the teacher's steps one by one."""
    run, merged = trailing_timesteps(1000, steps), 2**halvings
    visited = student_timesteps(run, halvings)
    pair %= len(visited)
    t, end = visited[pair : pair + 1], torch.cat([visited, torch.tensor([-1])])[pair + 1 : pair + 2]
    x = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    target = merged_prediction(net, SCHEDULE, run, x, t, merged=merged, prediction=prediction)
    student = ddim_step(SCHEDULE, x, target, t, end, prediction)
    torch.testing.assert_close(student, landing(prediction, run, x, pair * merged, merged), rtol=1e-9, atol=1e-9)


def landing(prediction: str, run: Tensor, x: Tensor, first: int, merged: int) -> Tensor:
    names = {"epsilon": "epsilon", "v": "v_prediction", "x": "sample"}
    scheduler = DDIMScheduler(1000, clip_sample=False, timestep_spacing="trailing", prediction_type=names[prediction])
    scheduler.alphas_cumprod = SCHEDULE.alphas_cumprod
    scheduler.final_alpha_cumprod = torch.ones((), dtype=torch.float64)
    scheduler.set_timesteps(len(run))
    for t in run.tolist()[first : first + merged]:
        x = scheduler.step(net(x, torch.tensor([t])), t, x).prev_sample
    return x


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_of_one_step_the_target_is_what_the_net_predicts(prediction: str) -> None:
    x, _ = inputs()
    t = TEACHER[1::2]
    assert torch.equal(merged_prediction(net, SCHEDULE, TEACHER, x, t, merged=1, prediction=prediction), net(x, t))


def test_a_teacher_that_is_right_about_the_noise_is_its_own_target() -> None:
    """Along x_t = a x_0 + s epsilon with constant epsilon, two steps and one land at the same point."""
    x, t = inputs(torch.float64)
    constant = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = merged_prediction(lambda x, t: constant, SCHEDULE, TEACHER, x, t)
    torch.testing.assert_close(found, constant, rtol=1e-9, atol=1e-9)


@given(half=st.integers(1, 500))
def test_the_student_visits_every_second_step_of_the_teacher(half: int) -> None:
    teacher = torch.arange(2 * half).flip(0)
    student = student_timesteps(teacher)
    assert len(student) == half
    assert student.tolist() == teacher.tolist()[::2]


@pytest.mark.parametrize("steps", [4, 8, 20, 40, 100])
def test_its_steps_are_those_of_a_run_with_half_the_steps(steps: int) -> None:
    nested = student_timesteps(trailing_timesteps(1000, steps))
    assert torch.equal(nested, trailing_timesteps(1000, steps // 2))


@pytest.mark.parametrize("steps", [1, 5, 25])
def test_a_step_count_that_cannot_be_halved_is_refused(steps: int) -> None:
    teacher = trailing_timesteps(1000, steps)
    with pytest.raises(UserError, match=f"{steps} sampling steps cannot be halved: give it an even number"):
        student_timesteps(teacher)
    with pytest.raises(UserError, match="cannot be merged by 2: it needs a multiple of 2"):
        merged_prediction(net, SCHEDULE, teacher, torch.zeros(1, 1, 2, 2), teacher[:1])


@pytest.mark.parametrize(("steps", "halvings", "needed"), [(6, 2, 4), (2, 2, 4), (20, 3, 8)])
def test_a_step_count_that_cannot_be_halved_so_often_is_refused(steps: int, halvings: int, needed: int) -> None:
    sentence = (
        f"{steps} sampling steps cannot be halved {halvings} times: give it a multiple of {needed}, or ask for fewer"
    )
    with pytest.raises(UserError, match=sentence):
        student_timesteps(torch.arange(steps).flip(0), halvings)


def test_a_student_learns_at_the_steps_that_it_visits_alone() -> None:
    t = torch.cat([TEACHER, TEACHER.flip(0)])
    for halvings, stride in ((0, 1), (1, 2), (2, 4)):
        index = student_samples(TEACHER, t, halvings)
        assert sorted(t[index].tolist()) == sorted(TEACHER.tolist()[::stride] * 2)
        assert index.tolist() == sorted(index.tolist())


def test_a_set_of_another_step_count_is_refused() -> None:
    with pytest.raises(UserError, match=r"time step 989, which the teacher's 20 steps never visit.*draw it again"):
        student_samples(TEACHER, trailing_timesteps(1000, 100))


def test_a_set_that_leaves_out_a_step_of_the_student_is_refused() -> None:
    with pytest.raises(UserError, match=r"no sample at 2 of the 10 steps .*the first is 199.*draw more samples"):
        student_samples(TEACHER, TEACHER[:-4])


@pytest.mark.parametrize("t", [int(TEACHER[1]), 0, 998])
def test_a_time_step_that_the_student_never_visits_is_refused(t: int) -> None:
    with pytest.raises(UserError, match=r"never visits.*its 10 steps"):
        merged_prediction(net, SCHEDULE, TEACHER, torch.zeros(2, 1, 2, 2), torch.tensor([int(TEACHER[0]), t]))


def test_batches_change_nothing_and_report_how_far_they_are() -> None:
    x, t = inputs()
    seen: list[int] = []
    found = in_batches(lambda x, t: net(x, t), x, t, 4, seen.append)
    assert torch.equal(found, net(x, t))
    assert seen == [4, 8, 10]
