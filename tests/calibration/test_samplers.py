"""The built-in calibration samplers: their time steps against the distributions they claim, and what they hand over."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pqbench.base.errors import UserError
from pqbench.calibration.interval import Interval, interval_levels
from pqbench.calibration.ndtc import Ndtc, normal_levels
from pqbench.calibration.uniform import Uniform
from pqbench.contracts import CalibrationSampler, Context, Precision
from pqbench.diffusion.ddim import ddim_sample
from pqbench.diffusion.noise import initial_noise
from pqbench.testing.tiny import TinyWorkload

SAMPLERS = [Ndtc(samples=12), Ndtc(samples=12, preset="text"), Uniform(samples=12), Interval(samples=12, every=2)]


def context(steps: int = 20, seed: int = 0) -> Context:
    return Context(TinyWorkload(), Precision(4, 4), steps, seed)


def clamped_normal(steps: int, mean: float, std: float) -> np.ndarray:
    """Probabilities of floor(N(mean, std)) clamped to the levels 0 ... steps - 1."""
    cuts = stats.norm.cdf(np.arange(1, steps), mean, std)
    return np.diff(np.concatenate([[0.0], cuts, [1.0]]))


@pytest.mark.parametrize("steps", [20, 250])
@pytest.mark.parametrize("preset", ["script", "text"])
def test_ndtc_levels_follow_the_clamped_normal_distribution(preset: str, steps: int) -> None:
    mean, std = Ndtc(preset=preset).moments(steps)
    assert mean == pytest.approx(0.4 * steps)
    assert std == pytest.approx({"script": 0.4 * steps, "text": (steps / 2) ** 0.5}[preset])
    count = 40_000
    drawn = normal_levels(count, steps, mean, std, torch.Generator().manual_seed(1))
    expected = count * clamped_normal(steps, mean, std)
    observed = torch.bincount(drawn, minlength=steps).double().numpy()
    likely = expected >= 5
    rest = [observed[~likely].sum()], [expected[~likely].sum()]
    seen = np.concatenate([observed[likely], rest[0]]) if rest[1][0] > 0 else observed[likely]
    hoped = np.concatenate([expected[likely], rest[1]]) if rest[1][0] > 0 else expected[likely]
    assert stats.chisquare(seen + 1e-9, hoped + 1e-9, sum_check=False).pvalue > 1e-3


def test_the_mean_can_be_moved_up_to_half_of_the_run() -> None:
    assert Ndtc(mean=0.5, preset="text").moments(100) == (50.0, pytest.approx(50**0.5))


def test_a_level_near_the_clean_end_is_a_late_step_with_a_small_time_step() -> None:
    """The released code stores the reversed label; here x_t and t belong together."""
    calibration = Ndtc(samples=40).sample(context())
    timesteps = context().timesteps()
    workload = TinyWorkload()
    for i in (0, 7, 31):
        seen = {}
        noise = initial_noise(0, [i], workload.shape, "calibration/ndtc")
        ddim_sample(
            workload.denoiser(),
            workload.schedule(),
            timesteps,
            noise,
            visit=lambda k, x, seen=seen: seen.update({int(timesteps[k]): x.clone()}),
        )
        torch.testing.assert_close(calibration.x_t[i], seen[int(calibration.t[i])][0], rtol=1e-3, atol=1e-4)
    late = calibration.t < 500
    assert late.float().mean() > 0.5


@pytest.mark.parametrize("sampler", SAMPLERS, ids=lambda s: s.name)
def test_a_set_is_complete_and_a_function_of_the_seed(sampler: CalibrationSampler) -> None:
    job = context()
    made, again, other = sampler.sample(job), sampler.sample(context()), sampler.sample(context(seed=1))
    assert made.x_t.shape == (12, 3, 8, 8)
    assert made.x_t.dtype == torch.float32
    assert set(made.t.tolist()) <= set(job.timesteps().tolist())
    assert made.workload == TinyWorkload().fingerprint()
    assert made.digest == again.digest != other.digest
    assert made.facts["sampler"] == sampler.name


def test_the_record_says_which_preset_ran() -> None:
    facts = Ndtc(samples=4, preset="text").sample(context()).facts
    assert facts == {"sampler": "ndtc", "preset": "text", "mean": "8.0", "std": str(10**0.5), "steps": "20"}


def test_samplers_do_not_share_noise() -> None:
    first = [sampler.sample(context(steps=1)).x_t[0] for sampler in (Ndtc(samples=1), Uniform(samples=1))]
    assert not torch.equal(*first)
    assert not torch.equal(first[0], initial_noise(0, [0], (3, 8, 8))[0])


def test_uniform_levels_are_uniform() -> None:
    drawn = Uniform(samples=1000).sample(context(steps=5)).t
    assert stats.chisquare(drawn.unique(return_counts=True)[1]).pvalue > 1e-3


@settings(max_examples=50)
@given(st.integers(1, 300), st.integers(1, 60), st.integers(1, 70))
def test_interval_levels_are_evenly_spaced_and_evenly_dealt(count: int, steps: int, every: int) -> None:
    tally = Counter(interval_levels(count, steps, every).tolist())
    allowed = [level for level in range(steps) if (steps - 1 - level) % every == 0]
    assert set(tally) <= set(allowed)
    counts = [tally[level] for level in allowed]
    assert max(counts) - min(counts) <= 1


def test_an_interval_longer_than_the_run_is_refused() -> None:
    with pytest.raises(UserError, match="every=20 leaves only the first of 20"):
        Interval(samples=2, every=20).sample(context())


def test_naming_the_samplers_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    code = "import sys, pqbench.calibration; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
