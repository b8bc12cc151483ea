"""The datalist: one JSON file that says which image is in which part, in the Decathlon form that MONAI reads.

Paths are relative to the file, so that the folder can be moved together with its images. Masks of unlabeled images
stand under `hidden_label`: studies of pseudo-label accuracy may look there, training never does.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from phnet_monai.data.decode import read_mask
from phnet_monai.data.records import Record, shorten
from phnet_monai.data.splits import PARTS
from phnet_monai.files import atomic_writer, digest

FILE_NAME = "datalist.json"
FORMAT_VERSION = 1
LABEL_FOLDER = "labels"
NO_CLASS = "-"
GROUPS = "groups_sha256"
"""Key of `meta`: digest of which image is in which group."""
ADDED = "added"
"""Key of `meta`: how many outlines were added later, for each time that some were."""


def write_datalist(
    parts: Mapping[str, Sequence[Record]],
    out: str | PathLike[str],
    *,
    meta: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write `out/datalist.json`, and below `out/labels/` the unions of masks that lie in several files.

    Single masks and all images are referenced where they are. Files appear complete or not at all. A file below
    `out/labels/` that the datalist of `out` does not name is kept; the union gets a name beside it.

    Args:
        parts: the keys labeled, unlabeled, validation, test.
        out: folder, made where missing.
        meta: what to record of how the parts were made (dataset, protocol, seeds ...); plain JSON values. `version`,
            `counts`, `sha256` (of every image and mask, by relative path) and a digest of the groups are added.
        overwrite: replace a datalist that is there.
        progress: show a progress bar on standard error.

    Returns:
        absolute path of the written file.

    Raises:
        FileExistsError: there is a datalist and `overwrite` is false.
        ValueError: the parts have other names than expected.
    """
    if set(parts) != set(PARTS):
        raise ValueError(f"parts are {sorted(parts)}, expected {sorted(PARTS)}.")
    target = check_target(out, overwrite=overwrite)
    folder = target.parent
    folder.mkdir(parents=True, exist_ok=True)
    digests: dict[str, str] = {}
    files = MaskFiles(named_masks(folder))
    content: dict[str, Any] = {part: [] for part in PARTS}
    total = sum(len(records) for records in parts.values())
    with tqdm(total=total, desc="datalist", disable=None if progress else True, leave=False) as bar:
        for part in PARTS:
            for record in parts[part]:
                content[part].append(_entry(record, part, folder, digests, files))
                bar.update()
    content["meta"] = {
        "version": FORMAT_VERSION,
        **(meta or {}),
        "counts": {part: len(content[part]) for part in PARTS},
        "sha256": digests,
        GROUPS: _groups_digest(content),
    }
    try:
        text = json.dumps(content, indent=1, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a file name that is no text: its bytes as escapes, which come back as they were
        text = json.dumps(content, indent=1, ensure_ascii=True).encode()
    with atomic_writer(target) as stream:
        stream.write(text + b"\n")
    return target


def check_target(out: str | PathLike[str], *, overwrite: bool) -> Path:
    """Absolute path of the datalist to be written into the folder `out`.

    Raises:
        FileExistsError: it is there and must not be replaced.
        NotADirectoryError: `out` is a file, or a link to nowhere.
    """
    folder = Path(out)
    if not folder.is_dir() and (folder.exists() or folder.is_symlink()):
        what = "a file" if folder.exists() else "a link that leads nowhere"
        raise NotADirectoryError(f"{folder} is {what}, expected a folder to write {FILE_NAME} into.")
    target = Path(os.path.realpath(folder)) / FILE_NAME
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists. Choose another folder, or allow it to be replaced (overwrite).")
    return target


def load_datalist(path: str | PathLike[str]) -> dict[str, list[dict[str, str]]]:
    """Read a datalist with absolute paths.

    Args:
        path: the JSON file, or the folder that holds it.

    Returns:
        dict with the keys labeled, unlabeled, validation, test; entries have `image`, `case_id`, `group_id`,
        where known `class` and further details, and `label` (or `hidden_label` in `unlabeled`) where a mask
        exists. Paths are absolute strings.

    Raises:
        FileNotFoundError: the datalist, or images or masks that it names, are not there.
        ValueError: the file is no datalist.
    """
    file, content = _read_json(path)
    parts = {part: [_absolute(entry, file.parent) for entry in content[part]] for part in PARTS}
    names = (entry[key] for part in PARTS for entry in parts[part] for key in _PATH_KEYS if key in entry)
    missing = [name for name in names if not os.path.isfile(name)]
    if missing:
        raise FileNotFoundError(
            f"{file} names {len(missing)} files that are not there: {shorten(missing, 3)}. Its paths are relative "
            "to its own folder: move it back beside the images, or prepare the dataset anew."
        )
    return parts


def load_part(path: str | PathLike[str], part: str) -> list[dict[str, str]]:
    """One list of `load_datalist`: "labeled", "unlabeled", "validation" or "test".

    Raises:
        ValueError: there is no such part; otherwise as `load_datalist`.
    """
    if part not in PARTS:
        raise ValueError(f"part is {part!r}, expected one of {', '.join(PARTS)}.")
    return load_datalist(path)[part]


def groups_changed(path: str | PathLike[str]) -> bool:
    """Whether images stand in other groups than `write_datalist` has recorded; False where it recorded nothing.

    Raises as `load_datalist`.
    """
    _, content = _read_json(path)
    return content["meta"].get(GROUPS, _groups_digest(content)) != _groups_digest(content)


def _groups_digest(content: Mapping[str, Any]) -> str:
    return digest(sorted([entry["image"], entry["group_id"]] for part in PARTS for entry in content[part]))


def load_meta(path: str | PathLike[str]) -> dict[str, Any]:
    """How the datalist was made: version, dataset, protocol, seeds, counts, sha256. Raises as `load_datalist`."""
    return dict(_read_json(path)[1]["meta"])


def named_masks(path: str | PathLike[str]) -> set[Path]:
    """The masks that a datalist names, whether they are there or not; none where there is no datalist."""
    try:
        file, content = _read_json(path)
    except (OSError, ValueError):
        return set()
    entries = (_absolute(entry, file.parent) for part in PARTS for entry in content[part])
    return {Path(entry[key]) for entry in entries for key in ("label", "hidden_label") if key in entry}


def summary(path: str | PathLike[str]) -> str:
    """Short text table of a datalist: images per part and class, and how many groups of two images or more.

    Args:
        path: the JSON file, or the folder that holds it.
    """
    _, content = _read_json(path)
    meta = content["meta"]
    found = {entry.get("class", NO_CLASS) for part in PARTS for entry in content[part]}
    classes = sorted(found) if found != {NO_CLASS} else []
    rows = [["part", "images", *classes, "groups", "in groups of 2+"]]
    sizes = Counter(entry["group_id"] for part in PARTS for entry in content[part])
    for part in PARTS:
        entries = content[part]
        per_class = Counter(entry.get("class", NO_CLASS) for entry in entries)
        shared = sum(sizes[entry["group_id"]] > 1 for entry in entries)
        groups = len({entry["group_id"] for entry in entries})
        rows.append([part, *map(str, (len(entries), *(per_class[name] for name in classes), groups, shared))])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    total = sum(len(content[part]) for part in PARTS)
    head = f"{meta.get('dataset', 'dataset')}: {total} images, protocol {meta.get('protocol', '?')}, "
    head += f"labeled {meta.get('labeled', '?')}, seed {meta.get('seed', '?')}"
    if meta.get("folds") is not None:
        head += f", fold {meta['fold']} of {meta['folds']}"
    for counts in meta.get(ADDED, []):
        kinds = ("from_unlabeled", "of unlabeled images"), ("replaced", "anew"), ("new_images", "of further images")
        head += "\noutlines added: " + ", ".join(f"{counts[key]} {kind}" for key, kind in kinds if counts.get(key))
    return "\n".join([head, *lines])


def mask_of(entry: Mapping[str, Any]) -> str | None:
    """Path of an entry's mask, also of one that is hidden from training; None where nobody outlined the image."""
    return entry.get("label") or entry.get("hidden_label")


_PATH_KEYS = ("image", "label", "hidden_label")
ENTRY_KEYS = (*_PATH_KEYS, "case_id", "group_id", "class")
"""Keys of an entry with a meaning of their own; all others are details of the data set."""


class MaskFiles:
    """Writes mask files beside those of others: a name that is taken, or that of a file which must not be replaced,
    gets a number.

    Args:
        ours: files that may be replaced, since the datalist that named them is.
    """

    def __init__(self, ours: Set[Path]) -> None:
        self.ours = ours
        self.taken: set[Path] = set()

    def write(self, wanted: Path, content: bytes) -> Path:
        """Write to `wanted`, or to `x (2).png`, `x (3).png`, ... beside it, and return which it was.

        A file that holds the same already is used: a run that was killed has left it.
        """
        target, number = wanted, 2
        while target in self.taken or not self._may_write(target, content):
            target, number = wanted.with_name(f"{wanted.stem} ({number}){wanted.suffix}"), number + 1
        self.taken.add(target)
        with atomic_writer(target) as stream:
            stream.write(content)
        return target

    def _may_write(self, target: Path, content: bytes) -> bool:
        return not target.exists() or target in self.ours or (target.is_file() and target.read_bytes() == content)


def _entry(record: Record, part: str, folder: Path, digests: dict[str, str], files: MaskFiles) -> dict[str, str]:
    entry = {"image": _reference(record.image, folder, digests)}
    if record.masks:
        mask = record.masks[0] if len(record.masks) == 1 else _write_union(record, folder, files)
        entry["hidden_label" if part == "unlabeled" else "label"] = _reference(mask, folder, digests)
    entry["case_id"] = record.case_id
    entry["group_id"] = record.group_id if record.group_id is not None else record.case_id
    if record.class_name is not None:
        entry["class"] = record.class_name
    return entry | {name: value for name, value in record.details.items() if name not in entry}


def _write_union(record: Record, folder: Path, files: MaskFiles) -> Path:
    stream = io.BytesIO()
    Image.fromarray(read_mask(record.masks).astype(np.uint8) * 255).save(stream, format="PNG")
    return files.write(folder / LABEL_FOLDER / f"{record.case_id}.png", stream.getvalue())


def _reference(path: Path, folder: Path, digests: dict[str, str]) -> str:
    # only the parent is resolved: a file that is itself a link keeps the name that the user knows it by
    absolute = path.parent.resolve() / path.name
    try:
        relative = Path(os.path.relpath(absolute, folder)).as_posix()
    except ValueError:  # another drive under Windows
        relative = absolute.as_posix()
    if relative not in digests:
        digests[relative] = hashlib.sha256(absolute.read_bytes()).hexdigest()
    return relative


def _absolute(entry: Mapping[str, str], folder: Path) -> dict[str, str]:
    # os.path.normpath and not resolve(): a stat of every path component costs seconds on network drives
    return {key: os.path.normpath(folder / value) if key in _PATH_KEYS else value for key, value in entry.items()}


def datalist_path(path: str | PathLike[str]) -> Path:
    """Absolute path of a datalist: `path` itself, or the file in that folder.

    Raises:
        FileNotFoundError: there is none.
    """
    file = Path(path)
    if file.is_dir():
        file = file / FILE_NAME
    if not file.is_file():
        raise FileNotFoundError(f"There is no datalist {file}. Make one with 'phnet prepare'.")
    return file.resolve()


def _read_json(path: str | PathLike[str]) -> tuple[Path, dict[str, Any]]:
    file = datalist_path(path)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON ({error}). Make a datalist with 'phnet prepare'.") from error
    _check_content(file, content)
    return file, content


def _check_content(file: Path, content: Any) -> None:
    lists = isinstance(content, dict) and all(isinstance(content.get(part), list) for part in PARTS)
    if not lists or not isinstance(content.setdefault("meta", {}), dict):
        raise ValueError(
            f"{file} is no datalist: expected lists named {', '.join(PARTS)}. Make one with 'phnet prepare'."
        )
    version = content["meta"].get("version", FORMAT_VERSION)
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{file} is a datalist of version {version!r}, expected {FORMAT_VERSION}. Prepare the data anew."
        )
    digests = content["meta"].get("sha256")
    if digests is not None and not isinstance(digests, dict):
        raise ValueError(
            f"{file}: its meta.sha256 is a {type(digests).__name__}, expected an object of digests by path. Take it "
            "out, or prepare the data anew."
        )
    for part in PARTS:
        needed = {"image"} if part == "unlabeled" else {"image", "label"}
        for number, entry in enumerate(content[part]):
            if not isinstance(entry, dict) or not needed <= entry.keys():
                raise ValueError(f"{file}: entry {number} of {part} lacks {' or '.join(sorted(needed))}: {entry!r}.")
            if not all(isinstance(entry.get(key, ""), str) for key in ENTRY_KEYS):
                raise ValueError(f"{file}: entry {number} of {part} has a path or a name that is no text: {entry!r}.")
            entry.setdefault("case_id", entry["image"])
            entry.setdefault("group_id", entry["case_id"])
