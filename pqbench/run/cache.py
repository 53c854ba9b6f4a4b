"""The stage cache: each stage's output is a folder named by its key, complete or absent.

A stage works in `<key>.partial`, which a kill leaves behind and the next run finds again; a finished one is renamed to
`<key>`. The rename is atomic, and a list of the folder's files with their hashes goes with it, so that what a disk or a
person damaged later is noticed and made again. A lock file per key keeps two runs apart.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pqbench.base.errors import NoSpaceError, UserError
from pqbench.base.files import TEMPORARY_SUFFIX, disk_is_full, force_to_disk, user_cache, write_atomically

ENVIRONMENT_VARIABLE = "PQBENCH_CACHE"
CONTENTS = "contents.json"
"""Lists the files of a finished output: name -> bytes and sha256."""

_LOCKS = "locks"

Say = Callable[[str], None]


def say_nothing(text: str) -> None:
    """For callers that want no word."""


def default_cache_folder() -> Path:
    """`$PQBENCH_CACHE`, else `pqbench` in the user's cache folder."""
    return user_cache("pqbench", ENVIRONMENT_VARIABLE)


class StageCache:
    """A folder of stage outputs. Nothing is made on the disk before something is produced."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._verified: set[str] = set()

    def require_writable(self) -> None:
        """Raise `UserError` when outputs could not be kept."""
        with self._explained():
            (self.root / _LOCKS).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root):
                pass

    def folder(self, key: str) -> Path:
        """Where the output of `key` lies once it is complete."""
        return self.root / key

    def has(self, key: str) -> bool:
        """Whether the output is there; its files are only looked at by name and size."""
        contents = self._contents(key)
        return contents is not None and all(
            _size(self.folder(key) / name) == facts["bytes"] for name, facts in contents.items()
        )

    def damage(self, key: str) -> str:
        """What is wrong with an output that is there, by its files' hashes; empty for a good one or none at all.

        Files are read once for each instance.
        """
        if key in self._verified or not self.folder(key).exists():
            return ""
        contents = self._contents(key)
        if contents is None:
            return f"{CONTENTS} is missing or damaged"
        for name, facts in contents.items():
            if _facts(self.folder(key) / name) != facts:
                return f"{name} is missing, truncated or changed"
        self._verified.add(key)
        return ""

    def discard(self, key: str) -> None:
        """Forget an output, complete or partial."""
        with self._locked(key, say_nothing):
            self._remove(key)
            shutil.rmtree(self._partial(key), ignore_errors=True)

    def produce(self, key: str, work: Callable[[Path], None], say: Say = say_nothing) -> bool:
        """Make sure that a good output of `key` exists; `work(folder)` fills a folder when it does not.

        The folder may hold what an earlier, killed attempt left. `say` is told when another process is making the same
        output, for which this waits, and when a damaged one is made again. Returns True when `work` ran; what it raises
        passes. Raises `UserError` when the cache cannot be written, `NoSpaceError` when its disk is full.
        """
        with self._locked(key, say):
            if damage := self.damage(key):
                say(f"the cached output {key[:8]} is damaged ({damage}) and is made again")
                self._remove(key)
            if self.folder(key).exists():
                return False
            partial = self._partial(key)
            with self._explained():
                partial.mkdir(parents=True, exist_ok=True)
                _sweep(partial)
            work(partial)
            with self._explained():
                _seal(partial)
                partial.rename(self.folder(key))
                force_to_disk(self.root)
            self._verified.add(key)
            return True

    def _partial(self, key: str) -> Path:
        return self.root / f"{key}.partial"

    def _remove(self, key: str) -> None:
        self._verified.discard(key)
        shutil.rmtree(self.folder(key), ignore_errors=True)

    def _contents(self, key: str) -> dict[str, dict[str, Any]] | None:
        try:
            contents: dict[str, dict[str, Any]] = json.loads((self.folder(key) / CONTENTS).read_bytes())
        except (OSError, ValueError):
            return None
        return contents

    @contextmanager
    def _locked(self, key: str, say: Say) -> Iterator[None]:
        with self._explained():
            (self.root / _LOCKS).mkdir(parents=True, exist_ok=True)
            # The lock file stays: removing it would let a waiting process lock a file that no longer has a name.
            handle = os.open(self.root / _LOCKS / key, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another run is making the same output; waiting for it")
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of the file system into one sentence."""
        try:
            yield
        except OSError as error:
            if disk_is_full(error):
                raise NoSpaceError(
                    f"No space is left in {self.root}: free some, or pass --cache FOLDER on another disk; finished "
                    "stages are kept and the same command goes on from them."
                ) from None
            raise UserError(
                f"The cache folder {self.root} cannot be written ({error.strerror}): pass --cache FOLDER or set "
                f"{ENVIRONMENT_VARIABLE}."
            ) from None


def _sweep(folder: Path) -> None:
    """Remove half-written files that a kill left."""
    for path in folder.glob(f".*{TEMPORARY_SUFFIX}"):
        path.unlink()


def _seal(folder: Path) -> None:
    """List the folder's files, and force them to the disk, so that the rename cannot outlive their contents."""
    files = [path for path in sorted(folder.iterdir()) if path.name != CONTENTS]
    for path in files:
        _force_file(path)
    write_atomically(folder / CONTENTS, json.dumps({path.name: _facts(path) for path in files}))


def _force_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _facts(path: Path) -> dict[str, Any] | None:
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return {"bytes": file.tell(), "sha256": sha256}
    except OSError:
        return None


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
