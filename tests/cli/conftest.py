"""What tests of commands share."""

from __future__ import annotations

import shutil
from pathlib import Path

import bench_plugins
import pytest


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the test's plugins, as a user has them beside a run."""
    folder = tmp_path_factory.mktemp("here")
    shutil.copy(Path(bench_plugins.__file__), folder / "pqbench_plugins.py")
    return folder
