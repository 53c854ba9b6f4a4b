"""Distillation of conditional nets: targets and training take each sample with its own condition."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.merged import merged_prediction
from pqbench.distillation.parameter_groups import parameter_groups
from pqbench.distillation.targets import in_batches
from pqbench.testing.conditional import TinyText
from pqbench.training.loop import Training, train

WORKLOAD = TinyText()
TEACHER = WORKLOAD.timesteps(4)
COUNT = 5


def samples() -> tuple[Tensor, ...]:
    x_t = torch.randn(COUNT, *WORKLOAD.shape, generator=torch.Generator().manual_seed(0))
    return x_t, TEACHER[torch.tensor([0, 2, 0, 2, 2])], *WORKLOAD.condition(0, range(COUNT))


def test_one_step_on_the_target_lands_where_two_of_the_teacher_do() -> None:
    net, (x_t, t, *condition) = WORKLOAD.denoiser(), samples()
    schedule = WORKLOAD.schedule()
    targets = in_batches(
        lambda x, s, *c: merged_prediction(net, schedule, TEACHER, x, s, *c), x_t, t, 2, lambda done: None, condition
    )
    for i, start in enumerate(t.tolist()):
        place = TEACHER.tolist().index(start)
        # The rest of the teacher's run from here, of which the state after two steps counts.
        states: list[Tensor] = []
        ddim_sample(
            net, schedule, TEACHER[place:], x_t[i : i + 1], lambda _, x, kept=states: kept.append(x.clone()),
            condition=[each[i : i + 1] for each in condition],
        )  # fmt: skip
        end = ddim_sample(net, schedule, TEACHER[place:], x_t[i : i + 1], condition=[c[i : i + 1] for c in condition])
        landed = [*states, end][2]
        a, s = schedule.signal(t[i]), schedule.sigma(t[i])
        after = TEACHER[place + 2] if place + 2 < len(TEACHER) else torch.tensor(-1)
        x_0 = (x_t[i].double() - s * targets[i].double()) / a
        reached = schedule.signal(after) * x_0 + schedule.sigma(after) * targets[i].double()
        torch.testing.assert_close(reached, landed[0].double(), rtol=1e-3, atol=1e-4)


class Labelled(nn.Module):
    """Answers with a value of its own for each label."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(3))

    def forward(self, x_t: Tensor, _t: Tensor, labels: Tensor) -> Tensor:
        return torch.zeros_like(x_t) + self.values[labels].view(-1, 1, 1, 1)


def test_a_student_learns_what_depends_on_the_condition_alone() -> None:
    labels = torch.tensor([0, 1, 2, 2, 1, 0, 1])
    target = torch.tensor([-1.0, 0.5, 2.0])[labels].view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    x_t, t, net = torch.zeros(7, 1, 2, 2), torch.zeros(7, dtype=torch.int64), Labelled()
    training = Training(iterations=400, batch=3, weight_lr=0.0, step_lr=0.0, other_lr=0.1)
    generator = torch.Generator().manual_seed(0)
    train(
        net, parameter_groups(net, training), x_t, t, target, training, generator, lambda *_: None, condition=[labels]
    )
    torch.testing.assert_close(net.values.detach(), torch.tensor([-1.0, 0.5, 2.0]), rtol=0, atol=0.02)


def test_targets_under_other_conditions_are_others() -> None:
    net, (x_t, t, condition) = WORKLOAD.denoiser(), samples()
    both = condition, condition.flip(0)
    one, other = (merged_prediction(net, WORKLOAD.schedule(), TEACHER, x_t, t, each) for each in both)
    assert not torch.allclose(one[0], other[0], rtol=1e-3)
    assert torch.equal(one[2], other[2])  # the middle one stays where it is
