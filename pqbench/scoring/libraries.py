"""Libraries whose release decides a value: another may resize, decode or build nets otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, runtime_checkable

from pqbench.base.packages import installed_version


@runtime_checkable
class UsesLibraries(Protocol):
    """What a workload, an extractor or a source of images is when more than its code and torch decide what it gives.

    libraries   names of distributions, as `pip` knows them
    """

    @property
    def libraries(self) -> tuple[str, ...]:
        """Those that it really uses: each one's version is part of the keys, and of the protocol where it scores."""
        ...


def libraries_of(user: object) -> tuple[str, ...]:
    """What it declares, nothing for what declares nothing."""
    return tuple(user.libraries) if isinstance(user, UsesLibraries) else ()


def with_versions(libraries: Iterable[str]) -> str:
    """For keys and protocols: `pillow 12.3.0 + timm 1.0.31`, each once, in the order of the alphabet."""
    return " + ".join(f"{name} {installed_version(name) or '(not installed)'}" for name in sorted(set(libraries)))
