"""Budgets: named presets of how much work a run spends on measuring. Components have their own defaults per budget."""

from __future__ import annotations

from dataclasses import dataclass

from pqbench.contracts.parameters import Budget


@dataclass(frozen=True)
class Preset:
    """How much is measured.

    images             sampled and scored for each cell
    sampling_batch     images that go through the denoiser together (part of the protocol: it decides rounding)
    timing_seconds     longest time spent on one latency figure, in all processes together
    timing_processes   in which each is measured, one after the other
    throughput_batch   the batch of the throughput figure, beside batch 1
    resamples          of the bootstrap
    """

    images: int
    sampling_batch: int
    timing_seconds: float
    throughput_batch: int
    resamples: int
    timing_processes: int = 3

    def __str__(self) -> str:
        return (
            f"{self.images} images a cell in batches of {self.sampling_batch}, {self.resamples} bootstrap resamples, "
            f"at most {self.timing_seconds:g} s a latency figure in {self.timing_processes} processes, "
            f"batches 1 and {self.throughput_batch}"
        )


PRESETS: dict[Budget, Preset] = {
    "quick": Preset(images=1024, sampling_batch=64, timing_seconds=1.5, throughput_batch=16, resamples=200),
    "standard": Preset(images=5000, sampling_batch=64, timing_seconds=5.0, throughput_batch=16, resamples=500),
    "full": Preset(images=50_000, sampling_batch=64, timing_seconds=20.0, throughput_batch=16, resamples=1000),
}
