"""Ctrl-C while modules are imported: the import ends, then the command does, with one line."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pqbench.cli import main
from pqbench.cli.shared import interrupts
from pqbench.cli.shared.interrupts import interrupts_between_imports

ROOT = Path(main.__file__).parents[2]
MESSAGE = "Interrupted. What was finished is kept; the same command goes on from there.\n"

SLOW_MODULE = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep(0.3)
finished = True
"""

Write = Callable[[str, str], None]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module that can be imported during the test."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, code: str) -> None:
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))

    return write


def test_an_import_is_not_cut_in_half(module: Write) -> None:
    module("slow_module", SLOW_MODULE)
    with pytest.raises(KeyboardInterrupt), interrupts_between_imports():  # noqa: PT012
        import slow_module  # type: ignore[import-not-found]

        assert slow_module.finished
        time.sleep(20)
    assert sys.modules["slow_module"].finished
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_is_still_waiting_at_the_end_is_not_lost(module: Write) -> None:
    module("last_module", SLOW_MODULE)
    with pytest.raises(KeyboardInterrupt), interrupts_between_imports():
        import last_module  # type: ignore[import-not-found]  # noqa: F401


def test_an_import_that_never_ends_can_be_left(module: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "PATIENCE_SECONDS", 0.2)
    module("endless_module", SLOW_MODULE.replace("0.3", "20"))
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), interrupts_between_imports():
        import endless_module  # type: ignore[import-not-found]  # noqa: F401
    assert time.monotonic() - started < 5


def test_elsewhere_an_interrupt_comes_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts_between_imports():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(20)


def test_another_thread_and_another_handler_are_left_alone() -> None:
    entered = []

    def enter() -> None:
        with interrupts_between_imports():
            entered.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    earlier = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        enter()
    finally:
        signal.signal(signal.SIGINT, earlier)
    assert entered == [signal.default_int_handler, signal.SIG_IGN]


def interrupted_after(seconds: float, folder: Path) -> tuple[int, str]:
    """Exit code and stderr of a run, of which nothing is computed, that is interrupted so long after its start."""
    code = """
        from pqbench.cli.main import main
        print("started", flush=True)
        main(["run", "-m", "rtn", "-w", "tiny", "-n", "2000", "-o", "run"])
    """
    environment = os.environ | {
        "PQBENCH_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    return process.returncode, errors


@pytest.mark.parametrize("instant", [0.05, pytest.param("many", marks=pytest.mark.slow)])
def test_a_run_that_is_interrupted_while_it_imports_ends_with_one_line(instant: float | str, tmp_path: Path) -> None:
    instants = [instant] if isinstance(instant, float) else [random.random() * 3 for _ in range(20)]
    for seconds in instants:
        code, errors = interrupted_after(seconds, tmp_path)
        assert (code, errors.endswith(MESSAGE), "Traceback" in errors) == (130, True, False), (seconds, errors)
