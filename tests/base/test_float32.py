"""No product of float32 in TF32 while a stage works, and torch's setting afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pqbench.base.errors import UserError
from pqbench.run.execution.execute import costed
from pqbench.run.execution.failures import CellError


def settings() -> tuple[bool, bool]:
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.fixture(params=[(True, False), (True, True), (False, False)])
def chosen(request: pytest.FixtureRequest) -> Iterator[tuple[bool, bool]]:
    """What somebody has set before."""
    before = settings()
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = request.param
    yield request.param
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def test_a_stage_works_in_float32_and_leaves_the_setting(chosen: tuple[bool, bool], tmp_path: Path) -> None:
    with costed("features", "0123456789", tmp_path):
        assert settings() == (False, False)
    assert settings() == chosen


def test_a_stage_that_fails_leaves_the_setting_too(chosen: tuple[bool, bool], tmp_path: Path) -> None:
    with pytest.raises(CellError), costed("features", "0123456789", tmp_path):
        raise UserError("It does not work.")
    assert settings() == chosen
