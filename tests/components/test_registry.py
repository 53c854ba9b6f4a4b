from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pqbench.base.errors import UserError
from pqbench.components import Registry
from pqbench.components.sources import Source

Install = Callable[..., Path]


def test_an_unknown_name_answers_with_the_nearest_all_names_and_their_origins(install: Install, tmp_path: Path) -> None:
    install("good-plugin", method="gridwalker")
    install("broken-plugin", "raise RuntimeError('half installed')")
    with pytest.raises(UserError) as error:
        Registry.discover(tmp_path).get("method", "gridwalkr")
    assert "Did you mean gridwalker?" in str(error.value)
    assert "gridwalker (good-plugin 1.0)" in str(error.value)
    assert "half installed" in str(error.value)


def test_a_built_in_is_found_before_plugins_are_loaded() -> None:
    def sources() -> list[Source]:
        raise AssertionError("plugins were loaded")

    registry = Registry(sources)
    assert registry.get("workload", "tiny").name == "tiny"
    assert registry.get("workload", "pqbench:tiny") is registry.get("workload", "tiny")


def test_a_built_in_that_cannot_be_imported_is_a_failure_and_an_error() -> None:
    registry = Registry(lambda: (), {"engine": {"gone": "pqbench.engines.gone:Gone"}})
    with pytest.raises(UserError, match="The built-in engine gone cannot be imported"):
        registry.get("engine", "gone")
    assert [failure.entry_point for failure in registry.failures()] == ["gone"]
    assert registry.components() == ()


def test_the_source_hash_follows_the_code_and_not_its_place(install: Install, tmp_path: Path, site: Path) -> None:
    install("good-plugin", method="good")
    first = Registry.discover(tmp_path).find("method", "good").provenance.source_hash
    assert Registry.discover(tmp_path).find("method", "good").provenance.source_hash == first
    file = site / "good_plugin.py"
    file.write_text(file.read_text() + "\n# edited\n")
    assert Registry.discover(tmp_path).find("method", "good").provenance.source_hash != first


def test_the_registry_and_the_hook_marker_import_no_torch() -> None:
    code = "import sys, pqbench.components; from pqbench import hookimpl; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
