"""Where code comes from: the distribution, its version and a hash of its sources."""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Provenance:
    """Where a component comes from.

    distribution   as its metadata spells it; `local` for a `pqbench_plugins.py` beside the run
    version        of the distribution; empty for a local file
    entry_point    name within the entry-point group; `built-in` for pqbench's own
    source_hash    sha256 over the Python files that hold it
    """

    distribution: str
    version: str
    entry_point: str
    source_hash: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}".strip()


def same_distribution(first: str, second: str) -> bool:
    """Whether two spellings name one distribution (`PQBench_FP` is `pqbench-fp`)."""
    return _normalised(first) == _normalised(second)


def source_hash(locations: Iterable[Path]) -> str:
    """sha256 over all `.py` files at the locations (files, or folders with everything below them).

    Names within a location are hashed, its own place on the disk is not: a copied package keeps its hash.
    """
    parts = sorted(_location_hash(location) for location in set(locations))
    return parts[0] if len(parts) == 1 else hashlib.sha256("".join(parts).encode()).hexdigest()


def package_location(module: str) -> Path | None:
    """The folder of the module's outermost regular package, or the file of a lone module.

    None for a module that has no source file (built into the interpreter, or made at run time). Namespace packages have
    no `__init__.py` and are shared by distributions, so they are passed over.
    """
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        try:
            spec = importlib.util.find_spec(".".join(parts[:depth]))
        except (ImportError, ValueError):
            return None
        if spec is not None and spec.origin is not None and spec.has_location:
            return Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
    return None


def _normalised(distribution: str) -> str:
    """The spelling that PEP 503 compares."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _location_hash(location: Path) -> str:
    digest = hashlib.sha256()
    for name, file in _python_files(location):
        content = file.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _python_files(location: Path) -> Iterator[tuple[str, Path]]:
    if location.is_file():
        yield location.name, location
        return
    for file in sorted(location.rglob("*.py")):
        yield file.relative_to(location).as_posix(), file
