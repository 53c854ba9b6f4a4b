"""A plugin package needs nothing of this repository but pqbench: copied out and installed, it works."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pqbench

FP = Path(__file__).parents[2] / "baselines" / "fp"


def test_a_package_copied_out_of_the_tree_and_installed_is_found(tmp_path: Path) -> None:
    copy, target = tmp_path / "elsewhere", tmp_path / "site"
    shutil.copytree(FP, copy, ignore=shutil.ignore_patterns("__pycache__", "build", "dist"))
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    subprocess.run([sys.executable, "-m", "pip", "install", *offline, "--target", target, copy], check=True)
    shutil.rmtree(copy)

    # The copy comes first on the path, so it is found even where pqbench-fp is installed as well.
    path = os.pathsep.join([str(target), str(Path(pqbench.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-m", "pqbench", "plugins", "list", "--json"],
        env=os.environ | {"PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    listed = [row for row in json.loads(done.stdout)["components"] if row["name"] == "fp"]
    assert [(row["kind"], row["distribution"], row["entry_point"]) for row in listed] == [
        ("method", "pqbench-fp", "fp")
    ]
