"""One plugin's fault is that plugin's failure, and nothing else's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pqbench.base.errors import UserError
from pqbench.components import Failure, Registry, blocked_names

Install = Callable[..., Path]


def registry(folder: Path, blocked: frozenset[str] = frozenset()) -> Registry:
    return Registry.discover(folder, blocked)


def only_failure(found: Registry) -> Failure:
    mine = [failure for failure in found.failures() if failure.distribution.startswith(("broken", "local"))]
    assert len(mine) == 1
    return mine[0]


def test_a_plugin_is_found_with_its_provenance(install: Install, tmp_path: Path) -> None:
    install("good-plugin", method="good", version="2.3")
    found = registry(tmp_path).find("method", "good")
    assert str(found.provenance) == "good-plugin 2.3"
    assert found.component.summary == "for a test"
    assert found.qualified_name == "good-plugin:good"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import a_module_that_nobody_has", "ModuleNotFoundError: No module named 'a_module_that_nobody_has'"),
        ("raise RuntimeError('no GPU here')", "RuntimeError: no GPU here"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
        ("def (", "SyntaxError"),
        ("import torch", "no hook"),
        (
            """
            from pqbench import hookimpl
            @hookimpl
            def pqbench_methods():
                raise ValueError("broken inside")
            """,
            "ValueError: broken inside",
        ),
        (
            """
            from pqbench import hookimpl
            @hookimpl
            def pqbench_methods():
                return 3
            """,
            "must return a list of classes",
        ),
        (
            """
            from pqbench import hookimpl
            @hookimpl
            def pqbench_methods(registry):
                return []
            """,
            "registry",
        ),
        (
            """
            from pqbench import hookimpl
            @hookimpl
            def pqbench_quantisers():
                return []
            """,
            "pqbench_quantisers is no hook. Did you mean pqbench_quantizers?",
        ),
        (
            """
            def pqbench_method():
                return []
            """,
            "pqbench_method is no hook. Did you mean pqbench_methods?",
        ),
        (
            """
            from pqbench import hookimpl
            @hookimpl
            def methods():
                return []
            """,
            "methods is no hook. Did you mean pqbench_methods?",
        ),
        (
            """
            def pqbench_methods():
                return []
            """,
            "not marked as a hook",
        ),
    ],
)
def test_a_broken_plugin_says_why_and_the_others_load(install: Install, tmp_path: Path, code: str, reason: str) -> None:
    install("broken-plugin", code, version="0.9")
    install("good-plugin", method="good")
    found = registry(tmp_path)
    assert found.get("method", "good").name == "good"
    failure = only_failure(found)
    assert (failure.entry_point, failure.distribution, failure.version) == ("plug", "broken-plugin", "0.9")
    assert reason in failure.error
    assert "\n" not in failure.error


def test_a_failure_names_the_file_and_the_line(install: Install, tmp_path: Path) -> None:
    file = install("broken-plugin", "\n\nraise RuntimeError('here')")
    assert f"({file}, line 3)" in only_failure(registry(tmp_path)).error


def test_two_distributions_with_one_entry_point_name_are_both_seen(install: Install, tmp_path: Path) -> None:
    install("first-plugin", method="one", entry_point="same")
    install("second-plugin", method="two", entry_point="same")
    found = registry(tmp_path)
    assert found.get("method", "one") is not found.get("method", "two")


def test_one_name_of_two_distributions_is_an_error_that_says_how_to_choose(install: Install, tmp_path: Path) -> None:
    install("first-plugin", method="same")
    install("second-plugin", method="same", version="4.0")
    found = registry(tmp_path)
    with pytest.raises(UserError, match=r"first-plugin 1\.0 and second-plugin 4\.0.*first-plugin:same or second-pl"):
        found.get("method", "same")
    assert found.find("method", "second-plugin:same").provenance.version == "4.0"
    assert found.find("method", "First_Plugin:same").provenance.version == "1.0"


def test_one_name_twice_in_one_distribution_is_a_failure(install: Install, tmp_path: Path) -> None:
    install(
        "broken-plugin",
        """
        from pqbench import hookimpl
        from pqbench.contracts import Method

        class First(Method):
            name = "same"

        class Second(Method):
            name = "same"

        @hookimpl
        def pqbench_methods():
            return [First, Second]
        """,
    )
    found = registry(tmp_path)
    assert "registered twice" in only_failure(found).error
    assert found.get("method", "same").__name__ == "First"


def test_the_file_beside_the_run_is_the_distribution_local(install: Install, tmp_path: Path) -> None:
    shutil.move(install("moved-plugin", method="mine"), tmp_path / "pqbench_plugins.py")
    assert registry(tmp_path).find("method", "local:mine").provenance.distribution == "local"


def test_a_broken_local_file_is_a_failure(site: Path, tmp_path: Path) -> None:
    (tmp_path / "pqbench_plugins.py").write_text("1 / 0")
    assert "ZeroDivisionError" in only_failure(registry(tmp_path)).error


@pytest.mark.parametrize("name", ["plug", "good-plugin", "Good_Plugin"])
def test_a_blocked_plugin_is_not_even_imported(install: Install, tmp_path: Path, name: str) -> None:
    install("good-plugin", "raise SystemError('imported')")
    found = registry(tmp_path, blocked_names([f"no:{name}"]))
    assert not [failure for failure in found.failures() if failure.distribution == "good-plugin"]


@pytest.mark.parametrize("option", ["rtn", "no:", "yes:rtn"])
def test_an_option_that_blocks_nothing_is_refused(option: str) -> None:
    with pytest.raises(UserError, match="write -p no:NAME"):
        blocked_names([option])
