"""Fetching a file over HTTP: it goes on where it was interrupted, and is in place only when its hash is right."""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Final

from pqbench.base.errors import UserError
from pqbench.base.files import explained_writing, force_to_disk
from pqbench.base.version import __version__
from pqbench.contracts.extractor import Weights
from pqbench.scoring.weights.store import FoundWeights, WeightStore, file_sha256, verified

Report = Callable[[int, int], None]
"""(bytes that are there, bytes of the whole file or 0 when unknown), as they come."""

_BLOCK: Final = 1 << 18
_TIMEOUT: Final = 30.0
_TAG: Final = ".tag"
_PARTIAL: Final = 206
_NOT_SATISFIABLE: Final = 416


def fetch(weights: Weights, store: WeightStore, *, offline: bool = False, report: Report | None = None) -> FoundWeights:
    """The file in the store, fetched if it is not there.

    offline   never touch the network: verify what is there

    Raises `UserError` when it is not there and cannot be fetched, and when what came has other bytes than it must have.
    """
    path = store.path(weights)
    if path.is_file():
        return verified(path, weights, store.recorded(weights))
    if offline:
        pinned = f" (sha256 {weights.sha256})" if weights.sha256 else ""
        raise UserError(f"{weights.file}{pinned} is not in {store.folder}, and --offline keeps it from being fetched.")
    part = store.part(weights)
    with _alone(part):
        _download(weights, part, report or _silent)
        found = _checked(weights, part)
        if not weights.sha256:
            store.record(weights, found)
        part.replace(path)
        _tag_file(part).unlink(missing_ok=True)
        force_to_disk(path.parent)
    return FoundWeights(path, found)


def _checked(weights: Weights, part: Path) -> str:
    """The hash of what has come. A wrong one makes the next download begin anew."""
    found = file_sha256(part)
    if weights.sha256 and found != weights.sha256:
        size = part.stat().st_size
        part.unlink()
        _tag_file(part).unlink(missing_ok=True)
        raise UserError(
            f"What {weights.url} sent is not {weights.file}: its sha256 is {found}, not {weights.sha256} "
            f"({size:,} bytes). It was thrown away; the file there may have been replaced, or something between here "
            "and there answered."
        )
    return found


@contextlib.contextmanager
def _alone(part: Path) -> Iterator[None]:
    """Around the work on a part, which two processes must not extend at once."""
    lock = part.with_name(part.name + ".lock")
    with explained_writing(lock):
        part.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"Another process is fetching {part.stem}: wait for it.") from None
        yield
    finally:
        os.close(handle)


def _download(weights: Weights, part: Path, report: Report) -> None:
    """Extend the part until it is whole. A server that ignores the range, or whose file changed, sends all of it."""
    begun = _resumable(weights, part)
    response = _request(weights, part, begun)
    if response is None:
        return
    with response:
        begun = begun if response.status == _PARTIAL else 0
        total = begun + int(response.headers.get("Content-Length") or 0)
        with explained_writing(part), part.open("ab" if begun else "wb") as file:
            _keep_tag(part, response.headers.get("ETag"))
            done = _copy(weights, response, file, begun, total, report)
            file.flush()
            os.fsync(file.fileno())
    if done < total:
        raise _stopped(weights, done, total, "the connection was closed")


def _copy(weights: Weights, response: Any, file: IO[bytes], done: int, total: int, report: Report) -> int:
    """Write what comes, and return the bytes that are there then."""
    report(done, total)
    while True:
        try:
            block = response.read(_BLOCK)
        except (OSError, http.client.HTTPException) as error:
            file.flush()
            raise _stopped(weights, done, total, str(error) or type(error).__name__) from None
        if not block:
            return done
        file.write(block)
        done += len(block)
        report(done, total)


def _request(weights: Weights, part: Path, begun: int) -> Any:
    """The server's answer to the request for what is missing, None when nothing is.

    Raises `UserError` when it cannot be reached or refuses.
    """
    headers = {"User-Agent": f"pqbench/{__version__}", "Accept-Encoding": "identity"}
    if begun:
        headers["Range"] = f"bytes={begun}-"
        if _tag_file(part).is_file():
            headers["If-Range"] = _tag_file(part).read_text()
    try:
        return urllib.request.urlopen(urllib.request.Request(weights.url, headers=headers), timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        with error:
            whole = f"bytes */{begun}"
            if error.code == _NOT_SATISFIABLE and begun and error.headers.get("Content-Range", whole) == whole:
                return None
            if error.code == _NOT_SATISFIABLE and begun:
                part.unlink()
                return _request(weights, part, 0)
            raise UserError(_unreachable(weights, part, f"answers {error.code} {error.reason}")) from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(_unreachable(weights, part, f"cannot be reached ({reason})")) from None


def _resumable(weights: Weights, part: Path) -> int:
    """Bytes of the part that may be kept: those of a file that is known by its hash or by the server's tag."""
    known = bool(weights.sha256) or _tag_file(part).is_file()
    return part.stat().st_size if known and part.is_file() else 0


def _keep_tag(part: Path, tag: str | None) -> None:
    """Remember by which tag the server knows these bytes; a weak one promises nothing about them."""
    if tag and not tag.startswith("W/"):
        _tag_file(part).write_text(tag)
    else:
        _tag_file(part).unlink(missing_ok=True)


def _tag_file(part: Path) -> Path:
    return part.with_name(part.name + _TAG)


def _stopped(weights: Weights, done: int, total: int, reason: str) -> UserError:
    of = f" of {total:,}" if total else ""
    return UserError(
        f"The download of {weights.file} stopped after {done:,}{of} bytes ({reason}): give the same command again, "
        "it goes on from there."
    )


def _unreachable(weights: Weights, part: Path, what: str) -> str:
    pinned = f", sha256 {weights.sha256}" if weights.sha256 else ""
    return f"{weights.url} {what}. Download it elsewhere and put it into {part.parent} as {weights.file}{pinned}."


def _silent(done: int, total: int) -> None:
    """For callers that show no progress."""
