"""Settings that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from clip_files import ClipFiles, put_in_place
from hypothesis import settings
from inception_files import InceptionFiles

# No deadline: the first call into torch is slow. Derandomised: a commit fails or passes, whoever runs it.
settings.register_profile("pqbench", deadline=None, derandomize=True)
settings.load_profile("pqbench")


def pytest_configure(config: pytest.Config) -> None:
    """Workers of pytest-xdist share the cores, so each has one thread: they inherit the variable when they start."""
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def inception_files(tmp_path_factory: pytest.TempPathFactory) -> InceptionFiles:
    """Made once: it takes seconds."""
    from pqbench.testing.inception import random_inception, write_state_dict, write_torchscript

    folder = tmp_path_factory.mktemp("inception")
    files = InceptionFiles(folder / "weights-inception-2015-12-05-6726825d.pth", folder / "inception-2015-12-05.pt")
    net = random_inception()
    write_state_dict(net, files.state)
    write_torchscript(net, files.script)
    return files


@pytest.fixture(scope="session")
def tiny_clip_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TorchScript of the small CLIP, made once."""
    from pqbench.testing.clip import TINY_NAME, declare_tiny, random_clip, write_torchscript

    folder = tmp_path_factory.mktemp("clip")
    declare_tiny(folder)
    write_torchscript(random_clip(TINY_NAME), folder / "tiny.pt")
    return folder / "tiny.pt"


@pytest.fixture
def clip_files(tiny_clip_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ClipFiles:
    """The small CLIP in the place of the net ViT-B-32, in a folder of weights of its own."""
    return put_in_place(tiny_clip_weights, tmp_path / "weights", monkeypatch)
