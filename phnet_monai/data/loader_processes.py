"""Processes of data loaders: as many as help, and none that outlives its training."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

from phnet_monai.device import core_count

PR_SET_PDEATHSIG = 1
"""Of prctl(2): the signal that a process gets when its parent ends."""


def process_count(asked: int) -> int:
    """What a loader gets of `num_workers`: no more processes than this one may use cores."""
    return min(asked, core_count())


def end_with_parent(_: int) -> None:
    """In a loader process: end when the training says so, and be killed when the training is (Linux).

    Schedulers send SIGTERM to all processes of a job: the training saves, but could not if its loaders were gone.
    torch's loader processes notice that their parent is gone, but can then wait for ever to hand on what they loaded.
    """
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, daemon=True).start()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_when_told() -> None:
    """SIGTERM of the training itself ends this process; that of others is for the training."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
