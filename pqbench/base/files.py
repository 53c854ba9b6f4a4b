"""Files that are whole or not there: written beside their place, forced to disk, then renamed into it."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from pqbench.base.errors import NoSpaceError, UserError

TEMPORARY_SUFFIX = ".partial"
"""How files end that a killed run may leave behind; nothing ever reads them."""

ADVICE = "make its folder writable, or move away what is in its place, and give the same command again."
"""What to do about a file that cannot be written, where there is no better word."""

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_IN_WORDS = tuple(f"(os error {code})" for code in _FULL)
"""How libraries written in Rust (safetensors) spell it in errors that are no `OSError`."""


def user_cache(name: str, variable: str) -> Path:
    """The folder that the environment variable `variable` names, else `name` in the user's cache folder."""
    configured = os.environ.get(variable)
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / name


def write_atomically(path: Path, content: bytes | str | Iterable[bytes | memoryview], advice: str = ADVICE) -> None:
    """Replace `path` by `content`: a reader, or the next run after a kill, sees the old file or the new one.

    content   of the file, or its parts one after the other, of which only one is held at a time

    Makes the folders it needs. Raises `NoSpaceError` when the disk is full, and `UserError`, which ends with `advice`,
    when the file cannot be written for another reason.
    """
    whole = content.encode() if isinstance(content, str) else content
    parts = [whole] if isinstance(whole, bytes) else whole
    with explained_writing(path, advice):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=TEMPORARY_SUFFIX, dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        force_to_disk(path.parent)


def force_to_disk(folder: Path) -> None:
    """Make the names in `folder` (a rename, a new file) survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def disk_is_full(error: BaseException) -> bool:
    """Whether an error, or one that led to it, says that no space is left or that the quota is used up."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _FULL:
            return True
        if any(words in str(seen) for words in _FULL_IN_WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


@contextlib.contextmanager
def explained_writing(path: Path, advice: str = ADVICE) -> Iterator[None]:
    """Turn errors of the file system into one sentence for the user: a `NoSpaceError`, or a `UserError` for others."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise UserError(f"{path} cannot be written ({error.strerror or error}): {advice}") from None
        raise NoSpaceError(
            f"No space left while writing {path}. Nothing already computed is lost: free some space and give the same "
            "command again; it goes on from here."
        ) from None


def _umask() -> int:
    # The mask can only be read by setting it; mkstemp ignores it and makes files that nobody else may read.
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
