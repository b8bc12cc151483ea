"""What was done with each scan: one small JSON file in OUT/records, written when all its results are there.

Tables and report are made of these files, so that a run that goes on after a stop, or that several processes share,
tells of all scans. A scan counts as finished while its record fits: the same file, unchanged, with the same model and
settings, all kinds of results that are asked for, and every result as long as it was when written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phnet_monai.files import write_json
from phnet_monai.inference.files import RESULT_FOLDERS

VERSION = 1
RECORDS = "records"
DONE, SKIPPED, FAILED, PASSED_OVER = "done", "skipped", "failed", "no image"
"""What became of a file; skipped ones were finished earlier, what is passed over is sound and holds no image."""

SOME_FAILED, NOTHING_TO_DO = 3, 4
"""Exit codes of commands that work through files."""

_PARTS = {
    "image": str,
    "kind": str,
    "kinds": list,
    "settings": str,
    "origin": str,
    "source": dict,
    "outputs": dict,
    "frames": list,
}

Mark = dict[str, int]


@dataclass(frozen=True)
class Job:
    """One scan to segment.

    Attributes:
        path: the file.
        name: what it is called towards the user: its path below the input, or a hash of its content.
        key: name of its results below each result folder, without ending.
        kinds: results asked for: `masks` and any of `overlays`, `hardness`, `probabilities`.
        settings: digest of model and settings, see `files.digest`.
        origin: digest of where the file lies, so that the same name in another folder is not taken for it; empty for
            names that are made of the content.
        replaces: records of the same scan under earlier names, which go once this one is written.
    """

    path: Path
    name: str
    key: Path
    kinds: tuple[str, ...]
    settings: str = ""
    origin: str = ""
    replaces: tuple[Path, ...] = ()

    def record_file(self, out: Path) -> Path:
        return out / RECORDS / f"{self.key}.json"


def source_mark(path: Path) -> Mark:
    """Length and time of a file: what tells, without reading it, that it is still the same.

    Raises:
        OSError: it is gone.
    """
    found = path.stat()
    return {"bytes": found.st_size, "modified_ns": found.st_mtime_ns}


def write_record(
    out: Path,
    job: Job,
    *,
    mark: Mark,
    kind: str,
    frames: list[dict[str, Any]],
    outputs: Iterable[Path],
    other_modality: str | None = None,
) -> dict[str, Any]:
    """Write the record of a finished scan and return it.

    Args:
        mark: of the file before it was read.
        kind: of the scan (`picture`, `nifti`, `dicom`).
        frames: one entry per frame, see `frames.find_lesions`.
        outputs: the files that were written for it, below `out`.
        other_modality: of the scan, where it is no ultrasound.
    """
    record = {
        "version": VERSION,
        "image": job.name,
        "status": DONE,
        "kind": kind,
        "kinds": list(job.kinds),
        "settings": job.settings,
        "origin": job.origin,
        "source": mark,
        "outputs": {path.relative_to(out).as_posix(): path.stat().st_size for path in outputs},
        "frames": frames,
    }
    if other_modality is not None:
        record["other_modality"] = other_modality
    write_json(job.record_file(out), record)
    return record


def read_record(path: Path) -> dict[str, Any] | None:
    """A record file; None where there is none, or one that is cut short, of another version, or that tells of files
    which are no results."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("version") != VERSION:
        return None
    if not all(isinstance(record.get(name), kind) for name, kind in _PARTS.items()) or not record["frames"]:
        return None
    outputs = [Path(name) for name in record["outputs"]]
    inside = all(path.parts[:1] and path.parts[0] in RESULT_FOLDERS and ".." not in path.parts for path in outputs)
    return record if inside and sum(path.parts[:1] == ("masks",) for path in outputs) == 1 else None


def fits(out: Path, job: Job, record: Mapping[str, Any]) -> bool:
    """Whether a record stands for the results that the job asks for.

    Not if it is of another scan, model or setting, if the file has changed or is gone, or if a result is missing, has
    another length (cut short, say) or is not among those asked before.
    """
    told = (record["image"], record["settings"], record["origin"])
    if told != (job.name, job.settings, job.origin) or not set(job.kinds) <= set(record["kinds"]):
        return False
    return not stale(out, record, job.path)


def stale(out: Path, record: Mapping[str, Any], path: Path) -> bool:
    """Whether results are of a file that has changed since, or damaged: no run may count or show them."""
    try:
        changed = record["source"] != source_mark(path)
    except OSError:
        changed = True
    return changed or not all(_whole(out / name, size) for name, size in record["outputs"].items())


def _whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def discard(out: Path, record_file: Path) -> None:
    """Remove the results that a record names, after the record itself."""
    record = read_record(record_file)
    record_file.unlink(missing_ok=True)
    for name in (record or {}).get("outputs", ()):
        (out / name).unlink(missing_ok=True)


def remove_empty_folders(out: Path) -> None:
    """Remove folders of results that nothing is left in; their names are those of the scans' folders."""
    for kind in RESULT_FOLDERS:
        for place, _, _ in os.walk(out / kind, topdown=False):
            with suppress(OSError):
                os.rmdir(place)


def record_files(out: Path) -> list[Path]:
    """All record files below `out`, sorted."""
    return sorted((out / RECORDS).rglob("*.json"))


def known_records(out: Path) -> dict[Path, dict[str, Any]]:
    """All records in `out` by their file, without the frames, which are most of them."""
    records = {path: read_record(path) for path in record_files(out)}
    return {path: {**record, "frames": []} for path, record in records.items() if record is not None}


def records_of(out: Path, settings: str) -> Iterator[dict[str, Any]]:
    """All records in `out` that were made with these settings, one in memory at a time."""
    for path in record_files(out):
        record = read_record(path)
        if record is not None and record["settings"] == settings:
            yield record
