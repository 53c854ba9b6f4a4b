"""Global random numbers that depend on a stage alone, whatever ran before it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def repeatable(key: str) -> Iterator[None]:
    """Seed the global generators of Python, NumPy and torch from a stage's key; put them back afterwards.

    Components draw from their context's generators. Libraries below them may not, and then a run that goes on after a
    kill would differ from one that was never interrupted.
    """
    python, numpy, seed = random.getstate(), np.random.get_state(), int(key[:8], 16)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
