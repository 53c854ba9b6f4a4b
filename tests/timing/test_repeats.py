"""Several processes become one figure, and a slow one among them is noticed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pqbench.base.errors import UserError
from pqbench.results.records import Metric
from pqbench.timing import measure as timing
from pqbench.timing.measure import TimingSpec, measure
from pqbench.timing.metrics import metrics_of
from pqbench.timing.repeats import (
    by_batch,
    combined_batch,
    combined_calls,
    combined_energy,
    waited,
)
from pqbench.timing.spec import (
    BatchTimes,
    CallTimes,
    EnergyUse,
    MemoryUse,
    ParityStep,
    ParityUse,
    TimingResult,
)
from pqbench.timing.steadiness import agree, is_unsteady, spread
from pqbench.timing.stopwatch import Timing

seconds = st.floats(min_value=1e-6, max_value=1e3)
processes = st.lists(st.lists(seconds, min_size=1, max_size=30), min_size=1, max_size=5)

SPEC = TimingSpec(workload="tiny", checkpoint="x", engine="torch", steps=1, batches=(4,), threads=1)
IMAGE, STEP = "latency_ms_per_image@torch/4", "latency_ms_per_step@torch/4"
ENERGY = "energy_joules_per_image@torch/4"


def calls(runs: list[float], first: float = 1.0) -> CallTimes:
    timing = Timing(first, tuple(runs))
    return CallTimes(first=first, median=timing.median, p95=timing.p95, runs=len(runs), thirds=timing.thirds)


def times(speed: float = 0.01, **fields: Any) -> BatchTimes:
    """A process that was steady throughout."""
    steady = calls([speed] * 9, first=2 * speed)
    given = {"batch": 4, "compile_seconds": 1.0, "step": steady, "sampling": steady, "layer_precisions": {}}
    return BatchTimes(**{**given, "other_work": 0.0, **fields})


def result(speed: float = 0.01, peak: int = 10**8, **fields: Any) -> TimingResult:
    memory = MemoryUse(batch=4, peak=peak, window="run", baseline=peak // 2, loading_peak=2 * peak)
    return TimingResult(machine="64 x Test", memory=memory, batches=(times(speed, **fields),))


def figures(*results: TimingResult) -> dict[str, Metric]:
    return metrics_of(SPEC.model_copy(update={"processes": len(results)}), results)


@given(processes)
def test_a_process_counts_once_however_many_runs_it_made(runs: list[list[float]]) -> None:
    combined = combined_calls([calls(each) for each in runs])
    assert combined.median == pytest.approx(np.median([np.median(each) for each in runs]))
    assert combined.runs == sum(map(len, runs))
    thrice = combined_calls([calls(each * 3) for each in runs[:1]] + [calls(each) for each in runs[1:]])
    assert thrice.median == pytest.approx(combined.median)


@given(processes)
def test_at_least_95_percent_of_all_runs_are_within_the_95th_percentile(runs: list[list[float]]) -> None:
    combined = combined_calls([calls(each) for each in runs])
    pooled = np.concatenate(runs)
    assert np.mean(pooled <= combined.p95) >= 0.95
    assert combined.median <= combined.p95 <= max(pooled)


@given(st.lists(seconds, min_size=3, max_size=7), st.floats(min_value=1, max_value=100), st.randoms())
def test_one_process_of_three_or_more_cannot_leave_the_range_of_the_others(
    medians: list[float], slower: float, random: Any
) -> None:
    others = medians[1:]
    outlier = max(medians) * slower
    mixed = [outlier, *others]
    random.shuffle(mixed)
    assert min(others) <= combined_calls([calls([each]) for each in mixed]).median <= max(others)


@given(processes, st.randoms())
def test_the_order_of_processes_does_not_matter(runs: list[list[float]], random: Any) -> None:
    shuffled = random.sample(runs, len(runs))
    assert combined_calls([calls(each) for each in runs]) == combined_calls([calls(each) for each in shuffled])


def test_first_calls_are_each_those_of_a_fresh_process() -> None:
    assert combined_calls([calls([1.0], first) for first in (9.0, 3.0, 4.0)]).first == 4.0


@given(st.lists(seconds, max_size=6), st.floats(min_value=0.01, max_value=100))
def test_the_spread_has_no_unit(values: list[float], unit: float) -> None:
    assert spread(values) >= 1
    assert spread([unit * each for each in values]) == pytest.approx(spread(values))


@pytest.mark.parametrize(
    ("speeds", "unsteady"),
    [
        ((1.0, 1.0, 1.0), False),
        ((1.0, 1.04, 1.02), False),
        ((1.0, 1.0, 1.06), True),
        ((1.84, 0.99, 0.98), True),
        ((1.0,), False),
    ],
)
def test_processes_that_are_more_than_five_percent_apart_are_noise(speeds: tuple[float, ...], unsteady: bool) -> None:
    """Each is as steady as can be, and other processes did nothing: only their disagreement says it."""
    repeated = [times(speed) for speed in speeds]
    assert is_unsteady(repeated, "sampling", 1) is unsteady
    assert is_unsteady(repeated, "step", 1) is unsteady
    assert agree(speeds) is not unsteady


def test_the_kinds_of_calls_are_judged_apart() -> None:
    repeated = [times(), times(), times(step=calls([0.012] * 9))]
    assert is_unsteady(repeated, "step", 1)
    assert not is_unsteady(repeated, "sampling", 1)


def test_a_process_that_was_disturbed_makes_all_noise() -> None:
    assert is_unsteady([times(), times(other_cores=1.0), times()], "sampling", 1)
    drifting = times(sampling=calls([0.01] * 3 + [0.0102] * 3 + [0.0107] * 3))
    assert is_unsteady([times(), times(), drifting], "sampling", 1)


def test_a_slow_process_makes_the_record_noisy_and_leaves_its_value() -> None:
    quiet, slow = figures(result(), result(), result()), figures(result(), result(0.0184), result())
    for name, milliseconds in ((IMAGE, 2.5), (STEP, 10.0)):
        assert quiet[name].value == slow[name].value == pytest.approx(milliseconds)
        assert not quiet[name].detail["noisy"]
        assert slow[name].detail["noisy"]
        values = [each["value"] for each in slow[name].detail["processes"]]
        assert values == pytest.approx([milliseconds, 1.84 * milliseconds, milliseconds])


def test_what_others_did_is_that_of_the_worst_process_and_waiting_adds_up() -> None:
    combined = combined_batch(
        [
            times(other_work=0.1, other_cores=0.2, waited=3.0, compile_seconds=9.0, other_processes=("a", "b")),
            times(other_work=0.3, other_cores=0.6, waited=0.0, compile_seconds=1.0, other_processes=("b", "c")),
        ]
    )
    assert (combined.other_work, combined.other_cores, combined.waited) == (0.3, 0.6, 3.0)
    assert combined.other_processes == ("a", "b", "c")
    assert combined.compile_seconds == 9.0  # the second one may have found what the first one compiled


def test_waiting_is_that_of_the_batch_size_that_waited_longest() -> None:
    both = [
        TimingResult(batches=(times(batch=4, waited=first), times(batch=1, waited=second)))
        for first, second in ((1.0, 2.0), (5.0, 2.0))
    ]
    assert [[each.batch for each in repeated] for repeated in by_batch(both)] == [[4, 4], [1, 1]]
    assert waited(both) == 6.0
    assert waited([]) == 0.0


def test_memory_is_the_highest_peak_with_the_figures_of_its_process() -> None:
    metric = figures(result(peak=100), result(peak=104), result(peak=102))["peak_memory_bytes"]
    assert (metric.value, metric.n, metric.detail["baseline"]) == (104, 3, 52)
    assert [each["value"] for each in metric.detail["processes"]] == [100, 104, 102]


def used(joules: float) -> EnergyUse:
    return EnergyUse(joules=joules, runs=10, counters=("package-0",))


def test_energy_is_the_median_of_the_processes_that_could_read_it() -> None:
    assert combined_energy([]) is None
    found = figures(result(energy=used(1.5)), result(energy=None), result(energy=used(1.52)), result(energy=used(1.6)))
    energy = found[ENERGY]
    assert (energy.value, energy.n) == (1.52, 30)
    assert energy.detail["noisy"]
    assert not figures(*(result(energy=used(each)) for each in (1.5, 1.52, 1.54)))[ENERGY].detail["noisy"]
    disturbed = figures(*(result(energy=used(1.5), other_cores=cores) for cores in (0.0, 0.9)))
    assert disturbed[ENERGY].detail["noisy"]


def test_the_number_of_processes_is_part_of_a_protocol() -> None:
    one, three = figures(result()), figures(result(), result(), result())
    for name in (IMAGE, STEP, "peak_memory_bytes"):
        assert one[name].protocol != three[name].protocol
        assert three[name].detail["protocol"]["processes"] == 3


def rejected() -> TimingResult:
    step = ParityStep(t=1, difference=0.9, engine_to_fp=0.9, simulation_to_fp=0.1)
    return result().model_copy(update={"parity": ParityUse(images=1, steps=(step,))})


class Processes:
    """Answers in place of timing processes, and what each was asked for."""

    def __init__(self, *answers: TimingResult) -> None:
        self.answers = iter(answers)
        self.asked: list[TimingSpec] = []

    def __call__(self, spec: TimingSpec, folder: object) -> TimingResult:
        self.asked.append(spec)
        return next(self.answers)


def measured(monkeypatch: pytest.MonkeyPatch, *answers: TimingResult, exclusive: float = 0.0) -> Processes:
    fake = Processes(*answers)
    monkeypatch.setattr(timing, "_run_child", fake)
    monkeypatch.setattr(timing, "_is_simulated", lambda spec: False)
    measure(SPEC.model_copy(update={"exclusive": exclusive}))
    return fake


def test_a_cell_is_measured_in_three_processes_and_parity_in_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = measured(monkeypatch, result(), result(), result()).asked
    assert [(spec.turn, spec.processes) for spec in asked] == [(0, 3), (1, 3), (2, 3)]


def test_all_processes_together_wait_no_longer_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = (result(waited=20.0), result(waited=45.0), result())
    asked = measured(monkeypatch, *answers, exclusive=60.0).asked
    assert [spec.exclusive for spec in asked] == [60.0, 40.0, 0.0]


def test_a_model_that_gets_no_latency_is_not_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(measured(monkeypatch, rejected()).asked) == 1


def test_a_later_process_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="It is gone"):
        measured(monkeypatch, result(), TimingResult(error="It is gone."))
