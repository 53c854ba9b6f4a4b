"""Fixtures of runs of the plugins in `bench_plugins`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from bench_runs import PLUGINS, Bench

from pqbench.components import Registry


@pytest.fixture(scope="session")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the test's methods as its `pqbench_plugins.py`."""
    folder = tmp_path_factory.mktemp("plugins")
    shutil.copy(PLUGINS, folder / "pqbench_plugins.py")
    return folder


@pytest.fixture(scope="module")
def registry(plugins: Path) -> Registry:
    """One for each module: type hints are looked up in the module of local plugins that was loaded last."""
    return Registry.discover(plugins)


@pytest.fixture
def bench(tmp_path: Path, registry: Registry) -> Bench:
    return Bench(tmp_path, registry)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Small nets are fastest on one thread, and other threads cannot reorder their sums."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
