"""BUS-BRA in its original layout.

Gomez-Flores et al., BUS-BRA: a breast ultrasound dataset for assessing computer-aided diagnosis systems, Medical
Physics (2023): images `Images/bus_0001-l.png`, masks `Masks/mask_0001-l.png`, and `bus_data.csv` with one row an
image. Most patients have two images of one lesion, so patients, not images, must be divided.
"""

from __future__ import annotations

import warnings
from os import PathLike
from pathlib import Path

from phnet_monai.data.csv_rows import read_rows
from phnet_monai.data.decode import IMAGE_SUFFIXES
from phnet_monai.data.patients import of_patient
from phnet_monai.data.records import Record, natural_key, shorten

FOLDER_NAME = "BUSBRA"
IMAGES, MASKS, TABLE = "Images", "Masks", "bus_data.csv"
CLASSES = ("benign", "malignant")
DETAILS = {"device": "Device", "birads": "BIRADS", "histology": "Histology", "side": "Side"}
"""What is kept of each row beside patient and class: name in the datalist -> column."""

_NEEDED = ("ID", "Case", "Pathology")
_IMAGE_PREFIX, _MASK_PREFIX = "bus_", "mask_"


def read_busbra(source: str | PathLike[str]) -> list[Record]:
    """List the images of BUS-BRA with their masks.

    Args:
        source: the folder with `Images/`, `Masks/` and `bus_data.csv`, or the folder that contains `BUSBRA/`.

    Returns:
        records in natural order; `case_id` is the column ID, `group_id` the patient (column Case), `class_name` the
        column Pathology, `details` scanner, BI-RADS, histology, side and patient. An image without a mask stays in, as
        an unlabeled record, with a warning.

    Raises:
        FileNotFoundError: the folder or one of its three parts is missing, or images that the table names.
        ValueError: a table without the columns, with an image twice, without patient or with another class; images
            that the table does not name (their patient is unknown); masks whose image is missing. The message names
            the file.
    """
    root = find_busbra(source)
    rows = read_table(root / TABLE)
    images, masks = (_by_stem(root / name) for name in (IMAGES, MASKS))
    _check_complete(root, set(rows), set(images), masks)
    outlines = {image_stem(stem): file for stem, file in masks.items()}
    records = [
        of_patient(
            Record(
                image=images[stem],
                masks=(outlines[stem],) if stem in outlines else (),
                case_id=stem,
                class_name=row["Pathology"],
                details={name: row[column] for name, column in DETAILS.items() if row.get(column)},
            ),
            row["Case"],
        )
        for stem, row in sorted(rows.items(), key=lambda item: natural_key(item[0]))
    ]
    bare = [record.case_id for record in records if not record.masks]
    if bare:
        warnings.warn(
            f"{len(bare)} images of {root} have no mask and count as unlabeled: {shorten(bare)}.", stacklevel=2
        )
    return records


def find_busbra(source: str | PathLike[str]) -> Path:
    """The folder with `Images/`, `Masks/` and `bus_data.csv`: `source` itself or its `BUSBRA/`.

    Raises:
        FileNotFoundError: neither has all three; the message names what is missing.
    """
    source = Path(source)
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is not a folder. Give the folder of BUS-BRA ({FOLDER_NAME}).")
    roots = [root for root in (source, source / FOLDER_NAME) if _missing(root) != [IMAGES, MASKS, TABLE]]
    if not roots:
        found = shorten(sorted(entry.name for entry in source.iterdir())) or "nothing"
        raise FileNotFoundError(
            f"{source} is not BUS-BRA: expected {IMAGES}/, {MASKS}/ and {TABLE} in it or in {source / FOLDER_NAME}, "
            f"found {found}. Unpack BUS-BRA with its folders, or use the layout 'folder' for other data."
        )
    missing = _missing(roots[0])
    if missing:
        raise FileNotFoundError(
            f"{roots[0]} lacks {' and '.join(missing)}; BUS-BRA has {IMAGES}/, {MASKS}/ and {TABLE}. Unpack it anew."
        )
    return roots[0]


def _missing(root: Path) -> list[str]:
    there = ((root / IMAGES).is_dir(), (root / MASKS).is_dir(), (root / TABLE).is_file())
    return [name for name, found in zip((IMAGES, MASKS, TABLE), there, strict=True) if not found]


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """Read the rows of `bus_data.csv` by image. Raises ValueError for a table that cannot be trusted."""
    columns, table = read_rows(path)
    missing = [name for name in _NEEDED if name not in columns]
    if missing:
        raise ValueError(
            f"{path} has no column {' or '.join(missing)} (found {shorten(columns, 12) or 'none'}). Copy it again from "
            "BUS-BRA, with commas between the columns."
        )
    rows: dict[str, dict[str, str]] = {}
    for line, row in enumerate(table, start=2):
        _check_row(path, line, row, rows)
        rows[row["ID"]] = row
    if not rows:
        raise ValueError(f"{path} has no rows. Copy it again from BUS-BRA.")
    return rows


def _check_row(path: Path, line: int, row: dict[str, str], rows: dict[str, dict[str, str]]) -> None:
    empty = [name for name in _NEEDED if not row[name]]
    if empty:
        raise ValueError(f"{path}, row {line}: {' and '.join(empty)} is empty. Copy the table again from BUS-BRA.")
    if row["ID"] in rows:
        raise ValueError(f"{path}, row {line}: {row['ID']} stands twice. Keep one row an image.")
    if row["Pathology"] not in CLASSES:
        raise ValueError(f"{path}, row {line}: Pathology is {row['Pathology']!r}, expected {' or '.join(CLASSES)}.")


def _by_stem(folder: Path) -> dict[str, Path]:
    # names that begin with a dot are left behind by file managers and archive tools, not images
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES and not f.name.startswith("."))
    found: dict[str, Path] = {}
    for file in files:
        if file.stem in found:
            raise ValueError(f"{folder} has {found[file.stem].name} and {file.name}. Keep one of them.")
        found[file.stem] = file
    return found


def image_stem(mask_stem: str) -> str:
    """`mask_0001-l` -> `bus_0001-l`."""
    return _IMAGE_PREFIX + mask_stem.removeprefix(_MASK_PREFIX)


def _check_complete(root: Path, named: set[str], images: set[str], masks: dict[str, Path]) -> None:
    def listed(stems: set[str]) -> str:
        return shorten(sorted(stems, key=natural_key))

    if named - images:
        raise FileNotFoundError(
            f"{root / IMAGES} lacks {len(named - images)} images that {TABLE} names: {listed(named - images)}. Add "
            "them, or take their rows out of the table."
        )
    if images - named:
        raise ValueError(
            f"{root / TABLE} does not name {len(images - named)} images of {IMAGES}/, so their patient is unknown: "
            f"{listed(images - named)}. Add their rows, or remove the images."
        )
    orphans = {file.name for stem, file in masks.items() if image_stem(stem) not in images}
    orphans |= {file.name for stem, file in masks.items() if not stem.startswith(_MASK_PREFIX)}
    if orphans:
        raise ValueError(
            f"{root / MASKS} has {len(orphans)} masks without an image: {listed(orphans)}. The mask of bus_0001-l.png "
            "is mask_0001-l.png; add the images, or remove the masks."
        )
