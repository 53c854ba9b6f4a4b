"""What could be a plugin: installed entry points and the file beside the run. Nothing is loaded here."""

from __future__ import annotations

import difflib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final

from pqbench.base.errors import UserError
from pqbench.components.hookspecs import GROUP
from pqbench.components.provenance import same_distribution

LOCAL_DISTRIBUTION: Final = "local"
LOCAL_MODULE: Final = "pqbench_plugins"


@dataclass(frozen=True)
class Source:
    """One plugin that can be loaded.

    entry_point             its name within the group
    distribution, version   what installed it
    module                  what the entry point names, without the attribute
    load                    imports it and returns the plugin, raising whatever its code raises
    """

    entry_point: str
    distribution: str
    version: str
    module: str
    load: Callable[[], object]


def installed_sources(path: Sequence[str] | None = None) -> list[Source]:
    """One source for each entry point of every distribution on `path` (default: `sys.path`), by distribution and name.

    Two distributions with the same entry-point name give two sources.
    """
    found = entry_points(group=GROUP) if path is None else _entry_points_on(path)
    return sorted(map(_source, found), key=lambda source: (source.distribution.lower(), source.entry_point))


def local_sources(folder: Path) -> list[Source]:
    """The `pqbench_plugins.py` in `folder`, if there is one."""
    file = folder / f"{LOCAL_MODULE}.py"
    if not file.is_file():
        return []
    return [Source(LOCAL_MODULE, LOCAL_DISTRIBUTION, "", LOCAL_MODULE, lambda: _load_file(file.resolve()))]


def blocked_names(options: Iterable[str]) -> frozenset[str]:
    """Plugin names from `-p no:NAME` options. Raises `UserError` for one that is not of this form."""
    names = set()
    for option in options:
        prefix, _, name = option.partition(":")
        if prefix != "no" or not name:
            raise UserError(f"-p {option} is not understood: write -p no:NAME to leave the plugin NAME out.")
        names.add(name)
    return frozenset(names)


def is_blocked(source: Source, blocked: Iterable[str]) -> bool:
    """Whether one of the names is the source's entry point or its distribution."""
    return any(name == source.entry_point or same_distribution(name, source.distribution) for name in blocked)


def require_known(blocked: Iterable[str], sources: Sequence[Source]) -> None:
    """Raise `UserError` for a blocked name that no source has: the nearest names, and all that there are."""
    known = sorted({name for source in sources for name in (source.entry_point, source.distribution)})
    for name in sorted(blocked):
        if not any(is_blocked(source, [name]) for source in sources):
            near = difflib.get_close_matches(name.lower(), known, n=2)
            hint = f" Did you mean {' or '.join(f'no:{each}' for each in near)}?" if near else ""
            listing = ", ".join(known) or "none"
            raise UserError(f"-p no:{name} leaves nothing out.{hint} The plugins and distributions are: {listing}.")


def _entry_points_on(path: Sequence[str]) -> list[EntryPoint]:
    from importlib.metadata import distributions

    return [point for found in distributions(path=list(path)) for point in found.entry_points if point.group == GROUP]


def _source(point: EntryPoint) -> Source:
    distribution = point.dist
    if distribution is None:
        return Source(point.name, "unknown", "", point.module, point.load)
    return Source(point.name, distribution.name, distribution.version, point.module, point.load)


def _load_file(file: Path) -> object:
    """Import a file as `pqbench_plugins`, once for each path."""
    loaded = sys.modules.get(LOCAL_MODULE)
    if loaded is not None and getattr(loaded, "__file__", None) == str(file):
        return loaded
    spec = importlib.util.spec_from_file_location(LOCAL_MODULE, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pickle look classes up by their module's name. The folder joins the path (last, so that it hides
    # nothing) for the modules that the file imports and for worker processes, which inherit the path.
    sys.modules[LOCAL_MODULE] = module
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(LOCAL_MODULE, None)
        raise
    return module
