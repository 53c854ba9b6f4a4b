from __future__ import annotations

from collections.abc import Iterator

import pytest
from weight_server import Served, serving

CONTENT = bytes(range(256)) * 4000


@pytest.fixture
def served() -> Iterator[Served]:
    """A server of about a megabyte."""
    with serving(CONTENT) as server:
        yield server
