"""Scores are worth something only if no test image was trained on: one file, one patient, one scan on one side."""

from __future__ import annotations

import logging
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

from phnet_monai.data.datalist import FILE_NAME, groups_changed, load_datalist, load_meta
from phnet_monai.data.near_duplicates import near_duplicate_pairs
from phnet_monai.data.records import shorten
from phnet_monai.data.splits import SIDES
from phnet_monai.files import sha256_of, terminal_text

ALLOWED = "leak_allowed"
"""Key of a datalist's `meta` that says why its parts may share scans."""
PAPER = "protocol paper"


class LeakError(ValueError):
    """A split has one file, one group or near-duplicates on two sides."""


class Leak(NamedTuple):
    """What lies on two sides of a split: images of equal content ("file"), of one patient or scan ("group"), or alike
    enough to show one scan ("near-duplicates").

    Attributes:
        name: first digits of the file's SHA-256, or the group, or how alike they are.
        members: (part, image) of all that share it.
    """

    kind: Literal["file", "group", "near-duplicates"]
    name: str
    members: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """For a message: what was found, with one image of each side."""
        by_side = {SIDES[part]: f"{Path(image).name} ({part})" for part, image in reversed(self.members)}
        what = {"file": "one file", "group": f"of group {self.name}"}.get(self.kind, f"near-duplicates ({self.name})")
        return f"{' and '.join(by_side[side] for side in dict.fromkeys(SIDES.values()) if side in by_side)} are {what}"


def find_leaks(
    parts: Mapping[str, Sequence[Mapping[str, str]]], digests: Mapping[str, str] | None = None
) -> list[Leak]:
    """Find what lies on two sides: training (labeled or unlabeled), validation, test.

    Reads no picture. Files are compared by SHA-256: as recorded, else computed, and that only for files whose size
    occurs on two sides.

    Args:
        parts: entries with `image` and, where known, `group_id`, by part.
        digests: SHA-256 by path of the image, where known.

    Returns:
        leaks by equal files, then by groups that these do not explain.

    Raises:
        OSError: an image cannot be read.
    """
    entries = [(part, entry) for part, listed in parts.items() for entry in listed]
    content = _digests([(SIDES[part], entry["image"]) for part, entry in entries], digests or {})
    files: dict[str, list[tuple[str, str]]] = defaultdict(list)
    groups: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for part, entry in entries:
        member = (part, entry["image"])
        files[content.get(entry["image"], entry["image"])].append(member)
        if entry.get("group_id") is not None:
            groups[entry["group_id"]].append(member)
    found = [Leak("file", name[:12], tuple(members)) for name, members in files.items() if _crosses(members)]
    told = {frozenset(leak.members) for leak in found}
    return found + [
        Leak("group", name, tuple(members))
        for name, members in groups.items()
        if _crosses(members) and frozenset(members) not in told
    ]


@lru_cache(maxsize=4)  # the command line looks before it makes a folder, and the config that it runs looks again
def _near_duplicates(entries: tuple[tuple[str, str], ...]) -> list[Leak]:
    """Near-duplicates among images of several sides, given as (part, image), that lie on two of them."""
    found = [
        Leak("near-duplicates", f"similarity {pair.similarity:.2f}", (entries[pair.one], entries[pair.other]))
        for pair in near_duplicate_pairs([image for _, image in entries])
    ]
    return [leak for leak in found if _crosses(leak.members)]


GO_ON = "--allow-leak (in configs: allow_leak) goes on all the same"


def check_leaks(datalist: str | PathLike[str], *, allow: bool = False, otherwise: str = GO_ON) -> str | None:
    """Refuse a datalist that has one file, one group or near-duplicates on two sides.

    Pictures are compared only where some are listed that `phnet prepare` did not write down, or that have changed
    since, or where its groups, which are made of near-duplicates or of patients, have been changed.

    Args:
        datalist: the JSON file, or the folder that holds it.
        allow: the user takes the leak; pictures are not compared.
        otherwise: the end of the error's message: what can be done but mending the split.

    Returns:
        a warning where there is a leak that is allowed, by `allow` or by what the datalist says of itself; else None.

    Raises:
        LeakError: there is a leak that is not allowed; the message names files and what to do.
        FileNotFoundError, ValueError: as `load_datalist`.
        DecodeError: a picture that must be compared cannot be read.
    """
    file = Path(datalist) / FILE_NAME if Path(datalist).is_dir() else Path(datalist)
    meta = load_meta(file)
    parts, recorded = load_datalist(file), recorded_digests(file, meta)
    images = {entry["image"] for listed in parts.values() for entry in listed}
    # a file that was replaced since is no longer the one that `phnet prepare` compared with the others
    digests = {path: now for path in images & recorded.keys() if (now := digest_of_file(path)) == recorded[path]}
    reason = "--allow-leak" if allow else why_allowed(meta)
    leaks = find_leaks(parts, digests)
    entries = tuple((part, entry["image"]) for part, listed in parts.items() for entry in listed)
    sides = {(SIDES[part], image) for part, image in entries}
    if reason == PAPER and len(sides) > len(images):
        reason = None  # that protocol lists no image twice: the datalist was changed
    if reason is None and _crosses(entries) and (not images <= digests.keys() or groups_changed(file)):
        told = [set(leak.members) for leak in leaks]
        leaks += [one for one in _near_duplicates(entries) if not any(known.issuperset(one.members) for known in told)]
    if not leaks:
        return None
    said = f"{file}: {len(leaks)} scans lie on two sides of the split: {_listed(leaks)}."
    if reason is None:
        raise LeakError(
            f"{said} Scores would be too high. Prepare the data anew (protocol grouped), or take these images out of "
            f"one side; {otherwise}."
        )
    return f"{said} Allowed by {reason}; scores are too high."


def refuse_leaks(datalist: str | PathLike[str], *, allow: bool = False, optional: bool = False) -> None:
    """`check_leaks` as a component of configs: what is allowed is logged as a warning.

    Args:
        optional: pass where there is no such file: MONAI Label, say, gives its own lists in place of the datalist's.
    """
    if optional and not Path(datalist).exists():
        return
    warning = check_leaks(datalist, allow=allow)
    if warning is not None:
        logging.getLogger(__name__).warning("phnet: warning: %s", terminal_text(warning))


def why_allowed(meta: Mapping[str, Any]) -> str | None:
    """What in a datalist's `meta` allows a leak: the protocol `paper` does, which splits at random as the literature.

    Returns:
        the reason in words; None where there is none.
    """
    if meta.get(ALLOWED):
        return str(meta[ALLOWED])
    return PAPER if meta.get("protocol") == "paper" else None


def recorded_digests(datalist: str | PathLike[str], meta: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 by absolute path, as `phnet prepare` recorded them in the `meta` of a datalist."""
    folder = Path(datalist).resolve().parent
    return {os.path.normpath(folder / name): value for name, value in (meta.get("sha256") or {}).items()}


def same_files(paths: Sequence[str | PathLike[str]]) -> list[tuple[int, int]]:
    """Find files of equal content; only files of equal size are read.

    Returns:
        pairs (first, other) of places in the list: each copy with the first of its kind.

    Raises:
        OSError: a file cannot be read.
    """
    names = [os.fspath(path) for path in paths]
    content = _digests([(str(place), name) for place, name in enumerate(names)], {})
    first: dict[str, int] = {}
    return [
        (first[content[name]], place)
        for place, name in enumerate(names)
        if name in content and first.setdefault(content[name], place) != place
    ]


def _crosses(members: Iterable[tuple[str, str]]) -> bool:
    return len({SIDES[part] for part, _ in members}) > 1


def _digests(files: Sequence[tuple[str, str]], known: Mapping[str, str]) -> dict[str, str]:
    """SHA-256 by path of (side, path): those known, and those of files that may equal one of another side."""
    sizes = {path: os.path.getsize(path) for _, path in files}
    sides: dict[int, set[str]] = defaultdict(set)
    for side, path in files:
        sides[sizes[path]].add(side)
    return {
        path: known.get(path) or digest_of_file(path)
        for path, size in sizes.items()
        if path in known or len(sides[size]) > 1
    }


def digest_of_file(path: str | PathLike[str]) -> str:
    """SHA-256 of a file, computed once while it stays as it is: a command and the config that it runs both look."""
    found = os.stat(path)
    return _digest_of_state(os.fspath(path), found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=200_000)
def _digest_of_state(path: str, size: int, modified_ns: int) -> str:
    return sha256_of(path)


def _listed(leaks: Sequence[Leak]) -> str:
    return shorten([leak.text for leak in leaks], 3)
