"""Downloads that are cut off, damaged, refused or impossible, from a server on this machine."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from weight_server import Served

from pqbench.base.errors import NoSpaceError, UserError
from pqbench.contracts import Weights
from pqbench.scoring.weights.download import fetch
from pqbench.scoring.weights.store import WeightStore


def described(served: Served, pinned: bool = True) -> Weights:
    digest = hashlib.sha256(served.content).hexdigest()
    return Weights("weights.bin", served.url, digest if pinned else "", len(served.content))


def files(store: WeightStore) -> set[str]:
    return {path.name for path in store.folder.iterdir() if path.suffix != ".lock"}


@pytest.mark.parametrize("pinned", [True, False])
def test_a_file_is_fetched_once(served: Served, tmp_path: Path, pinned: bool) -> None:
    store, weights = WeightStore(tmp_path / "new" / "folder"), described(served, pinned)
    told: list[tuple[int, int]] = []
    found = fetch(weights, store, report=lambda done, total: told.append((done, total)))
    assert found.path.read_bytes() == served.content
    assert found.sha256 == hashlib.sha256(served.content).hexdigest()
    assert told[0] == (0, len(served.content))
    assert told[-1] == (len(served.content),) * 2
    assert fetch(weights, store) == found
    assert store.find(weights, "x") == found
    assert len(served.asked) == 1
    assert files(store) == {"weights.bin"} | (set() if pinned else {"weights.bin.json"})


@pytest.mark.parametrize("pinned", [True, False])
def test_what_was_cut_off_goes_on_where_it_stopped(served: Served, tmp_path: Path, pinned: bool) -> None:
    store, weights = WeightStore(tmp_path), described(served, pinned)
    served.breaks_after = 300_000
    for done in (300_000, 600_000, 900_000):
        with pytest.raises(UserError, match=rf"stopped after {done:,} of {len(served.content):,} bytes.*goes on"):
            fetch(weights, store)
        assert store.state(weights) == "begun"
        assert not store.path(weights).exists()
    served.breaks_after = None
    assert fetch(weights, store).path.read_bytes() == served.content
    assert [each for each, _ in served.asked] == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_a_server_without_ranges_sends_it_all_again(served: Served, tmp_path: Path) -> None:
    store, weights = WeightStore(tmp_path), described(served)
    served.breaks_after, served.ranges = 1000, False
    with pytest.raises(UserError, match="stopped"):
        fetch(weights, store)
    served.breaks_after = None
    assert fetch(weights, store).path.read_bytes() == served.content


def test_an_unpinned_file_that_changed_in_between_is_not_glued_together(served: Served, tmp_path: Path) -> None:
    store, weights = WeightStore(tmp_path), described(served, pinned=False)
    served.breaks_after = 1000
    with pytest.raises(UserError, match="stopped"):
        fetch(weights, store)
    served.breaks_after, served.content, served.tag = None, b"another" * 1000, '"two"'
    assert fetch(weights, store).path.read_bytes() == served.content
    assert served.asked[-1] == ("bytes=1000-", '"one"')


def test_an_unpinned_file_without_a_tag_begins_anew(served: Served, tmp_path: Path) -> None:
    store, weights = WeightStore(tmp_path), described(served, pinned=False)
    served.breaks_after, served.tag = 1000, None
    with pytest.raises(UserError, match="stopped"):
        fetch(weights, store)
    served.breaks_after = None
    assert fetch(weights, store).path.read_bytes() == served.content
    assert served.asked[-1] == (None, None)


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_a_part_that_is_whole_or_longer_than_the_file(served: Served, tmp_path: Path, extra: bytes) -> None:
    store, weights = WeightStore(tmp_path), described(served)
    store.part(weights).write_bytes(served.content + extra)
    assert fetch(weights, store).path.read_bytes() == served.content


def test_wrong_bytes_are_thrown_away_and_both_hashes_named(served: Served, tmp_path: Path) -> None:
    store, weights = WeightStore(tmp_path), described(served)
    served.content = b"y" + served.content[1:]
    with pytest.raises(UserError) as error:
        fetch(weights, store)
    assert weights.sha256 in str(error.value)
    assert hashlib.sha256(served.content).hexdigest() in str(error.value)
    assert not files(store)
    served.content = b"\x00" + served.content[1:]
    assert fetch(weights, store).path.is_file()


@pytest.mark.parametrize("status", [404, 403, 500])
def test_a_server_that_refuses(served: Served, tmp_path: Path, status: int) -> None:
    served.status = status
    with pytest.raises(UserError, match=rf"answers {status} .*put it into {tmp_path} as weights.bin, sha256"):
        fetch(described(served), WeightStore(tmp_path))


def test_a_server_that_is_not_there(served: Served, tmp_path: Path) -> None:
    weights = Weights("weights.bin", "http://127.0.0.1:9/weights.bin", "0" * 64)
    with pytest.raises(UserError, match="cannot be reached"):
        fetch(weights, WeightStore(tmp_path))


def test_offline_nothing_is_asked(served: Served, tmp_path: Path) -> None:
    store, weights = WeightStore(tmp_path), described(served)
    with pytest.raises(UserError, match=rf"{weights.sha256}.* is not in {tmp_path}, and --offline"):
        fetch(weights, store, offline=True)
    store.path(weights).write_bytes(served.content)
    assert fetch(weights, store, offline=True).sha256 == weights.sha256
    assert not served.asked


def test_a_full_disk_is_one_sentence_and_goes_on(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, weights = WeightStore(tmp_path), described(served)
    real = Path.open

    class Full:
        """Takes one block."""

        def __init__(self, file: Any) -> None:
            self.file, self.written = file, 0

        def write(self, block: bytes) -> None:
            if self.written:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.written += self.file.write(block)

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    def opened(path: Path, mode: str = "r", *args: Any, **settings: Any) -> Any:
        file = real(path, mode, *args, **settings)
        return Full(file) if path.suffix == ".part" and mode in ("ab", "wb") else file

    monkeypatch.setattr(Path, "open", opened)
    with pytest.raises(NoSpaceError, match="No space left while writing"):
        fetch(weights, store)
    monkeypatch.undo()
    assert 0 < store.part(weights).stat().st_size < len(served.content)
    assert fetch(weights, store).path.read_bytes() == served.content


def test_two_at_once_do_not_write_into_one_part(served: Served, tmp_path: Path) -> None:
    store, weights = WeightStore(tmp_path), described(served)
    with (tmp_path / "weights.bin.part.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=r"Another process is fetching weights\.bin"):
            fetch(weights, store)
    assert fetch(weights, store).path.is_file()


def test_a_fetched_file_that_was_damaged_later_is_refused(served: Served, tmp_path: Path) -> None:
    store, weights = WeightStore(tmp_path), described(served, pinned=False)
    path = fetch(weights, store).path
    recorded = json.loads((tmp_path / "weights.bin.json").read_text())["sha256"]
    path.write_bytes(served.content[:-5])
    with pytest.raises(UserError, match=rf"not {recorded}.*{len(served.content) - 5:,} bytes instead"):
        store.find(weights, "x")
    (tmp_path / "weights.bin.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        store.find(weights, "x")
