"""The one command that installs everything does install everything."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_requirements_name_every_package_of_the_repository() -> None:
    packages = {
        f"./{file.parent.relative_to(ROOT)}"
        for kind in ("baselines", "plugins")
        for file in ROOT.glob(f"{kind}/*/pyproject.toml")
    }
    named = {line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("./")}
    assert named == packages
