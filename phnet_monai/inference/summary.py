"""What a whole run says of itself: run.json, lesions.csv, lesions.json and report.html, all made of the records."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from phnet_monai import __version__
from phnet_monai.files import write_json
from phnet_monai.inference.lesion_table import CSV_FILE, JSON_FILE, LesionRow, write_lesion_tables
from phnet_monai.inference.measure import Lesion
from phnet_monai.inference.records import (
    DONE,
    FAILED,
    NOTHING_TO_DO,
    PASSED_OVER,
    SKIPPED,
    SOME_FAILED,
    records_of,
)
from phnet_monai.inference.report import REPORT_FILE, write_report

RUN_FILE = "run.json"
WHOLE_FILES = (CSV_FILE, JSON_FILE, REPORT_FILE)
"""What tells of all scans in the folder."""

PACKAGES = ("torch", "monai", "numpy", "pillow", "scikit-image", "onnxruntime", "openvino", "pydicom", "highdicom")


@dataclass(frozen=True)
class FileRecord:
    """What became of one scan: `status` is done, skipped (finished earlier), failed or no image (passed over), the last
    two with a `reason`."""

    image: str
    status: str
    reason: str | None = None
    mask: str | None = None
    frames: int | None = None
    height: int | None = None
    width: int | None = None
    lesions: int | None = None
    lesion_pixels: int | None = None
    other_modality: str | None = None

    @classmethod
    def of(cls, record: dict[str, Any], status: str) -> FileRecord:
        """From what the pipeline or a record file says."""
        if record["status"] in (FAILED, PASSED_OVER):
            return cls(record["image"], record["status"], reason=record["reason"])
        frames = record["frames"]
        return cls(
            record["image"],
            status,
            mask=next(name for name in record["outputs"] if name.startswith("masks/")),
            frames=len(frames),
            height=frames[0]["height"],
            width=frames[0]["width"],
            lesions=sum(len(frame["lesions"]) for frame in frames),
            lesion_pixels=sum(frame["lesion_pixels"] for frame in frames),
            other_modality=record.get("other_modality"),
        )

    def as_dict(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True)
class FolderResult:
    """What became of a folder, in the order of its scans; `pending` of them were left by a limit or after a failure."""

    out: Path
    files: list[FileRecord] = field(default_factory=list)
    pending: int = 0

    def with_status(self, status: str) -> list[FileRecord]:
        return [record for record in self.files if record.status == status]

    @property
    def counts(self) -> dict[str, int]:
        found = Counter(record.status for record in self.files)
        return {status: found[status] for status in (DONE, SKIPPED, FAILED)}

    @property
    def exit_code(self) -> int:
        """0 all well, 3 some files failed, 4 there was no image."""
        if len(self.with_status(PASSED_OVER)) == len(self.files) and not self.pending:
            return NOTHING_TO_DO
        return SOME_FAILED if self.with_status(FAILED) else 0


def write_run_file(
    result: FolderResult,
    settings: dict[str, Any],
    *,
    source: str | None,
    finished: bool,
    timing: dict[str, Any] | None = None,
    failed_earlier: Sequence[str] = (),
    masks: int = 0,
    others: int = 0,
) -> None:
    """Write run.json: what was run on what, with which versions and settings, and the fate of each file.

    Args:
        source: the input as given; None leaves it out (it may hold a name).
        finished: False while the run goes on, and if it was cut short.
        failed_earlier: scans that failed, or held no image, when they were last tried, which was not in this run.
        masks: how many files of the input were passed over as masks of its images.
        others: results in the folder that are of another model or setting.
    """
    content = {
        "input": source,
        "settings": settings,
        "versions": versions(),
        "command": sys.argv if source is not None else None,
        "finished": finished,
        "counts": {**result.counts, "pending": result.pending},
        "timing": timing,
        "files": [record.as_dict() for record in result.files],
        "failed_earlier": sorted(failed_earlier) or None,
        "masks_passed_over": masks or None,
        "results_of_other_settings": others or None,
    }
    write_json(result.out / RUN_FILE, {name: value for name, value in content.items() if value is not None})


def versions() -> dict[str, str]:
    """Versions of what the result may depend on; packages that are not installed are left out."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"phnet-monai": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_tables(out: Path, settings: str) -> None:
    """Write lesions.csv and lesions.json of all scans in `out` that were done with these settings (a digest)."""
    write_lesion_tables(out, _lesion_rows(records_of(out, settings)))


def _lesion_rows(records: Iterable[dict[str, Any]]) -> Iterator[LesionRow]:
    for record in records:
        for frame in record["frames"]:
            for lesion in frame["lesions"]:
                yield LesionRow(record["image"], frame["frame"], Lesion(**lesion))


def write_html(result: FolderResult, settings: str, told: dict[str, Any]) -> Path:
    """Write report.html of all scans in the folder that were done with these settings, and of this run's failures."""
    failed = [record.as_dict() for record in result.with_status(FAILED)]
    path = result.out / REPORT_FILE
    write_report(
        path,
        records_of(result.out, settings),
        title="Breast-lesion segmentation",
        settings=told,
        failed=failed,
        notes=["Research use only; not a medical device."],
    )
    return path
