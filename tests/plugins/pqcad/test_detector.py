"""The momentum detector as a small unit: when it fires, and when it must not."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pqbench_pqcad.detector import MomentumDetector, Reason
from pqbench_pqcad.progressive import ProgressiveQuantizer

from pqbench.contracts.parameters import resolve

SETTINGS = {"beta": 0.9, "tau": 0.02, "patience": 2, "interval": 5, "minimum": 20, "budget": 200}
QUICK = {"beta": 0.5, "tau": 0.05, "patience": 1, "interval": 2, "minimum": 4, "budget": 200}
"""Those of the budget `quick`, with a budget that is out of the way."""

losses = st.lists(st.floats(1e-3, 1e3), min_size=40, max_size=40)


def run(losses: Iterable[float], **changed: float) -> tuple[Reason, int]:
    """Feed losses until the detector fires; its reason and the iteration, or ("", how many it was given)."""
    detector = MomentumDetector(**{**SETTINGS, **changed})  # type: ignore[arg-type]
    for loss in losses:
        if reason := detector.update(loss):
            return reason, detector.iterations
    return "", detector.iterations


@given(level=st.floats(1e-6, 1e6), patience=st.integers(1, 5), interval=st.integers(1, 10))
def test_a_constant_loss_is_a_plateau_as_soon_as_the_checks_allow(level: float, patience: int, interval: int) -> None:
    reason, iteration = run([level] * 200, patience=patience, interval=interval, minimum=1)
    assert reason == "plateau"
    # The first check has nothing to compare with.
    assert iteration == (patience + 1) * interval


@given(start=st.floats(0.1, 100), floor=st.floats(0.1, 10), rate=st.floats(0.8, 0.95))
def test_it_fires_once_a_decay_has_reached_its_floor(start: float, floor: float, rate: float) -> None:
    reason, iteration = run((floor + start * rate**k for k in range(400)), budget=400)
    assert reason == "plateau"
    # Over an interval the excess of M shrinks by 15 % or more: at tau = 2 % it is then less than 16 % of the floor.
    assert floor + start * rate ** (iteration - 1) < 1.16 * floor


@given(rate=st.floats(0.9, 0.985), level=st.floats(1e-3, 1e3))
def test_a_loss_that_falls_by_more_than_tau_between_checks_never_fires_early(rate: float, level: float) -> None:
    # Over an interval of 5, M falls by at least 1 - 0.985^5 = 7 %.
    assert run(level * rate**k for k in range(200)) == ("budget", 200)


@given(rate=st.floats(0.8, 0.95), level=st.floats(1e-3, 1e3))
def test_nor_does_it_with_the_few_iterations_of_the_budget_quick(rate: float, level: float) -> None:
    # Over an interval of 2 the loss falls by at least 9.7 %; M, which lags behind, by 5 % from its second check on.
    assert run((level * rate**k for k in range(200)), **QUICK) == ("budget", 200)


@given(losses=losses, settling=st.integers(0, 30))
def test_checks_while_it_settles_do_not_count(losses: list[float], settling: int) -> None:
    """Whatever the losses were until then: the first check after it has nothing to compare with."""
    _, iteration = run(losses, tau=1.0, patience=1, interval=1, minimum=1, budget=41, settling=settling)
    assert iteration >= settling + 2


def test_the_parameters_of_quick_are_those_that_are_tested_here() -> None:
    found = resolve(ProgressiveQuantizer, {}, "quick")
    assert {name: found[name] for name in QUICK if name != "budget"} == {
        k: v for k, v in QUICK.items() if k != "budget"
    }


@given(noise=st.lists(st.floats(-1, 1), min_size=400, max_size=400))
def test_noise_does_not_look_like_a_plateau_while_the_trend_falls(noise: list[float]) -> None:
    """Noise within +-a moves M by at most 2 a (1 - beta^interval) between checks; the trend moves it by more."""
    amplitude, slope, interval, beta = 0.1, 0.05, 10, 0.9
    swing = 2 * amplitude * (1 - beta**interval)
    level = 1 + 400 * slope
    assert slope * interval - swing > 0.01 * level  # what a quiet check allows: tau of the largest M
    losses = [level - slope * k + amplitude * noise[k] for k in range(400)]
    # The minimum lets the start-up of M pass, in which it lags behind the trend more with every loss.
    reason, iteration = run(losses, tau=0.01, interval=interval, minimum=80, budget=400)
    assert (reason, iteration) == ("budget", 400)


@given(losses=losses, minimum=st.integers(1, 40))
def test_it_never_fires_before_its_minimum(losses: list[float], minimum: int) -> None:
    reason, iteration = run(losses, tau=1.0, patience=1, interval=1, minimum=minimum, budget=41)
    assert not reason or iteration >= minimum


@given(losses=losses, budget=st.integers(1, 40), tau=st.floats(0, 1))
def test_a_minimum_as_large_as_the_budget_leaves_the_budget_alone_to_decide(
    losses: list[float], budget: int, tau: float
) -> None:
    """How the ablation runs without the detector."""
    assert run(losses, tau=tau, patience=1, interval=1, minimum=budget, budget=budget) == ("budget", budget)


@given(losses=losses, budget=st.integers(1, 40), minimum=st.integers(1, 100), tau=st.floats(0, 1))
def test_it_fires_at_its_budget_at_the_latest(losses: list[float], budget: int, minimum: int, tau: float) -> None:
    reason, iteration = run(losses, tau=tau, minimum=minimum, budget=budget)
    assert reason
    assert iteration <= budget
    assert (reason == "budget") == (iteration == budget)


@given(losses=losses)
def test_without_tolerance_a_changing_loss_spends_its_budget(losses: list[float]) -> None:
    rising = [loss + 2e3 * k for k, loss in enumerate(losses)]  # so that M changes between any two checks
    assert run(rising, tau=0.0, budget=40) == ("budget", 40)


@given(losses=losses, power=st.integers(-40, 40), tau=st.floats(0, 0.5), beta=st.floats(0, 0.99))
def test_the_scale_of_the_loss_does_not_matter(losses: list[float], power: int, tau: float, beta: float) -> None:
    # Powers of two scale floats without rounding.
    scaled = [math.ldexp(loss, power) for loss in losses]
    assert run(losses, tau=tau, beta=beta, budget=40) == run(scaled, tau=tau, beta=beta, budget=40)


@given(losses=losses, beta=st.floats(0, 0.99))
def test_momentum_follows_the_published_recurrence(losses: list[float], beta: float) -> None:
    detector = MomentumDetector(**{**SETTINGS, "beta": beta})  # type: ignore[arg-type]
    for loss in losses:
        detector.update(loss)
    count = len(losses)
    weights = [(1 - beta) * beta ** (count - 1 - k) for k in range(count)]
    expected = math.fsum(w * loss for w, loss in zip(weights, losses, strict=True))
    assert detector.momentum == pytest.approx(expected, rel=1e-9)
    assert detector.level == pytest.approx(expected / math.fsum(weights), rel=1e-6)


def test_nan_spends_the_budget() -> None:
    assert run([math.nan] * 200, tau=1.0) == ("budget", 200)


def test_checks_come_at_the_interval() -> None:
    detector = MomentumDetector(**SETTINGS)  # type: ignore[arg-type]
    seen = []
    for k in range(20):
        detector.update(1.0 / (k + 1))
        seen.append(detector.checked)
    assert [k + 1 for k, checked in enumerate(seen) if checked] == [5, 10, 15, 20]
