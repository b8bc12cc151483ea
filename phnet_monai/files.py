"""Files that are there completely or not at all.

Each is written under another name in its own folder and then renamed, so that a reader, or a job cut short,
never sees half a file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

PARTIAL = ".part"
_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_PARTIAL_NAME = re.compile(r"\.[0-9a-f]{32}" + re.escape(PARTIAL))


@contextmanager
def atomic_writer(path: str | Path, *, sync: bool = False) -> Iterator[IO[bytes]]:
    """A binary stream whose content becomes the file `path` when the block ends well. Makes missing folders.

    If the block raises, `path` stays as it was and nothing is left behind. An error of the disk names `path`.

    Args:
        sync: bring the content to the disk before the rename (checkpoints: they must survive a power cut).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # a name of its own, not one longer than `path.name`, which may be as long as names can be
    partial = path.with_name(f".{uuid.uuid4().hex}{PARTIAL}")
    try:
        with disk_errors_name(path):
            with partial.open("xb") as stream:
                yield stream
                if sync:
                    stream.flush()
                    os.fsync(stream.fileno())
            os.replace(partial, path)
            if sync:
                _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def disk_errors_name(path: str | Path) -> Iterator[None]:
    """Inside, an error of the disk names `path`: writing to a stream names no file."""
    try:
        yield
    except Exception as error:
        if (full := disk_error(error)) is not None:
            full.filename = str(path)
        raise


def _sync_folder(folder: Path) -> None:
    """Bring the names of a folder to the disk, after a rename."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def keep_as(path: str | Path, other: str | Path) -> None:
    """Let the file `path` be known as `other`, too, in the same folder; `path` is there all the time."""
    partial = Path(other).with_name(f".{uuid.uuid4().hex}{PARTIAL}")
    try:
        try:
            os.link(path, partial)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, partial)
        os.replace(partial, other)
    finally:
        partial.unlink(missing_ok=True)


DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
"""No space left, quota used up, disk turned read-only: whatever is written next will fail as well."""


def disk_error(error: BaseException | None) -> OSError | None:
    """The error of the disk (`DISK_ERRORS`) behind `error`, which a library may have wrapped; None: it is another."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, OSError) and error.errno in DISK_ERRORS:
            return error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return None


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON, ASCII only (any file name survives), ending in a line feed."""
    with atomic_writer(path) as stream:
        stream.write(json.dumps(content, indent=2, ensure_ascii=True).encode("ascii") + b"\n")


def digest(content: Any) -> str:
    """16 hex digits that stand for plain values (JSON), whatever the order of their keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def files_below(folder: str | Path) -> list[Path]:
    """All files in `folder` and its subfolders, sorted.

    Names that begin with a dot are passed over, links to folders are not followed; a link that leads nowhere counts as
    a file, so that its reader tells of it.

    Raises:
        OSError: a folder may not be looked into.
    """

    def refuse(error: OSError) -> None:
        raise error  # os.walk would pass over it

    found: list[Path] = []
    for place, subfolders, names in os.walk(folder, onerror=refuse):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        paths = [Path(place, name) for name in names if not name.startswith(".")]
        found += [path for path in paths if path.is_file() or path.is_symlink()]
    return sorted(found)


def remove_partial_files(folder: str | Path, *, below: bool = True) -> None:
    """Remove what `atomic_writer` left in `folder` when its process was killed. Nobody may be writing there.

    Args:
        below: in its subfolders too.
    """
    pattern = f".*{PARTIAL}"
    for path in Path(folder).rglob(pattern) if below else Path(folder).glob(pattern):
        if _PARTIAL_NAME.fullmatch(path.name):
            path.unlink(missing_ok=True)


def make_folder(folder: str | Path) -> bool:
    """Make a folder with its parents; whether it was made by this call, and not there before."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise
        return False
    return True


def remove_unless_more(folder: str | Path, names: Collection[str]) -> None:
    """Remove a folder that holds nothing but files and folders of these names, as far as it can be removed."""
    folder = Path(folder)
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= set(names):
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(folder: str | Path, who: str) -> Iterator[None]:
    """Inside, this process alone is at work in `folder` (made where it is missing); a killed one leaves no lock behind.

    Args:
        who: what is at work, for the message.

    Raises:
        BlockingIOError: another process holds the lock.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    with open(folder / ".lock", "w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(f"{folder}: another {who} is at work in this folder") from error
        yield


FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What a spreadsheet takes for a formula, or for less than it is, at the beginning of a cell."""


def csv_text(text: str) -> str:
    """`text` as a spreadsheet may see it: with an apostrophe before what it would take for a formula."""
    return f"'{text}" if text.lstrip("'").startswith(FORMULA) else text


def terminal_text(text: str) -> str:
    """A line of text, which may hold names of files, as a terminal may see it: without what would move its cursor,
    change its colours, turn the direction of writing or begin another line."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def terminal_lines(text: str) -> str:
    """`terminal_text` of each line."""
    return "\n".join(map(terminal_text, text.split("\n")))


def without_csv_mark(text: str) -> str:
    """The text of which `csv_text` made this one."""
    return text[1:] if text.startswith("'") and text.lstrip("'").startswith(FORMULA) else text


def real_path(path: str | Path) -> Path:
    """Absolute, without links; unlike `Path.resolve`, links in a circle are no error here."""
    return Path(os.path.realpath(path))


def check_out(out: str | Path) -> Path:
    """`out` as a path.

    Raises:
        NotADirectoryError: it, or a folder above it, is a file or a link to nowhere.
        ValueError: it is empty.
    """
    if not str(out):
        raise ValueError("the output folder has no name (an unset variable?); `.` is the present folder")
    out = Path(out)
    for folder in (out, *out.parents):
        if folder.is_symlink() and not folder.exists():
            raise NotADirectoryError(f"{folder} is a link that leads nowhere, expected a folder for the results")
        if folder.exists() and not folder.is_dir():
            raise NotADirectoryError(f"{folder} is a file, expected a folder for the results")
    return out
