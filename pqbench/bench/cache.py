"""The stage cache: each stage's output is a folder named by its key, complete or absent.

A stage works in `<key>.partial`, which a kill leaves behind and the next run finds again; a finished one is renamed to `<key>`.
The rename is atomic, so a folder named by its key is always whole. A lock file per key keeps two runs apart.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pqbench.errors import UserError

ENVIRONMENT_VARIABLE = "PQBENCH_CACHE"


def default_cache_folder() -> Path:
    """`$PQBENCH_CACHE`, else `pqbench` in the user's cache folder."""
    configured = os.environ.get(ENVIRONMENT_VARIABLE)
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pqbench"


class StageCache:
    """A folder of stage outputs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"The cache folder {root} cannot be made ({error.strerror}): pass --cache FOLDER or set {ENVIRONMENT_VARIABLE}."
            ) from None

    def folder(self, key: str) -> Path:
        """Where the output of `key` lies once it is complete."""
        return self.root / key

    def has(self, key: str) -> bool:
        return self.folder(key).is_dir()

    def discard(self, key: str) -> None:
        """Forget an output, complete or partial."""
        shutil.rmtree(self.folder(key), ignore_errors=True)
        shutil.rmtree(self._partial(key), ignore_errors=True)

    def produce(self, key: str, work: Callable[[Path], None]) -> bool:
        """Make sure that the output of `key` exists; `work(folder)` fills a folder when it does not.

        The folder may hold what an earlier, killed attempt left. Returns True when `work` ran. When another process is
        making the same output, this waits for it. Raises `UserError` when the disk is full.
        """
        with self._locked(key):
            if self.has(key):
                return False
            partial = self._partial(key)
            try:
                partial.mkdir(parents=True, exist_ok=True)
                work(partial)
                _flush(partial)
                partial.rename(self.folder(key))
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise UserError(
                        f"No space is left in {self.root}: free some, or pass --cache FOLDER on another disk; "
                        "finished stages are kept and the same command goes on from them."
                    ) from None
                raise
            return True

    def _partial(self, key: str) -> Path:
        return self.root / f"{key}.partial"

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        # The lock file stays: removing it would let a waiting process lock a file that no longer has a name.
        with (self.root / f"{key}.lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _flush(folder: Path) -> None:
    """Force the folder's files to the disk, so that the rename cannot outlive their contents."""
    for path in folder.rglob("*"):
        if path.is_file():
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
