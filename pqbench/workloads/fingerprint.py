"""Hashes that say whether two workloads make the same images."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor

from pqbench.contracts.schedule import NoiseSchedule


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, shapes, types and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype};".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def model_fingerprint(weights_sha256: str, schedule: NoiseSchedule, sampler: str) -> str:
    """sha256 over everything that decides what a model samples: its weights, its schedule, its sampler."""
    schedule_sha256 = tensors_sha256({"alphas_cumprod": schedule.alphas_cumprod})
    return hashlib.sha256(f"{weights_sha256}/{schedule_sha256}/{sampler}".encode()).hexdigest()
