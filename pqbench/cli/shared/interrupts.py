"""Ctrl-C, which waits while a module is being imported.

Mechanism: an exception out of the middle of an import leaves half a module behind, and one out of the middle of a
library's initialisation in C++ (torch, OpenVINO, pydantic) ends the process by an abort. So the handler looks at the
stack first: below an import it asks for itself again a moment later, until the import is over. Only then comes
`KeyboardInterrupt`, at a place that can be left.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

PATIENCE_SECONDS: Final = 30.0
"""How long an import is waited for: one that never ends can be left nevertheless."""

_AGAIN_SECONDS: Final = 0.05
_IMPORT_MACHINERY: Final = "<frozen importlib._bootstrap>"


@contextmanager
def interrupts_between_imports() -> Iterator[None]:
    """Within, Ctrl-C raises `KeyboardInterrupt` as always, but not in the middle of an import.

    Changes nothing outside the main thread, and where Ctrl-C is handled or ignored in another way already. A process
    that starts with SIGINT ignored, as a shell's background job does, leaves it ignored.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    handler = _PatientHandler()
    signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        handler.stop()
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if handler.is_waiting:
        raise KeyboardInterrupt


class _PatientHandler:
    """A handler of SIGINT that puts itself off while an import is going on."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._timer: threading.Timer | None = None
        self._is_stopped = False

    @property
    def is_waiting(self) -> bool:
        """Whether a Ctrl-C has come that has not been raised yet."""
        return self._since is not None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if self._is_stopped:
            return
        if _is_importing(frame) and now - self._since < PATIENCE_SECONDS:
            self._ask_again()
            return
        self.forget()
        self._since = None
        signal.default_int_handler(number, frame)

    def stop(self) -> None:
        """Raise no more, and wait for a timer that may be sending its signal: no signal comes after this."""
        self._is_stopped = True
        self.forget()
        if self._timer is not None:
            self._timer.join()

    def forget(self) -> None:
        """Ask no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _ask_again(self) -> None:
        self.forget()
        thread = threading.main_thread().ident
        assert thread is not None
        # The signal itself, not only its handler: it also ends what the main thread may be waiting for by then.
        self._timer = threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, (thread, signal.SIGINT))
        self._timer.daemon = True
        self._timer.start()


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORT_MACHINERY:
            return True
        frame = frame.f_back
    return False
