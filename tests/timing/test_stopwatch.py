from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pqbench.timing import stopwatch
from pqbench.timing.machine import OtherWork, device_alone
from pqbench.timing.memory import PeakMemory, process_peak, resident
from pqbench.timing.spec import BatchTimes, CallTimes
from pqbench.timing.steadiness import is_noisy
from pqbench.timing.stopwatch import MIN_RUNS, Timing, time_calls

MIB = 2**20


@given(st.lists(st.floats(1e-6, 10), min_size=1, max_size=60))
def test_the_statistics_are_numpys(runs: list[float]) -> None:
    timing = Timing(1.0, tuple(runs))
    assert timing.median == pytest.approx(np.median(runs))
    assert timing.p95 == pytest.approx(np.percentile(runs, 95, method="inverted_cdf"))


class Clock:
    """Stands in for the clock and for work: what takes time only moves it forward."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(stopwatch, "perf_counter", lambda: self.now)

    def work(self, seconds: float) -> None:
        self.now += seconds


def test_the_first_call_is_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, spans = Clock(monkeypatch), iter([0.05])
    timing = time_calls(lambda: clock.work(next(spans, 0.001)), 0.1)
    assert timing.first == pytest.approx(0.05)
    assert timing.runs == pytest.approx([0.001] * len(timing.runs))


def test_a_slow_call_is_timed_often_enough_and_a_fast_one_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    assert len(time_calls(lambda: clock.work(0.02), 0.001).runs) == MIN_RUNS
    start = clock.now
    assert len(time_calls(lambda: clock.work(0.001), 0.2).runs) > 100
    assert clock.now - start < 0.25


def test_two_timings_of_one_device_never_overlap() -> None:
    device, held = f"test-{os.getpid()}", threading.Event()

    def second() -> None:
        # A lock belongs to an opened file, so two threads exclude each other just as two processes do.
        with device_alone(device):
            held.set()

    thread = threading.Thread(target=second)
    with device_alone(device), device_alone(f"{device}-other"):
        thread.start()
        assert not held.wait(0.2)
    assert held.wait(30)
    thread.join()


def test_our_own_work_is_not_others() -> None:
    others = OtherWork()
    until = time.perf_counter() + 0.3
    while time.perf_counter() < until:
        sum(range(1000))
    assert 0 <= others.share() <= 1


def test_the_peak_is_seen_after_the_memory_was_freed_and_only_from_the_watch_on() -> None:
    before = torch.ones(64 * MIB // 4)
    del before
    watch = PeakMemory(torch.device("cpu"))
    start = resident()
    block = torch.ones(48 * MIB // 4)
    del block
    peak = watch.read()
    if peak.window == "process":
        pytest.skip("this kernel does not let a process reset its peak")
    assert 40 * MIB < peak.bytes - start < 60 * MIB
    assert process_peak() >= peak.bytes - MIB


@pytest.mark.parametrize(
    ("other_work", "p95", "noisy"), [(0.0, 1.2, False), (0.5, 1.2, True), (0.0, 3.0, True), (0.05, 1.0, False)]
)
def test_noise_is_flagged(other_work: float, p95: float, noisy: bool) -> None:
    calls = CallTimes(first=2, median=1, p95=p95, runs=10)
    times = BatchTimes(
        batch=1, compile_seconds=1, step=calls, sampling=calls, layer_precisions={}, other_work=other_work
    )
    assert is_noisy(times, calls, steps=1) is noisy


@pytest.mark.parametrize(
    ("speeds", "noisy"),
    [((1.0, 1.0, 1.0), False), ((1.0, 1.04, 1.02), False), ((1.0, 1.0, 1.1), True), ((1.1, 1.0, 1.0), True)],
)
def test_runs_whose_thirds_differ_by_more_than_five_percent_are_noise(
    speeds: tuple[float, float, float], noisy: bool
) -> None:
    """A machine that changes its speed once: no tail, and each third is as steady as can be."""
    jitter = (0.99, 1.0, 1.01, 1.0, 0.99, 1.01, 1.0)
    timing = Timing(first=1.0, runs=tuple(speed * each for speed in speeds for each in jitter))
    assert timing.thirds == speeds
    calls = CallTimes(first=1, median=timing.median, p95=timing.p95, runs=len(timing.runs), thirds=timing.thirds)
    times = BatchTimes(batch=1, compile_seconds=1, step=calls, sampling=calls, layer_precisions={}, other_work=0.0)
    assert is_noisy(times, calls, steps=1) is noisy


@pytest.mark.parametrize("count", range(3, 12))
def test_thirds_hold_all_runs(count: int) -> None:
    first, middle, last = Timing(first=0.0, runs=tuple(map(float, range(count)))).thirds
    assert 0 <= first < middle < last <= count - 1
    assert middle == (count - 1) / 2


@pytest.mark.parametrize(("run", "noisy"), [(22.0, False), (44.0, True), (11.0, True)])
def test_runs_that_do_not_take_what_their_steps_take_are_noise(run: float, noisy: bool) -> None:
    """All runs equally slow have no tail: 20 steps of 1 s must take about 20 s."""
    step, sampling = (CallTimes(first=t, median=t, p95=t, runs=10) for t in (1.0, run))
    times = BatchTimes(batch=1, compile_seconds=1, step=step, sampling=sampling, layer_precisions={}, other_work=0.0)
    assert is_noisy(times, sampling, steps=20) is noisy
