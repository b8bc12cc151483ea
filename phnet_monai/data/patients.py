"""Which images are of one patient, told by a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from phnet_monai.data.csv_rows import read_rows
from phnet_monai.data.decode import IMAGE_SUFFIXES
from phnet_monai.data.records import Record, shorten

COLUMNS = ("image", "patient")
PATIENT = "patient"
"""Key of `Record.details`, and so of a datalist's entries, under which an image's patient is kept."""


def with_patients(
    records: Sequence[Record], table: str | PathLike[str], *, told: Mapping[str, str] | None = None
) -> list[Record]:
    """The records with their patient as `group_id`, so that no patient comes to stand on two sides of a split, and
    among their details, so that images added later can be compared with them.

    Args:
        table: CSV with the columns `image` and `patient` (others are passed over). An image is told by its path below
            the folder of images, or, where only one image is called so, by its name; in both with or without ending.
        told: what `told_patients` has read of it, where the records are some of a folder's images only.

    Raises:
        FileNotFoundError: there is no such table.
        ValueError: a table without these columns, with two patients for an image, or without a patient for one.
    """
    path = Path(table)
    told = told_patients(records, read_patients(path)) if told is None else told
    found, unknown = [], []
    for record in records:
        patient = told.get(record.case_id)
        if patient is None:
            unknown.append(record.case_id)
        else:
            found.append(of_patient(record, patient))
    if unknown:
        raise ValueError(
            f"{path} tells no patient for {len(unknown)} of {len(records)} images: {shorten(unknown)}. Expected a row "
            "for each image, by its path below the folder of images, or by its name where that is the only one."
        )
    return found


def told_patients(records: Sequence[Record], patients: Mapping[str, str]) -> dict[str, str]:
    """Patient by `case_id`, of those of a folder's images of which a table (`read_patients`) tells one."""
    names = Counter(record.case_id.rpartition("/")[2] for record in records)
    told = {}
    for record in records:
        name = record.case_id.rpartition("/")[2]
        patient = patients.get(record.case_id) or (patients.get(name) if names[name] == 1 else None)
        if patient is not None:
            told[record.case_id] = patient
    return told


def known_patient(details: Mapping[str, Any]) -> str | None:
    """The patient that an entry of a datalist tells, as text: a list made by hand may hold a number."""
    value = details.get(PATIENT)
    return None if value is None else str(value).strip() or None


def of_patient(record: Record, patient: str) -> Record:
    """The record as one of this patient."""
    return replace(record, group_id=f"patient {patient}", details={**record.details, PATIENT: patient})


def read_patients(path: str | PathLike[str]) -> dict[str, str]:
    """Patient by image, as the table names it, without ending."""
    columns, rows = read_rows(Path(path))
    own = {column.strip().lower(): column for column in columns}
    missing = [name for name in COLUMNS if name not in own]
    if missing:
        raise ValueError(
            f"{path} lacks the column {' and '.join(missing)}; its columns are {', '.join(columns) or 'none'}. "
            f"Expected a CSV file with the columns {' and '.join(COLUMNS)}, separated by commas."
        )
    patients: dict[str, str] = {}
    for row in rows:
        image, patient = (row[own[name]] for name in COLUMNS)
        image = image.replace("\\", "/").removeprefix("./")
        image = image[: -len(Path(image).suffix)] if image.lower().endswith(IMAGE_SUFFIXES) else image
        if not image or not patient:
            continue
        if patients.setdefault(image, patient) != patient:
            raise ValueError(f"{path} gives {image} to two patients, {patients[image]} and {patient}. Mend the table.")
    return patients
