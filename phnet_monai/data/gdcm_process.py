"""GDCM in a process of its own.

Lossless JPEG, which many hospitals store, is decoded by GDCM alone, and what its C++ throws at a damaged frame ends the
process that it runs in. So it runs in another one, which is kept for the next file: a damaged file fails alone.
"""

from __future__ import annotations

import atexit
import io
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

GDCM = "gdcm"
INTERLEAVED: dict[str, Any] = {"planar_configuration": 0}
"""Option of pydicom's decoders for compressed frames: what the header says of colour planes does not count for them
(PS3.5 section 8.2), and some machines say 1. Decoders that give planes say so themselves."""
_FRAME, _END, _ERROR = b"F", b"E", b"X"
_LENGTH = 8

_idle: list[tuple[int, subprocess.Popen[bytes]]] = []
"""Waiting processes, each with the process that started it: a fork must not share them."""
_lock = threading.Lock()


def decoded_apart(path: Path) -> Iterator[np.ndarray]:
    """The frames of a DICOM file, decoded by GDCM, one at a time.

    Raises:
        DecodeError: GDCM ended, or what it said.
    """
    from phnet_monai.data.decode import DecodeError  # the other process runs this file without the package

    process, waits = _take(), False
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        _send(process.stdin, _FRAME, os.fsencode(os.path.abspath(path)))
        while (answer := _receive(process.stdout)) is not None and answer[0] == _FRAME:
            yield np.load(io.BytesIO(answer[1]), allow_pickle=False)
        waits = answer is not None
        if answer is not None and answer[0] == _END:
            return
        said = "it ended" if answer is None else answer[1].decode(errors="replace")
        raise DecodeError(f"{path}: GDCM cannot decode it ({said}). It is damaged: copy or export it again.")
    except BrokenPipeError as error:
        raise DecodeError(f"{path}: GDCM ended. The file is damaged: copy or export it again.") from error
    finally:
        if waits:  # for the next file
            with _lock:
                _idle.append((os.getpid(), process))
        else:  # it has ended, or is in the middle of a file
            _end(process)


def _take() -> subprocess.Popen[bytes]:
    with _lock:
        while _idle:
            owner, process = _idle.pop()
            if owner == os.getpid() and process.poll() is None:
                return process
    run = f"import runpy; runpy.run_path({__file__!r}, run_name='__main__')"  # the package would load torch
    command = [sys.executable, "-c", run]
    # a session of its own: Ctrl-C is for the program, which lets it end
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


@atexit.register
def _end_all() -> None:
    while _idle:
        owner, process = _idle.pop()
        if owner == os.getpid():
            _end(process)


def _send(stream: IO[bytes], kind: bytes, content: bytes = b"") -> None:
    stream.write(kind + len(content).to_bytes(_LENGTH, "big") + content)
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[bytes, bytes] | None:
    """Kind and content; None where the other side has ended."""
    head = stream.read(1 + _LENGTH)
    if len(head) < 1 + _LENGTH:
        return None
    length = int.from_bytes(head[1:], "big")
    content = stream.read(length)
    return (head[:1], content) if len(content) == length else None


def serve() -> None:
    """Answer paths by frames until nobody asks any more."""
    from pydicom.pixels import iter_pixels

    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # GDCM prints
    while (asked := _receive(sys.stdin.buffer)) is not None:
        try:
            with open(os.fsdecode(asked[1]), "rb") as file:
                for pixels in iter_pixels(file, decoding_plugin=GDCM, **INTERLEAVED):
                    packed = io.BytesIO()
                    np.save(packed, pixels, allow_pickle=False)
                    _send(answers, _FRAME, packed.getvalue())
            _send(answers, _END)
        except Exception as error:
            _send(answers, _ERROR, f"{type(error).__name__}: {error}".encode(errors="replace"))


if __name__ == "__main__":
    serve()
