"""A bundle in one zip file. It is unpacked only after every entry was found harmless, into a folder that goes away."""

from __future__ import annotations

import lzma
import shutil
import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath


class ArchiveError(ValueError):
    """A zip file cannot be used; the message names it and the reason."""


MAX_UNPACKED_BYTES = 2_000_000_000
"""All entries together: a few kilobytes of zip can hold terabytes of zeros."""

MAX_ENTRIES = 2_000

_CONFIG = "configs/inference.json"
"""What makes a zip file a bundle; PyTorch's own files are zip files, too."""

_ENCRYPTED = 0x1


def zip_names(path: Path) -> list[str]:
    """The names in a zip file; none where the file is no zip file, or a broken one."""
    try:
        with path.open("rb") as stream:
            if stream.read(2) != b"PK":
                return []
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return []


@contextmanager
def unzipped(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Inside the block, a folder stands in place of each zipped bundle of `paths`; all else stays.

    Errors that are raised inside name the zip file.

    Raises:
        ArchiveError: an entry would leave the folder or is a link, or the whole is too large or damaged.
    """
    with ExitStack() as folders:
        found, places = [], {}
        for path in paths:
            if path.is_file() and any(name.replace("\\", "/").endswith(_CONFIG) for name in zip_names(path)):
                folder = Path(folders.enter_context(tempfile.TemporaryDirectory(prefix="phnet-")))
                places[folder / path.name] = path
                unzip(path, folder / path.name)
                found.append(_root(folder / path.name))
            else:
                found.append(path)
        try:
            yield found
        except (ValueError, FileNotFoundError) as error:
            text = str(error)
            for folder, path in places.items():
                text = text.replace(str(folder), str(path))
            if text == str(error):
                raise
            raise type(error)(text) from error


def _root(folder: Path) -> Path:
    """The bundle: `folder` itself, or its only folder, lifted into its place so that it bears its name."""
    inner = [place for place in folder.iterdir() if (place / _CONFIG).is_file()]
    if not (folder / _CONFIG).is_file() and len(inner) == 1:
        lifted = folder.rename(folder.with_name(f"{folder.name}.outer")) / inner[0].name
        lifted.rename(folder)
    return folder


def unzip(archive: Path, folder: Path) -> None:
    """Unpack `archive` into the new folder `folder`, and nowhere else.

    Raises:
        ArchiveError: a name is absolute, climbs (`..`) or comes twice; an entry is a link, a device or encrypted;
            there are more than `MAX_ENTRIES`, or more than `MAX_UNPACKED_BYTES` unpacked; the file is damaged.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            entries = packed.infolist()
            _check(archive, entries)
            folder.mkdir()
            for entry in entries:
                target = folder / entry.filename
                if entry.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                # not more than the size that was checked: zipfile stops there
                with packed.open(entry) as source, target.open("xb") as out:
                    shutil.copyfileobj(source, out)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, FileExistsError) as error:
        raise ArchiveError(f"{archive}: cannot be unpacked ({error}); copy it again") from error


def _check(archive: Path, entries: Sequence[zipfile.ZipInfo]) -> None:
    seen: set[str] = set()
    for entry in entries:
        if (fault := _fault(entry)) is not None:
            raise ArchiveError(f"{archive}: its entry {entry.filename!r} {fault}; no bundle needs that: do not use it")
        name = str(PurePosixPath(entry.filename)).casefold()
        if name in seen:
            raise ArchiveError(f"{archive}: has the entry {entry.filename!r} twice; pack it again")
        seen.add(name)
    size = sum(entry.file_size for entry in entries)
    if len(entries) > MAX_ENTRIES or size > MAX_UNPACKED_BYTES:
        raise ArchiveError(
            f"{archive}: has {len(entries)} entries of {size / 1e6:.0f} MB unpacked, more than the {MAX_ENTRIES} of "
            f"{MAX_UNPACKED_BYTES / 1e6:.0f} MB that are taken. Unpack it yourself and give the folder"
        )


def _fault(entry: zipfile.ZipInfo) -> str | None:
    """What is wrong with an entry, for the message."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if entry.flag_bits & _ENCRYPTED:
        return "is encrypted"
    # `orig_filename`: on Windows, zipfile itself turns backslashes round
    if any(letter in entry.orig_filename for letter in "\\:\0"):
        return "has a name of another system"
    path = PurePosixPath(entry.filename)
    return "would leave the folder" if path.is_absolute() or ".." in path.parts or not path.parts else None
