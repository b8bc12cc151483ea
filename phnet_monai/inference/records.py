"""What was done with each scan: one small JSON file in OUT/records, written when all its results are there.

Tables, report and summary are made of these files, so that a run that goes on after a stop, or that several processes
share, tells of all scans. A scan counts as finished while its record fits: same source file, same kinds of results, and
every result as long as it was when written.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from phnet_monai.files import write_json

VERSION = 1
RECORDS = "records"


@dataclass(frozen=True)
class Job:
    """One scan to segment.

    Attributes:
        path: the file.
        name: what it is called towards the user: its path below the input, or a hash of its content.
        key: name of its results below each result folder, without ending.
        kinds: results asked for: `masks` and any of `overlays`, `hardness`, `probabilities`.
    """

    path: Path
    name: str
    key: Path
    kinds: tuple[str, ...]

    def record_file(self, out: Path) -> Path:
        return out / RECORDS / f"{self.key}.json"


def source_mark(path: Path) -> dict[str, int]:
    """Length and time of a file: what tells, without reading it, that it is still the same."""
    found = path.stat()
    return {"bytes": found.st_size, "modified_ns": found.st_mtime_ns}


def write_record(out: Path, job: Job, *, kind: str, frames: list[dict[str, Any]], outputs: Iterable[Path]) -> dict:
    """Write the record of a finished scan and return it.

    Args:
        kind: of the scan (`picture`, `nifti`, `dicom`).
        frames: one entry per frame, see `frames.frame_record`.
        outputs: the files that were written for it, below `out`.
    """
    record = {
        "version": VERSION,
        "image": job.name,
        "status": "done",
        "kind": kind,
        "kinds": list(job.kinds),
        "source": source_mark(job.path),
        "outputs": {path.relative_to(out).as_posix(): path.stat().st_size for path in outputs},
        "frames": frames,
    }
    write_json(job.record_file(out), record)
    return record


def read_record(out: Path, job: Job) -> dict[str, Any] | None:
    """The record of a scan; None where there is none that can be read."""
    try:
        record = json.loads(job.record_file(out).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) and record.get("version") == VERSION else None


def finished_record(out: Path, job: Job) -> dict[str, Any] | None:
    """The record of a scan that needs no more work, else None: a changed source, a result that is missing, of another
    length (cut short, say), or not among those asked before."""
    record = read_record(out, job)
    if record is None or record["image"] != job.name:
        return None
    if not set(job.kinds) <= set(record["kinds"]) or record["source"] != source_mark(job.path):
        return None
    return record if all(_whole(out / name, size) for name, size in record["outputs"].items()) else None


def _whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def discard(out: Path, job: Job) -> None:
    """Remove the results of an earlier run of this scan, the record first."""
    record = read_record(out, job)
    job.record_file(out).unlink(missing_ok=True)
    for name in (record or {}).get("outputs", ()):
        (out / name).unlink(missing_ok=True)


def finished_records(out: Path, jobs: Iterable[Job]) -> Iterator[dict[str, Any]]:
    """Records of those jobs that are finished, in their order, one in memory at a time."""
    for job in jobs:
        record = finished_record(out, job)
        if record is not None:
            yield record
