"""Settings that all tests share."""

from __future__ import annotations

import pytest
from hypothesis import settings
from inception_files import InceptionFiles

# No deadline: the first call into torch is slow. Derandomised: a commit fails or passes, whoever runs it.
settings.register_profile("pqbench", deadline=None, derandomize=True)
settings.load_profile("pqbench")


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
