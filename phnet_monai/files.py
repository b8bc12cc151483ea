"""Files that are there completely or not at all.

Each is written under another name in its own folder and then renamed, so that a reader, or a job cut short,
never sees half a file.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_writer(path: str | Path, *, sync: bool = False) -> Iterator[IO[bytes]]:
    """A binary stream whose content becomes the file `path` when the block ends well. Makes missing folders.

    If the block raises, `path` stays as it was and nothing is left behind.

    Args:
        sync: bring the content to the disk before the rename (checkpoints: they must survive a power cut).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a name of its own, not one longer than `path.name`, which may be as long as names can be
    partial = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with partial.open("xb") as stream:
            yield stream
            if sync:
                stream.flush()
                os.fsync(stream.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON, ASCII only (any file name survives), ending in a line feed."""
    with atomic_writer(path) as stream:
        stream.write(json.dumps(content, indent=2, ensure_ascii=True).encode("ascii") + b"\n")
