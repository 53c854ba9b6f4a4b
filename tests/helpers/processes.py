"""Processes that a test starts: their SIGINT is what the test says, and none outlives the test."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

HANG_SECONDS = 300
"""Longer than any process of a test takes on a busy machine: one that takes longer hangs."""


@contextmanager
def started(
    command: Sequence[str | Path], *, ignores_sigint: bool = False, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """A process in a group of its own. The whole group is killed at the end, whatever happened.

    ignores_sigint   whether it starts with SIGINT ignored, as a background job of a shell does. Without, it starts
                     with the default, even where pytest itself is a background job.
    options          for `subprocess.Popen`
    """
    with sigint(signal.SIG_IGN if ignores_sigint else signal.default_int_handler):
        process = subprocess.Popen(command, text=True, start_new_session=True, **options)
    try:
        with process:
            try:
                yield process
            finally:
                # The group lives as long as one of its processes, also where the first of them has ended.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    finally:
        process.wait()


@contextmanager
def sigint(handler: Any) -> Iterator[None]:
    """Another handler of SIGINT. Processes that start meanwhile inherit `SIG_IGN`, and the default for any other."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("Only the main thread can set what SIGINT does.")
    earlier = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)
