from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Install = Callable[..., Path]

METHOD = """
from pqbench import hookimpl
from pqbench.contracts import Method

class Named(Method):
    name = "{name}"
    summary = "for a test"

@hookimpl
def pqbench_methods():
    return [Named]
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder of packages on `sys.path`; what is imported from it is forgotten afterwards."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def install(site: Path) -> Install:
    """Write one module, with the given code or one method, and the metadata that offers it as a plugin."""

    def write(
        distribution: str, code: str = "", *, method: str = "", entry_point: str = "plug", version: str = "1.0"
    ) -> Path:
        module = distribution.replace("-", "_")
        file = site / f"{module}.py"
        file.write_text(textwrap.dedent(code or METHOD.format(name=method)))
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[pqbench]\n{entry_point} = {module}\n")
        return file

    return write
