"""The public packages: what plugins may import, and that all of it is there."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PUBLIC = (
    "pqbench.contracts",
    "pqbench.diffusion",
    "pqbench.distillation",
    "pqbench.quantization",
    "pqbench.testing",
)
MODULES = sorted(
    path for kind in ("baselines", "plugins") for path in (ROOT / kind).rglob("*.py") if "build" not in path.parts
)


def imports(source: str) -> Iterator[tuple[str, str]]:
    """Every (module, name) that a source imports from pqbench; the name of a plain `import` is empty."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((each.name, "") for each in node.names if each.name.partition(".")[0] == "pqbench")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "pqbench":
            yield from ((str(node.module), each.name) for each in node.names)


def private_imports(source: str) -> list[tuple[str, str]]:
    """Those imports that the public API does not offer."""
    return [
        (module, name)
        for module, name in imports(source)
        if (module, name) != ("pqbench", "hookimpl")
        and not (module in PUBLIC and name in importlib.import_module(module).__all__)
    ]


def test_there_are_modules_to_look_at() -> None:
    assert len(MODULES) > 20


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_plugins_import_the_public_api_only(path: Path) -> None:
    assert private_imports(path.read_text()) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pqbench",
        "import pqbench.quantization.net",
        "from pqbench import contracts",
        "from pqbench.quantization import net",
        "from pqbench.quantization.grids.grid import Grid",
        "from pqbench.contracts.method import Method",
    ],
)
def test_other_imports_are_found(line: str) -> None:
    assert private_imports(line)


@pytest.mark.parametrize("package", PUBLIC)
def test_every_exported_name_resolves(package: str) -> None:
    module = importlib.import_module(package)
    assert list(module.__all__) == sorted(set(module.__all__), key=module.__all__.index)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


@pytest.mark.parametrize("package", PUBLIC)
def test_checkers_see_the_same_names(package: str) -> None:
    """The imports for type checkers name what is exported, from where it is really found."""
    module = importlib.import_module(package)
    seen = {name: home for home, name in imports(Path(str(module.__file__)).read_text()) if name != "lazy_names"}
    assert set(seen) == set(module.__all__)
    for name, home in seen.items():
        assert getattr(module, name) is getattr(importlib.import_module(home), name)


@pytest.mark.parametrize("package", PUBLIC)
def test_importing_a_public_package_imports_no_torch(package: str) -> None:
    code = f"import sys, {package}; print('torch' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"
