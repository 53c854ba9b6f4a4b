"""The stage cache: complete or absent, whatever happens while an output is made or after."""

from __future__ import annotations

import errno
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import HANG_SECONDS
from spawned import make_slowly

from pqbench.base.errors import NoSpaceError, UserError
from pqbench.run.cache import StageCache, default_cache_folder


def writes(name: str, content: str = "content") -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(content) and None


@pytest.fixture
def cache(tmp_path: Path) -> StageCache:
    return StageCache(tmp_path / "cache")


def test_an_output_is_made_once(cache: StageCache) -> None:
    assert not cache.has("k")
    assert not cache.root.exists()
    assert cache.produce("k", writes("a"))
    assert not cache.produce("k", pytest.fail)
    assert cache.has("k")
    assert StageCache(cache.root).damage("k") == ""
    assert (cache.folder("k") / "a").read_text() == "content"
    cache.discard("k")
    assert not cache.has("k")


def test_work_that_fails_leaves_nothing_that_counts_and_its_files_for_the_next_attempt(cache: StageCache) -> None:
    def fails(folder: Path) -> None:
        (folder / "half").write_text("half")
        (folder / ".half.x.partial").write_text("written when the kill came")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        cache.produce("k", fails)
    assert not cache.has("k")
    found: list[str] = []
    assert cache.produce("k", lambda folder: found.extend(path.name for path in folder.iterdir()))
    assert found == ["half"]


@pytest.mark.parametrize("victim", ["a", "contents.json"])
@pytest.mark.parametrize("content", [None, b"", b"c0ntent"])
def test_damage_is_noticed_and_mended(cache: StageCache, victim: str, content: bytes | None) -> None:
    cache.produce("k", writes("a"))
    path = cache.folder("k") / victim
    path.unlink() if content is None else path.write_bytes(content)
    later, said = StageCache(cache.root), list[str]()
    assert victim in later.damage("k")
    assert later.produce("k", writes("a"), said.append)
    assert victim in said[0]
    assert "made again" in said[0]
    assert later.damage("k") == ""
    assert (later.folder("k") / "a").read_text() == "content"


def test_a_truncated_output_is_not_there_for_a_plan(cache: StageCache) -> None:
    cache.produce("k", writes("a"))
    os.truncate(cache.folder("k") / "a", 3)
    assert not cache.has("k")


def test_two_processes_make_an_output_once(cache: StageCache, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    begun, may_end, made = context.Event(), context.Event(), tmp_path / "made"
    process = context.Process(target=make_slowly, args=(cache.root, begun, may_end, made), daemon=True)
    process.start()
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        may_end.set()

    try:
        assert begun.wait(HANG_SECONDS)
        assert not cache.produce("k", pytest.fail, say)
        assert (cache.folder("k") / "a").read_text() == "whole"
        assert said == ["another run is making the same output; waiting for it"]
        process.join(HANG_SECONDS)
        assert made.read_text() == "x"
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize("call", ["fsync", "rename", "mkdir"])
def test_a_full_disk_is_one_sentence_and_the_next_attempt_goes_on(
    cache: StageCache, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    cache.require_writable()

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(NoSpaceError, match=r"No space.*(goes on|kept)"):
            cache.produce("k", writes("a"))
    assert not cache.has("k")
    assert cache.produce("k", writes("a"))


def test_a_folder_that_cannot_be_written_is_said_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/pqbench")):
        with pytest.raises(UserError, match=r"cannot be written .*: pass --cache FOLDER or set PQBENCH_CACHE"):
            StageCache(root).require_writable()


def test_a_read_only_folder(cache: StageCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.require_writable()

    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "open", refuse)  # the tests may run as root, whom no permission stops
    for attempt in (cache.require_writable, lambda: cache.produce("k", pytest.fail)):
        with pytest.raises(UserError, match="Permission denied"):
            attempt()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PQBENCH_CACHE", "/somewhere")
    assert default_cache_folder() == Path("/somewhere")
    monkeypatch.delenv("PQBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert default_cache_folder() == Path("/xdg/pqbench")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_folder() == Path.home() / ".cache" / "pqbench"
