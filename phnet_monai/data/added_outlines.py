"""New outlines for a datalist in use, whose validation and test images stay: scores of all rounds can be compared."""

from __future__ import annotations

import tempfile
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

from phnet_monai.data.datalist import (
    ADDED,
    ENTRY_KEYS,
    LABEL_FOLDER,
    check_target,
    datalist_path,
    load_datalist,
    load_meta,
    mask_of,
    write_datalist,
)
from phnet_monai.data.folder import read_folder
from phnet_monai.data.leaks import LeakError, check_leaks, digest_of_file, why_allowed
from phnet_monai.data.patients import PATIENT, known_patient, read_patients, told_patients, with_patients
from phnet_monai.data.prepare import check_files, group_records, leaks_of_records, place_drawn
from phnet_monai.data.records import Record, shorten
from phnet_monai.data.splits import PARTS, SIDES

Parts = dict[str, list[Record]]


def add_outlines(
    datalist: str | PathLike[str],
    images: str | PathLike[str],
    out: str | PathLike[str],
    *,
    masks: str | PathLike[str] | None = None,
    patients: str | PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write a datalist in which the outlined images of a folder are labeled ones.

    Images are recognised by their content, not by their names: copies that `phnet rank --export` made are the images
    they were made of. Unlabeled images become labeled, labeled ones get the new outline, and images that the datalist
    does not have join its labeled ones. Images of the folder without outline are passed over.

    Args:
        datalist: the JSON file, or its folder; it stays as it is.
        images, masks: images and their masks or annotation files, see `read_folder`.
        patients: CSV of the patient of each image that the datalist does not have, see `with_patients`; needed where
            the datalist tells patients.
        out: another folder than the datalist's, for the new one and the drawn masks.
        overwrite: replace a datalist that is there.
        progress: show progress bars on standard error.

    Returns:
        path of the new datalist.

    Raises:
        ValueError: an outlined image is a validation or test image, or two outlines are of one image; nothing is
            outlined; `out` is the datalist's folder; patients of new images are missing, or told to a datalist that
            tells none.
        LeakError: the datalist has one scan on two sides, or an image that it does not have shows a scan or patient of
            a validation or test image.
        FileNotFoundError, FileExistsError, DecodeError: as `prepare_folder` and `load_datalist`.
    """
    target = check_target(out, overwrite=overwrite)
    if target == datalist_path(datalist):
        raise ValueError(f"{out} is the folder of {datalist} itself. Choose another: earlier rounds stay comparable.")
    rows = None if patients is None else read_patients(patients)  # no table is told before any image is read
    # the new one records its images as compared
    check_leaks(datalist, otherwise="outlines are added to a list without leaks only")
    meta = load_meta(datalist)
    parts: Parts = {part: list(map(_record, entries)) for part, entries in load_datalist(datalist).items()}
    labels = target.parent / LABEL_FOLDER
    with tempfile.TemporaryDirectory() as drawn:  # nothing is written until everything is certain
        everything = read_folder(images, masks, drawn=labels, drawn_at_first=drawn)
        found = [record for record in everything if record.masks]
        if not found:
            raise ValueError(f"{images} holds no outlined image. Expected masks or annotation files beside its images.")
        check_files(found, progress=progress)
        matched = _match(found, parts, images)
        joined, counts = _join(parts, matched)
        told = None if rows is None else told_patients(everything, rows)
        if patients is not None and told is not None:
            _check_known_patients(matched, parts, told, patients)
        if matched.new:
            matched.new = _with_known_patients(matched.new, parts, patients, told, images)
            joined = _grouped(joined, matched.new, images, meta, progress=progress)
        added = [*meta.get(ADDED, []), counts]
        in_use = [mask for records in parts.values() for record in records for mask in record.masks]
        return write_datalist(
            place_drawn(joined, Path(drawn), target.parent, in_use=in_use),
            target.parent,
            meta={**meta, "labeled": len(joined["labeled"]), ADDED: added},
            overwrite=overwrite,
            progress=progress,
        )


@dataclass
class _Matched:
    """Outlined images by what the datalist knows of them.

    Attributes:
        known: (part, place in it) -> the record that holds the new mask.
        new: images that it does not have.
    """

    known: dict[tuple[str, int], Record]
    new: list[Record]


def _record(entry: Mapping[str, str]) -> Record:
    mask = mask_of(entry)
    return Record(
        image=Path(entry["image"]),
        masks=() if mask is None else (Path(mask),),
        case_id=entry["case_id"],
        group_id=entry["group_id"],
        class_name=entry.get("class"),
        details={key: value for key, value in entry.items() if key not in ENTRY_KEYS},
    )


def _match(found: Sequence[Record], parts: Parts, folder: str | PathLike[str]) -> _Matched:
    """Find each outlined image in the datalist. Raises ValueError where one must not be outlined anew, or is twice."""
    places: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for part, records in parts.items():
        for index, record in enumerate(records):
            places[digest_of_file(record.image)].append((part, index))
    matched, seen = _Matched({}, []), dict[str, Record]()
    twice, held_out = [], []
    for record in found:
        content = digest_of_file(record.image)
        if content in seen:
            twice.append(f"{seen[content].image.name} and {record.image.name}")
        seen[content] = record
        here = places.get(content, [])
        held_out += [f"{record.image.name} ({part})" for part, _ in here if SIDES[part] != "training"]
        matched.known.update(dict.fromkeys(here, record))
        if not here:
            matched.new.append(record)
    if twice:
        raise ValueError(f"{folder} outlines one image twice: {shorten(twice)}. Keep one of each.")
    if held_out:
        raise ValueError(
            f"{folder} outlines {len(held_out)} images that measure how good a model is: {shorten(held_out)}. They "
            "must not be trained on, and stay as they are: take them out of the folder."
        )
    return matched


def _join(parts: Parts, matched: _Matched) -> tuple[Parts, dict[str, int]]:
    """The parts with the outlines of images that they have, and how many were added of which kind."""
    labeled = [
        replace(record, masks=matched.known[place].masks) if (place := ("labeled", index)) in matched.known else record
        for index, record in enumerate(parts["labeled"])
    ]
    unlabeled = []
    for index, record in enumerate(parts["unlabeled"]):
        outlined = matched.known.get(("unlabeled", index))
        if outlined is None:
            unlabeled.append(record)
        else:
            labeled.append(replace(record, masks=outlined.masks))
    from_unlabeled = len(parts["unlabeled"]) - len(unlabeled)
    counts = {
        "from_unlabeled": from_unlabeled,
        "replaced": len(matched.known) - from_unlabeled,
        "new_images": len(matched.new),
    }
    return {**parts, "labeled": labeled, "unlabeled": unlabeled}, counts


def _check_known_patients(matched: _Matched, parts: Parts, told: Mapping[str, str], table: str | PathLike[str]) -> None:
    """Raise ValueError where the table gives an image that the datalist has to another patient than that does: names
    of patients that do not agree would hide who is held out."""
    for (part, index), record in matched.known.items():
        before, now = known_patient(parts[part][index].details), told.get(record.case_id)
        if before is not None and now is not None and before != now:
            raise ValueError(
                f"{table}: {record.image.name} is of patient {now}, but the datalist says patient {before}. Call each "
                "patient by one name in both."
            )


def _with_known_patients(
    new: Sequence[Record],
    parts: Parts,
    table: str | PathLike[str] | None,
    told: Mapping[str, str] | None,
    folder: str | PathLike[str],
) -> list[Record]:
    """New images with their patient, and with the group of that patient's images in the datalist.

    Raises ValueError where only one of datalist and table tells patients: nothing could be compared.
    """
    records = [record for part in parts.values() for record in part]
    groups = {patient: r.group_id for r in records if (patient := known_patient(r.details)) is not None}
    if table is None:
        if groups:
            names = shorten([record.image.name for record in new])
            raise ValueError(
                f"the datalist keeps each patient on one side, and {folder} has {len(new)} images that it does not "
                f"have: {names}. Tell their patients by a table (--patients TABLE.csv)."
            )
        return list(new)
    without = [r.case_id for r in records if known_patient(r.details) is None]
    if without:
        raise ValueError(
            f"{table} tells patients, but the datalist does not for {len(without)} of its {len(records)} images "
            f"({shorten(without)}), with which nothing can be compared. Prepare it anew (a folder of one's own with "
            "--patients), or leave the table out: near-duplicates are found without it."
        )
    named = with_patients(new, table, told=told)
    return [replace(record, group_id=groups.get(record.details[PATIENT], record.group_id)) for record in named]


def _grouped(
    parts: Parts, new: Sequence[Record], folder: str | PathLike[str], meta: Mapping[str, Any], *, progress: bool
) -> Parts:
    """The parts with new images among the labeled ones, in groups with what shows the same scan."""
    parts = {**parts, "labeled": [*parts["labeled"], *_named_apart(new, parts)]}
    flat = [(part, record) for part in PARTS for record in parts[part]]
    grouped: Parts = {part: [] for part in PARTS}
    for (part, _), record in zip(flat, group_records([record for _, record in flat], progress=progress), strict=True):
        grouped[part].append(record)
    names = {str(record.image) for record in new}
    leaks = [leak for leak in leaks_of_records(grouped) if names & {image for _, image in leak.members}]
    if leaks:
        said = f"{folder}: {len(leaks)} of its scans are held out: {shorten([leak.text for leak in leaks], 3)}."
        if why_allowed(meta) is None:
            raise LeakError(f"{said} They must not be trained on: take these images out of the folder.")
        warnings.warn(f"{said} Allowed by {why_allowed(meta)}; scores are too high.", UserWarning, stacklevel=3)
    return grouped


def _named_apart(new: Sequence[Record], parts: Parts) -> list[Record]:
    """New images under names that no other image has."""
    taken = {record.case_id for records in parts.values() for record in records}
    named = []
    for record in new:
        name, number = record.case_id, 2
        while name in taken:
            name, number = f"{record.case_id} ({number})", number + 1
        taken.add(name)
        named.append(replace(record, case_id=name))
    return named
