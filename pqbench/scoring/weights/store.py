"""The folder of fetched weights. A file is used only after its bytes have been found to be the right ones."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from pqbench.base.errors import UserError
from pqbench.base.files import user_cache, write_atomically
from pqbench.contracts.extractor import Weights

ENVIRONMENT_VARIABLE: Final = "PQBENCH_WEIGHTS"
PART: Final = ".part"
"""How a file ends that is being fetched."""
_NOTE: Final = ".json"
_BLOCK: Final = 1 << 20
_FETCH_AGAIN: Final = "remove it, and get the right one with `pqbench fetch`."

State = Literal["here", "begun", "absent"]


@dataclass(frozen=True)
class FoundWeights:
    """A file whose bytes were read and found right: its path and its sha256."""

    path: Path
    sha256: str


def default_weights_folder() -> Path:
    """`$PQBENCH_WEIGHTS`, else `pqbench-weights` in the user's cache folder, beside the stage cache."""
    return user_cache("pqbench-weights", ENVIRONMENT_VARIABLE)


class WeightStore:
    """A folder of weights, by file name. Nothing is made on the disk before something is fetched."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_weights_folder()

    def require_folder(self) -> None:
        """Raise `UserError` where something else than a folder is in its place."""
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(
                f"{self.folder} is a file, and weights are kept in a folder: give another with --folder or "
                f"{ENVIRONMENT_VARIABLE}, or move the file away."
            )

    def path(self, weights: Weights) -> Path:
        """Where the file is, or would be."""
        return self.folder / weights.file

    def command(self, asked: str) -> str:
        """How `pqbench fetch` puts into this folder what `asked` names, as a shell takes it."""
        folder = "" if self.folder == default_weights_folder() else f" --folder {self.folder}"
        return f"`pqbench fetch {quoted(asked)}{folder}`"

    def part(self, weights: Weights) -> Path:
        """Where it grows while it is fetched."""
        return self.folder / (weights.file + PART)

    def state(self, weights: Weights) -> State:
        """Whether the file is there, without a look into it."""
        if self.path(weights).is_file():
            return "here"
        return "begun" if self.part(weights).is_file() else "absent"

    def find(self, weights: Weights, asked: str) -> FoundWeights:
        """The file, its hash verified: the pinned one, else the one that was recorded when it was fetched.

        asked   what `pqbench fetch` must be given to fetch it

        Raises `UserError` when it is absent (what it is, where it was looked for, how to get it) or has other bytes.
        """
        path = self.path(weights)
        if not path.is_file():
            raise UserError(self._absent(weights, asked))
        return verified(path, weights, self.recorded(weights))

    def recorded(self, weights: Weights) -> str:
        """The sha256 that a file without a pinned one had when it was fetched; empty where none is known."""
        note = self._note(weights)
        if weights.sha256 or not note.is_file():
            return ""
        try:
            return str(json.loads(note.read_text())["sha256"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise UserError(
                f"{note} is damaged ({error}): remove it and {self.path(weights)}, and fetch again."
            ) from None

    def record(self, weights: Weights, sha256: str) -> None:
        """Note what was fetched, where nobody has pinned it."""
        note = {"url": weights.url, "sha256": sha256}
        write_atomically(self._note(weights), json.dumps(note, indent=2) + "\n")

    def _note(self, weights: Weights) -> Path:
        return self.folder / (weights.file + _NOTE)

    def _absent(self, weights: Weights, asked: str) -> str:
        pinned = f"sha256 {weights.sha256}" if weights.sha256 else "no pinned sha256"
        begun = " (its download was begun)" if self.state(weights) == "begun" else ""
        return (
            f"The weights {weights.file} ({pinned}) are not in {self.folder}{begun}: get them with "
            f"{self.command(asked)}, or download {weights.url} elsewhere and put the file there."
        )


def verified(path: Path, weights: Weights, recorded: str = "", remedy: str = _FETCH_AGAIN) -> FoundWeights:
    """A file with its hash. Raises `UserError` when it cannot be read or is not what `weights` describes.

    recorded   the hash that it must have where `weights` pins none; empty: any
    remedy     what to do about another file: a fetched one may be removed, one of the user's own may not
    """
    try:
        found = file_sha256(path)
    except OSError as error:
        raise UserError(f"The weights {path} cannot be read ({error.strerror or error}).") from None
    wanted = weights.sha256 or recorded
    if wanted and found != wanted:
        raise UserError(_wrong_hash(path, weights, found, wanted, remedy))
    return FoundWeights(path, found)


def given(path: Path, weights: Weights, asked: str) -> FoundWeights:
    """A file of the user's own, verified. Raises `UserError` as `verified` does.

    asked   what `pqbench fetch` must be given to fetch the right one
    """
    remedy = f"give the path of {weights.file}, or leave --weights out and get it with `pqbench fetch {quoted(asked)}`."
    return verified(path, weights, remedy=remedy)


def _wrong_hash(path: Path, weights: Weights, found: str, wanted: str, remedy: str) -> str:
    """The sentence for a file that is another one, or a damaged or truncated one."""
    size = path.stat().st_size
    length = f" It has {size:,} bytes instead of {weights.bytes:,}." if weights.bytes not in (0, size) else ""
    return f"{path} is not {weights.file}: its sha256 is {found}, not {wanted}.{length} It is not used: {remedy}"


def file_sha256(path: Path) -> str:
    """sha256 of a file's bytes, in hex. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def quoted(text: str) -> str:
    """A name with its options, as a shell takes it."""
    return f'"{text}"' if "[" in text else text
