"""A component leaves the process as it found it: the next cell runs in the same one."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from pqbench.testing.checks.expect import expect

_STATES: Mapping[str, Callable[[], Any]] = {
    "torch's gradient mode": torch.is_grad_enabled,
    "torch's inference mode": torch.is_inference_mode_enabled,
    "torch's default dtype": torch.get_default_dtype,
    "torch's default device": lambda: str(torch.get_default_device()),
    "torch's number of threads": torch.get_num_threads,
    "torch's deterministic mode": lambda: (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    ),
    "torch's anomaly mode": torch.is_anomaly_enabled,
    "torch's random state (draw from context.generator instead)": lambda: torch.get_rng_state().numpy().tobytes(),
    "NumPy's random state (draw from context.generator instead)": lambda: repr(np.random.get_state()),
    "Python's random state (draw from context.generator instead)": random.getstate,
}


@contextmanager
def no_leaked_globals() -> Iterator[None]:
    """Raise `ContractError` when the body changes a global setting or draws from a global random generator."""
    before = {name: read() for name, read in _STATES.items()}
    yield
    changed = [name for name, read in _STATES.items() if read() != before[name]]
    expect(not changed, f"It changed {' and '.join(changed)}, and everything that runs after it with that.")
