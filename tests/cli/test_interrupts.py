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
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from processes import HANG_SECONDS, sigint, started

from pqbench.cli import main
from pqbench.cli.shared import interrupts
from pqbench.cli.shared.interrupts import interrupts_between_imports

ROOT = Path(main.__file__).parents[2]
MESSAGE = "Interrupted. What was finished is kept; the same command goes on from there.\n"

INTERRUPTED_MODULE = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep({seconds})
finished = True
"""

Write = Callable[[str, str], None]


@pytest.fixture(autouse=True)
def ctrl_c_is_not_ignored() -> Iterator[None]:
    """As in a terminal, also where pytest is a background job, which starts with SIGINT ignored."""
    with sigint(signal.default_int_handler):
        yield


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a module that can be imported during the test."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, code: str) -> None:
        monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code))

    return write


def test_an_import_is_not_cut_in_half(module: Write) -> None:
    module("slow_module", INTERRUPTED_MODULE.format(seconds=0.3))
    with pytest.raises(KeyboardInterrupt), interrupts_between_imports():  # noqa: PT012
        import slow_module  # type: ignore[import-not-found]

        assert slow_module.finished
        time.sleep(HANG_SECONDS)
    assert sys.modules["slow_module"].finished
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_that_is_still_waiting_at_the_end_is_not_lost(module: Write) -> None:
    module("last_module", INTERRUPTED_MODULE.format(seconds=0))
    with pytest.raises(KeyboardInterrupt), interrupts_between_imports():
        import last_module  # type: ignore[import-not-found]  # noqa: F401


def test_an_interrupt_does_not_come_again_after_the_end(module: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The timer that repeats the signal may be firing just then."""
    kill, fires = signal.pthread_kill, threading.Event()

    def kill_late(thread: int, number: int) -> None:
        fires.set()
        time.sleep(0.2)
        kill(thread, number)

    monkeypatch.setattr(signal, "pthread_kill", kill_late)
    monkeypatch.setattr(sys, "wait_for_test", fires.wait, raising=False)
    module("last_module", INTERRUPTED_MODULE.format(seconds=0) + "import sys; sys.wait_for_test()")
    with pytest.raises(KeyboardInterrupt), interrupts_between_imports():
        import last_module  # noqa: F401
    assert not any(isinstance(thread, threading.Timer) for thread in threading.enumerate())


def test_an_import_that_never_ends_can_be_left(module: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "PATIENCE_SECONDS", 0.2)
    module("endless_module", INTERRUPTED_MODULE.format(seconds=HANG_SECONDS))
    with pytest.raises(KeyboardInterrupt), interrupts_between_imports():
        import endless_module  # type: ignore[import-not-found]  # noqa: F401
    assert "endless_module" not in sys.modules  # its import failed: it was left before its end


def test_elsewhere_an_interrupt_comes_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), interrupts_between_imports():  # noqa: PT012
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(HANG_SECONDS)


def test_another_thread_and_another_handler_are_left_alone() -> None:
    entered = []

    def enter() -> None:
        with interrupts_between_imports():
            entered.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    with sigint(signal.SIG_IGN):
        enter()
    assert entered == [signal.default_int_handler, signal.SIG_IGN]


COMMAND = """
    import sys
    from pqbench.cli.shared import interrupts
    from pqbench.cli.main import main

    class Stop:
        '''Says that the import of a module has begun, and waits there for an answer.'''
        left = {number}
        def find_spec(self, name, path, target=None):
            Stop.left -= 1
            if name == {name!r} or Stop.left == 0:
                print("importing", flush=True)
                sys.stdin.readline()

    interrupts.PATIENCE_SECONDS = float("inf")
    sys.meta_path.insert(0, Stop())
    main({arguments!r})
"""
RUN = ["run", "-m", "rtn", "-w", "tiny", "-n", "4", "--engines", "none"]


def interrupted_while_it_imports(
    folder: Path, arguments: list[str], name: str = "", number: int = 0, ignored: bool = False
) -> tuple[int, str]:
    """Exit code and stderr of a command that gets SIGINT in the import of the module `name`, or in the `number`-th.

    ignored   it was started with SIGINT ignored
    """
    environment = os.environ | {
        "PQBENCH_CACHE": str(folder / "cache"),
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    with started(
        [sys.executable, "-c", textwrap.dedent(COMMAND.format(arguments=arguments, name=name, number=number))],
        ignores_sigint=ignored,
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate("go on\n", timeout=HANG_SECONDS)
    return process.returncode, errors


def test_a_run_that_is_interrupted_while_it_imports_ends_with_one_line(tmp_path: Path) -> None:
    code, errors = interrupted_while_it_imports(tmp_path, RUN, "torch")
    assert (code, errors.endswith(MESSAGE), "Traceback" in errors) == (130, True, False), errors


@pytest.mark.slow
def test_a_run_that_is_interrupted_in_any_import_ends_with_one_line(tmp_path: Path) -> None:
    for number in sorted(random.randrange(1, 3000) for _ in range(20)):
        code, errors = interrupted_while_it_imports(tmp_path, RUN, number=number)
        assert (code, errors.endswith(MESSAGE), "Traceback" in errors) == (130, True, False), (number, errors)


def test_a_command_that_starts_with_ctrl_c_ignored_leaves_it_ignored(tmp_path: Path) -> None:
    """A shell starts its background jobs so: a Ctrl-C in its terminal is not meant for them."""
    code, errors = interrupted_while_it_imports(tmp_path, ["methods", "list"], "pqbench.cli.methods", ignored=True)
    assert (code, errors) == (0, "")
