"""Installed versions of the packages that results depend on."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

from pqbench.base.version import __version__

PACKAGES: Final = (
    "torch",
    "torchvision",
    "diffusers",
    "timm",
    "open_clip_torch",
    "torch-fidelity",
    "clean-fid",
    "openvino",
    "numpy",
    "scipy",
    "pandas",
    "safetensors",
    "pluggy",
)


def package_versions() -> dict[str, str | None]:
    """The running pqbench, and installed versions of the packages that matter; None for one that is absent."""
    return {"pqbench": __version__} | {name: installed_version(name) for name in PACKAGES}


def installed_version(package: str) -> str | None:
    """Of a distribution as `pip` names it; None for one that is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
