"""The prompts of the images of a text workload."""

from __future__ import annotations

from collections.abc import Sequence

from pqbench.base.errors import UserError
from pqbench.contracts.workload import Workload
from pqbench.results.hashing import digest


def prompts_of(workload: Workload, seed: int, n: int) -> tuple[str, ...]:
    """Those of images 0 ... n - 1. Raises `UserError` when the workload does not give one for each."""
    prompts = tuple(workload.prompts(seed, range(n)))
    if len(prompts) != n:
        raise UserError(f"The workload {workload.name} gives {len(prompts)} prompts for {n} images: it needs as many.")
    return prompts


def prompts_sha256(workload: Workload, seeds: Sequence[int], n: int) -> str:
    """Hash of the prompts of all seeds, in order. Raises `UserError` as `prompts_of` does."""
    return texts_sha256([prompts_of(workload, seed, n) for seed in seeds])


def texts_sha256(prompts: Sequence[Sequence[str]]) -> str:
    """Hash of prompts, those of each seed by themselves."""
    return digest([list(texts) for texts in prompts])
