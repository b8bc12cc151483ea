"""SIGTERM and Ctrl-C at a safe point: what is being done is finished and saved first, then the signal has its way."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Inside `installed()`, a signal waits until nothing is held, then `on_stop` runs and the signal is sent again.

    So the process ends as it would have without this class (143 for SIGTERM, 130 for Ctrl-C, or whatever handler was
    there before), only later and with its work saved. A second Ctrl-C ends it at once, without saving; further SIGTERMs
    change nothing, since schedulers send several.

    Args:
        on_stop: called once, at the safe point, in the main thread.
        at_release_only: a signal waits for the next `release` even where nothing is held: several processes must agree
            on when they stop.
    """

    def __init__(self, on_stop: Callable[[], Any], *, at_release_only: bool = False) -> None:
        self.on_stop, self.at_release_only = on_stop, at_release_only
        self.pending: int | None = None
        self._held = 0
        self._before: dict[int, Any] = {}
        self._process = os.getpid()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Listen to the signals; only the main thread can. A signal that the parent had ignored stays so."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._process, self.pending, self._held = os.getpid(), None, 0
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._receive)
        try:
            yield
        except BaseException:
            self._uninstall()
            raise
        self._uninstall()
        if self.pending is not None:  # nothing was left to be saved
            signal.raise_signal(self.pending)

    @property
    def holding(self) -> bool:
        return self._held > 0

    def hold(self) -> None:
        """From here to `release` nothing may be cut: a step, a file that is being written."""
        self._held += 1

    def release(self) -> None:
        self._held -= 1
        if self._held == 0 and self.pending is not None:
            self._stop()

    @contextmanager
    def held(self) -> Iterator[None]:
        """`hold` and `release` around a block; where it raises, its error is what counts."""
        self.hold()
        try:
            yield
        except BaseException:
            self._held -= 1
            raise
        if self.at_release_only:
            self._held -= 1
        else:
            self.release()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader's process has inherited the handler; its parent decides
            raise KeyboardInterrupt
        if self.pending is not None:
            if number == signal.SIGINT:
                self._deliver(number)
            return
        self.pending = number
        if self._held or self.at_release_only:
            name = signal.Signals(number).name
            # not `print`: the signal may have come in the middle of one
            os.write(2, f"\n{name}: the step that runs is finished and saved; Ctrl-C again ends at once\n".encode())
        else:
            self._stop()

    def _stop(self) -> None:
        assert self.pending is not None
        self.on_stop()
        self._deliver(self.pending)

    def _deliver(self, number: int) -> None:
        self._uninstall()
        signal.raise_signal(number)

    def _uninstall(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)
