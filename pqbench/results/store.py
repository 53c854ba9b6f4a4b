"""A run's folder on disk: one manifest, and one line for each cell that finished or failed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from pqbench.base.errors import UserError
from pqbench.base.files import TEMPORARY_SUFFIX, explained_writing, force_to_disk, write_atomically
from pqbench.base.version import __version__
from pqbench.results.comparisons import COMPARISON_VERSION, Comparison, Comparisons
from pqbench.results.records import SCHEMA_VERSION, Manifest, Record

MANIFEST = "manifest.json"
RECORDS = "records.jsonl"
COMPARISONS = "comparisons.json"

Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True)
class Contents:
    """What records.jsonl holds: the last record of each cell, in order of first appearance; notes for the user."""

    records: tuple[Record, ...]
    notes: tuple[str, ...] = ()


class RunFolder:
    """The folder `results/NAME` of one run.

    A folder that does not exist yet is made by the first write. Raises `UserError` for a path that holds something
    else than a run, or a run whose schema or pqbench this version does not know.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if holds_run(self.path):
            self.manifest()
        elif _strangers(self.path):
            raise UserError(
                f"{self.path} has files in it but no {MANIFEST}, so it is not a run of pqbench: give a new or empty "
                "folder."
            )

    @classmethod
    def existing(cls, path: Path | str) -> RunFolder:
        """Open a run that is there already. Raises `UserError` where there is none."""
        if not holds_run(Path(path)):
            raise UserError(f"{path} holds no run (no {MANIFEST}): give the folder that `pqbench run` wrote.")
        return cls(path)

    @property
    def manifest_path(self) -> Path:
        """Where the manifest is, or will be."""
        return self.path / MANIFEST

    @property
    def records_path(self) -> Path:
        """Where the records are, or will be."""
        return self.path / RECORDS

    def write_manifest(self, manifest: Manifest) -> None:
        """Write or replace the manifest; after a kill it is the old one or the new one."""
        write_atomically(self.manifest_path, manifest.model_dump_json(indent=2) + "\n")

    def manifest(self) -> Manifest:
        """Read the manifest. Raises `UserError` when it is damaged, unreadable or from another version."""
        try:
            with _explained_reading(self.manifest_path):
                fields = _json_object(self.manifest_path.read_bytes())
        except FileNotFoundError:
            raise UserError(f"{self.path} holds no {MANIFEST}: give the folder that `pqbench run` wrote.") from None
        except ValueError:
            raise UserError(f"{self.manifest_path} is not JSON: restore it, or run into a new folder.") from None
        _check_version(str(self.manifest_path), fields)
        return _validated(Manifest, fields, str(self.manifest_path))

    def append(self, record: Record) -> None:
        """Add one line, in one write that is on disk when this returns. Processes may append at the same time.

        What a killed writer left of its last line is cut off first. Raises `UserError` when the disk is full.
        """
        line = record.model_dump_json().encode() + b"\n"
        with explained_writing(self.records_path), self._locked() as file:
            end = _end_of_whole_lines(file)
            os.ftruncate(file, end)
            try:
                _write_whole(file, line)
                os.fsync(file)
            except OSError:
                os.ftruncate(file, end)
                raise

    def records(self) -> list[Record]:
        """The last record of each cell, in the order in which the cells first appeared."""
        return list(self.contents().records)

    def current_records(self) -> list[Record]:
        """`records` of the cells that the manifest lists: without those that a later run into this folder replaced."""
        listed = set(self.manifest().cells)
        return [record for record in self.records() if record.cell in listed]

    def contents(self) -> Contents:
        """`records`, with a note for a last line that a kill cut short.

        Raises `UserError`, with the line's number, for a line in the middle that is not a record.
        """
        whole, _, rest = self._bytes().rpartition(b"\n")
        cells: dict[str, Record] = {}
        for number, line in enumerate(whole.split(b"\n"), start=1):
            if line.strip():
                record = _parse_record(line, f"{self.records_path}, line {number}")
                cells[record.cell] = record
        notes = (f"The last line of {RECORDS} was cut short (a run was killed) and is left out.",) if rest else ()
        return Contents(tuple(cells.values()), notes)

    def write_comparisons(self, comparisons: Comparisons) -> None:
        """Write or replace the comparisons of the run's rows, one a line."""
        lines = ",\n".join(comparison.model_dump_json() for comparison in comparisons.comparisons)
        text = f'{{"version": {comparisons.version}, "comparisons": [\n{lines}\n]}}\n'
        write_atomically(self.path / COMPARISONS, text)

    def comparisons(self) -> tuple[Comparison, ...]:
        """The kept comparisons of rows; none where the file is not there or of another version.

        Raises `UserError` when it is damaged or unreadable.
        """
        path = self.path / COMPARISONS
        try:
            with _explained_reading(path):
                fields = _json_object(path.read_bytes())
        except FileNotFoundError:
            return ()
        except ValueError:
            raise UserError(f"{path} is not JSON: delete it; the run's command makes it again.") from None
        if fields.get("version") != COMPARISON_VERSION:
            return ()
        return _validated(Comparisons, fields, str(path)).comparisons

    def _bytes(self) -> bytes:
        try:
            with _explained_reading(self.records_path):
                return self.records_path.read_bytes()
        except FileNotFoundError:
            return b""

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        self.path.mkdir(parents=True, exist_ok=True)
        is_new = not self.records_path.exists()
        file = os.open(self.records_path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if is_new:
                force_to_disk(self.path)
            yield file
        finally:
            os.close(file)  # releases the lock


@contextlib.contextmanager
def _explained_reading(path: Path) -> Iterator[None]:
    """Turn errors of the file system into one sentence; a file that is not there is for the caller to judge."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): mend it, or give the folder of another run or a new one."
        ) from None


def holds_run(folder: Path) -> bool:
    """Whether there is a manifest. Raises `UserError` for a file, and for a folder that cannot be read."""
    with _explained_reading(folder):
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file, not a folder: give the folder of a run.")
        return (folder / MANIFEST).exists()


def _strangers(folder: Path) -> list[str]:
    """Names in a folder that no run of pqbench leaves there before its manifest; none where there is no folder."""
    with _explained_reading(folder):
        items = folder.iterdir() if folder.is_dir() else iter(())
        return [item.name for item in items if not item.name.endswith((TEMPORARY_SUFFIX, ".lock"))]


def _end_of_whole_lines(file: int, block: int = 1 << 16) -> int:
    """Offset just behind the last newline of an open file; 0 where there is none."""
    position = os.fstat(file).st_size
    while position > 0:
        start = max(0, position - block)
        newline = os.pread(file, position - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        position = start
    return 0


def _write_whole(file: int, data: bytes) -> None:
    # A disk that fills up may take part of the line without an error; the next write then reports it.
    while data:
        data = data[os.write(file, data) :]


def _parse_record(line: bytes, place: str) -> Record:
    try:
        fields = _json_object(line)
    except ValueError:
        raise UserError(
            f"{place} is not JSON: mend or delete that line; the cell it belonged to is then run again."
        ) from None
    _check_version(place, fields)
    return _validated(Record, fields, place)


def _json_object(text: bytes) -> dict[str, Any]:
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    return fields


def _validated(model: type[Model], fields: dict[str, Any], place: str) -> Model:
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{place} does not fit the schema ({where}: {first['msg']}): mend it or run into a new folder."
        ) from None


def _check_version(place: str, fields: dict[str, Any]) -> None:
    schema, maker = fields.get("schema_version"), fields.get("pqbench_version", __version__)
    if not isinstance(schema, int) or schema < SCHEMA_VERSION:
        raise UserError(
            f"{place} has schema {schema}, and this pqbench ({__version__}) reads schema {SCHEMA_VERSION}: give a new "
            "folder."
        )
    if schema > SCHEMA_VERSION or _release(str(maker)) > _release(__version__):
        raise UserError(
            f"{place} was made by a newer pqbench ({maker}, schema {schema}; this one is {__version__}, schema "
            f"{SCHEMA_VERSION}): upgrade pqbench, or give a new folder."
        )


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without trailing zeros: 1.2.0rc1 -> (1, 2)."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(part) for part in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
