"""The training loop: what it minimises, where it stops, and what is left when it diverges."""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pqbench.base.errors import UserError
from pqbench.distillation.parameter_groups import parameter_groups
from pqbench.quantization.learning.tuning import settle, tunable_layers, tune
from pqbench.quantization.net.layers import QuantizedLayer
from pqbench.quantization.net.verify import verify
from pqbench.quantization.ranges.rules import minmax, rows
from pqbench.training.batches import ShuffledBatches
from pqbench.training.loop import Training, train

GENTLE = Training(iterations=120, batch=8, weight_lr=0.05, step_lr=0.01, other_lr=0.01)


class Student(nn.Module):
    """Two quantized convolutions around a normalisation in full precision."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 2, 3, padding=1)
        self.norm = nn.GroupNorm(2, 8)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        result: Tensor = self.two(self.norm(self.one(x)) * (1 + t.view(-1, 1, 1, 1) / 1000))
        return result


def student(w_bits: int = 4, a_bits: int = 4, symmetric: bool = False) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = Student()
    for name in ("one", "two"):
        layer = QuantizedLayer(net.get_submodule(name), w_bits, a_bits, a_symmetric=symmetric)
        if layer.grid is not None:
            layer.freeze(layer.weight, *minmax(rows(layer.weight, True), layer.grid))
        if layer.activation.grid is not None:
            layer.activation.set(*layer.activation.grid.parameters(torch.tensor(-3.0), torch.tensor(3.0)))
        setattr(net, name, layer)
    return net.eval()


def data() -> tuple[Tensor, Tensor, Tensor]:
    """x_t, t, target: the target is a smooth function that the student can come nearer to."""
    generator = torch.Generator().manual_seed(1)
    x, t = torch.randn(32, 2, 6, 6, generator=generator), torch.randint(0, 1000, (32,), generator=generator)
    return x, t, 0.5 * x + 0.1


def run(net: nn.Module, training: Training = GENTLE, **changed: Tensor) -> list[float]:
    """Train a tuned net; the smoothed loss of every iteration."""
    x, t, target = data()
    values = {"x_t": x, "t": t, "target": target} | changed
    curve: list[float] = []
    train(
        net,
        parameter_groups(net, training),
        **values,
        training=training,
        generator=torch.Generator().manual_seed(2),
        report=lambda iteration, loss: curve.append(loss),
    )
    return curve


def error(net: nn.Module) -> float:
    x, t, target = data()
    with torch.no_grad():
        return float((net(x, t) - target).square().mean())


def state(net: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in net.named_parameters()}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("bits", [(4, 4), (4, 32), (32, 4), (32, 32)])
def test_the_student_comes_nearer_to_its_targets(bits: tuple[int, int], symmetric: bool) -> None:
    net = student(*bits, symmetric=symmetric)
    before = error(net)
    tune(net)
    curve = run(net)
    assert len(curve) == GENTLE.iterations
    after = error(settle(net))
    assert after < 0.7 * before
    verify(net)


def test_the_student_is_on_its_grids_at_every_iteration() -> None:
    net = student(w_bits=3)
    tune(net)
    x, t, target = data()

    def look(iteration: int, loss: float) -> None:
        for _, layer in tunable_layers(net):
            step = layer.weight_step().detach().view(-1, 1, 1, 1)
            codes = layer.quantized_weight().detach() / step
            torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-4)
            assert codes.min() >= -4.001
            assert codes.max() <= 3.001
            assert len(layer.quantized_input(x if layer.weight.shape[1] == 2 else target).unique()) <= 16

    training = Training(iterations=20, batch=8, weight_lr=0.3, step_lr=0.05, other_lr=0.05)
    train(net, parameter_groups(net, training), x, t, target, training, torch.Generator().manual_seed(2), look)


def test_all_that_is_left_is_the_trained_net() -> None:
    net = student()
    tune(net)
    run(net)
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


def test_the_same_generator_gives_the_same_student() -> None:
    nets = [student(), student()]
    for net in nets:
        tune(net)
        run(net)
    first, second = (state(net) for net in nets)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("rate", ["weight_lr", "step_lr", "other_lr"])
def test_each_learning_rate_moves_its_own_parameters_only(rate: str) -> None:
    net = student()
    made = tune(net)
    for layer in made.values():
        layer.weight.data.mul_(1.03)  # off the grid points, where no weight pulls at its step size
        layer.input_scale = layer.input_scale / 4  # a range that clips, which pulls at the zero-point
    before = state(net)
    rates = {"weight_lr": 0.0, "step_lr": 0.0, "other_lr": 0.0, rate: 0.01}
    run(net, Training(iterations=10, batch=8, **rates))
    moved = {name for name, value in state(net).items() if not torch.equal(value, before[name])}
    expected = {
        "weight_lr": {"one.weight", "two.weight"},
        "step_lr": {f"{layer}.{part}" for layer in made for part in ("weight_theta", "input_theta", "input_zero")},
        "other_lr": {"one.bias", "two.bias", "norm.weight", "norm.bias"},
    }
    assert moved == expected[rate]


def test_every_trained_parameter_is_in_one_group() -> None:
    net = student()
    tune(net)
    listed = Counter(id(p) for group in parameter_groups(net, GENTLE) for p in group["params"])  # type: ignore[attr-defined]
    assert listed == Counter(id(p) for p in net.parameters())


@given(iterations=st.integers(1, 5000), warmup=st.floats(0, 1))
def test_the_rate_warms_up_and_falls_to_zero(iterations: int, warmup: float) -> None:
    training = Training(iterations, 1, 0.1, 0.1, 0.1, warmup=warmup)
    rates = [training.rate(k) for k in range(iterations)]
    assert all(0 <= rate <= 1 for rate in rates)
    assert rates[0] > 0
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_a_diverged_student_is_given_back_its_last_good_state() -> None:
    net = student()
    tune(net)
    with pytest.raises(UserError, match="diverged") as caught:
        run(net, Training(iterations=200, batch=8, weight_lr=1e4, step_lr=0.0, other_lr=1e4))
    message = str(caught.value)
    assert "of 200" in message
    assert "lower weight_lr or step_lr" in message
    assert "last good state, that of iteration" in message
    assert all(bool(torch.isfinite(parameter).all()) for parameter in net.parameters())
    good = error(net)
    settle(net)
    verify(net)
    # No worse than the student that was handed in: the state with the lowest loss that was seen.
    assert good <= 1.05 * error(student())
    assert error(net) == pytest.approx(good, rel=1e-4)


def test_samples_of_very_different_losses_are_no_divergence() -> None:
    """At rates of 0 nothing can diverge, however easy the first sample happens to be."""
    net = student(32, 32)
    tune(net)
    still = Training(iterations=64, batch=1, weight_lr=0.0, step_lr=0.0, other_lr=0.0)
    x, t, target = data()
    with torch.no_grad():
        target[1:], target[0] = net(x, t)[1:] + 0.5, net(x, t)[0] + 1e-4
    for seed in range(8):
        train(
            net, parameter_groups(net, still), x, t, target, still, torch.Generator().manual_seed(seed), lambda *_: None
        )


def test_nan_before_any_training_is_not_put_down_to_the_rates() -> None:
    net = student()
    tune(net)
    x, t, target = data()
    with pytest.raises(UserError, match="is nan before any training: look for NaN in the calibration set"):
        train(
            net,
            parameter_groups(net, GENTLE),
            x * math.nan,
            t,
            target,
            GENTLE,
            torch.Generator().manual_seed(2),
            lambda *_: None,
        )


@pytest.mark.parametrize("iteration", [1, 7])
def test_nan_in_a_loss_stops_the_training_at_once(iteration: int) -> None:
    class Breaks(Student):
        calls = 0

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            self.calls += 1
            return super().forward(x, t) * (math.nan if self.calls > iteration else 1.0)

    net = student()
    net.__class__ = Breaks
    tune(net)
    seen: list[int] = []
    x, t, target = data()
    with pytest.raises(UserError, match=f"at iteration {iteration} of 120 "):
        train(
            net,
            parameter_groups(net, GENTLE),
            x,
            t,
            target,
            GENTLE,
            torch.Generator().manual_seed(2),
            lambda k, loss: seen.append(k),
        )
    assert seen == list(range(1, iteration + 1))
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in net.parameters())


def test_nan_after_the_last_loss_is_found() -> None:
    """A gradient that is NaN although the loss is finite breaks the last step, and no loss comes after it."""

    class Trap(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, *gradients: Tensor) -> Tensor:
            return gradients[0] * math.nan

    class Breaks(Student):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            result: Tensor = Trap.apply(super().forward(x, t))  # type: ignore[no-untyped-call]
            return result

    net = student()
    net.__class__ = Breaks
    tune(net)
    before = state(net)
    with pytest.raises(UserError, match="NaN in its parameters"):
        run(net, Training(iterations=1, batch=8, weight_lr=0.1, step_lr=0.1, other_lr=0.1))
    assert all(torch.equal(value, before[name]) for name, value in state(net).items())


@given(count=st.integers(1, 30), batch=st.integers(1, 40), seed=st.integers(0, 5))
def test_every_sample_comes_once_before_any_comes_again(count: int, batch: int, seed: int) -> None:
    batches = list(islice(ShuffledBatches(count, batch, torch.Generator().manual_seed(seed)), 12))
    assert {len(part) for part in batches} == {min(count, batch)}
    order = torch.cat(batches).tolist()
    for first in range(0, len(order) - count + 1, count):
        assert sorted(order[first : first + count]) == list(range(count))
