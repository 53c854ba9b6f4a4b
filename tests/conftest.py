"""Settings that all tests share."""

from __future__ import annotations

from hypothesis import settings

# No deadline: the first call into torch is slow. Derandomised: a commit fails or passes, whoever runs it.
settings.register_profile("pqbench", deadline=None, derandomize=True)
settings.load_profile("pqbench")
