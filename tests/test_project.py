"""The repository as a whole: what installs it, and documents that say what is."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pqbench.cli.main import run_command_line

ROOT = Path(__file__).parents[1]


def test_requirements_name_every_package_of_the_repository() -> None:
    packages = {
        f"./{file.parent.relative_to(ROOT)}"
        for kind in ("baselines", "plugins")
        for file in ROOT.glob(f"{kind}/*/pyproject.toml")
    }
    named = {line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("./")}
    assert named == packages


def test_tables_in_the_documents_are_what_the_tool_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Below `<!-- COMMAND -->` stands the table that the command prints, as it prints it."""
    monkeypatch.chdir(ROOT)
    pages = [ROOT / "README.md", ROOT / "docs" / "pqcad.md", ROOT / "results" / "README.md"]
    found = [re.findall(r"<!-- pqbench (report [^\n]+) -->\n\n((?:\|[^\n]*\n)+)", page.read_text()) for page in pages]
    assert all(found)
    shown = [each for page in found for each in page]
    for command, table in shown:
        assert run_command_line(shlex.split(command)) == 0
        printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
        assert table.splitlines() == printed


def test_pictures_and_pages_that_the_documents_name_exist() -> None:
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("results/**/*.md")]
    for document in documents:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text()):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document} names {target}"


def test_the_core_works_as_its_page_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "quantization.md").read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(block, {})
    assert (tmp_path / "net.safetensors").stat().st_size > 0
