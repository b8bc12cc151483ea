"""From a folder in its original layout to a datalist."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from tqdm import tqdm

from phnet_monai.data.audit_checks import mask_kind
from phnet_monai.data.busbra import read_busbra
from phnet_monai.data.busi import read_busi
from phnet_monai.data.datalist import LABEL_FOLDER, MaskFiles, check_target, named_masks, write_datalist
from phnet_monai.data.decode import DecodeError, binarise, read_image, read_values
from phnet_monai.data.folder import read_folder
from phnet_monai.data.leaks import ALLOWED, Leak, find_leaks, same_files
from phnet_monai.data.near_duplicates import near_duplicate_groups
from phnet_monai.data.patients import with_patients
from phnet_monai.data.records import Record, shorten
from phnet_monai.data.splits import check_split_arguments, make_splits
from phnet_monai.data.union_find import components

_LISTED = 3
LARGE_GROUP, LARGE_GROUP_SHARE = 10, 0.2
"""Images in one group, and share of all, above which a split is warned of; the largest group of BUSI has seven."""


def prepare_busi(
    source: str | PathLike[str],
    out: str | PathLike[str],
    *,
    protocol: str = "grouped",
    labeled: str | int | float = "1/8",
    seed: int = 0,
    split_seed: int | None = None,
    folds: int | None = None,
    fold: int | None = None,
    normals: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Divide BUSI and write its datalist.

    Args:
        source: BUSI in its original layout, see `read_busi`.
        out: folder for `datalist.json` and the joined masks.
        protocol: "grouped" (near-duplicates stay on one side) or "paper" (random, leaks), see `make_splits`.
        labeled: fraction of the training images, or number of images, that show their mask.
        seed: draw of the labeled images.
        split_seed: draw of the parts; `seed` where not given.
        folds, fold: cross-validation: the number of folds and which one is tested on, counted from 1.
        normals: include the images without lesion.
        overwrite: replace a datalist that is there.
        progress: show progress bars on standard error.

    Returns:
        path of the datalist.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: see `read_busi`, `write_datalist`, `make_splits`; arguments are
            checked before images are read. DecodeError (a ValueError) lists the files that cannot be read.
    """
    check_split_arguments(protocol=protocol, labeled=labeled, seed=seed, split_seed=split_seed, folds=folds, fold=fold)
    check_target(out, overwrite=overwrite)
    records = read_busi(source, normals=normals)
    about = {"dataset": "BUSI", "normals": normals}
    return prepare_records(
        records,
        out,
        about=about,
        protocol=protocol,
        labeled=labeled,
        seed=seed,
        split_seed=split_seed,
        folds=folds,
        fold=fold,
        overwrite=overwrite,
        progress=progress,
    )


def prepare_busbra(
    source: str | PathLike[str],
    out: str | PathLike[str],
    *,
    protocol: str = "grouped",
    labeled: str | int | float = "1/8",
    seed: int = 0,
    split_seed: int | None = None,
    folds: int | None = None,
    fold: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Divide BUS-BRA and write its datalist.

    Args:
        source: BUS-BRA in its original layout, see `read_busbra`.
        protocol: "grouped" keeps the images of a patient, and near-duplicates, on one side; "paper" does not.

    The other arguments, the return value and the errors are those of `prepare_busi`.
    """
    check_split_arguments(protocol=protocol, labeled=labeled, seed=seed, split_seed=split_seed, folds=folds, fold=fold)
    check_target(out, overwrite=overwrite)
    records = read_busbra(source)
    return prepare_records(
        records,
        out,
        about={"dataset": "BUS-BRA"},
        protocol=protocol,
        labeled=labeled,
        seed=seed,
        split_seed=split_seed,
        folds=folds,
        fold=fold,
        overwrite=overwrite,
        progress=progress,
    )


def prepare_folder(
    images: str | PathLike[str],
    out: str | PathLike[str],
    *,
    masks: str | PathLike[str] | None = None,
    patients: str | PathLike[str] | None = None,
    protocol: str = "grouped",
    labeled: str | int | float = "1/8",
    seed: int = 0,
    split_seed: int | None = None,
    folds: int | None = None,
    fold: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Divide any folder of images and masks and write its datalist.

    Outlines of annotation files (labelme, COCO) are drawn as masks below `out/labels/`.

    Args:
        images: folder of images, with annotation files beside them or not; or folder with the subfolders `images/` and
            `masks/`, see `read_folder`.
        masks: folder of masks or annotation files, or a COCO file; images without a mask are only ever unlabeled.
        patients: CSV of the patient of each image, see `with_patients`; a patient stays on one side.

    The other arguments, the return value and the errors are those of `prepare_busi`.
    """
    check_split_arguments(protocol=protocol, labeled=labeled, seed=seed, split_seed=split_seed, folds=folds, fold=fold)
    check_target(out, overwrite=overwrite)
    about = {"dataset": Path(images).resolve().name}
    with tempfile.TemporaryDirectory() as drawn:  # masks of an earlier datalist stay until this one is certain
        records = read_folder(images, masks, drawn=Path(out) / LABEL_FOLDER, drawn_at_first=drawn)
        return prepare_records(
            records if patients is None else with_patients(records, patients),
            out,
            about=about,
            protocol=protocol,
            labeled=labeled,
            seed=seed,
            split_seed=split_seed,
            folds=folds,
            fold=fold,
            overwrite=overwrite,
            progress=progress,
            drawn=Path(drawn),
        )


def prepare_records(
    records: Sequence[Record],
    out: str | PathLike[str],
    *,
    about: dict[str, Any],
    protocol: str,
    labeled: str | int | float,
    seed: int,
    split_seed: int | None,
    folds: int | None,
    fold: int | None,
    overwrite: bool,
    progress: bool,
    drawn: Path | None = None,
) -> Path:
    """Check, group, divide and write: what all layouts have in common. Returns the path of the datalist.

    Masks below the folder `drawn` are brought to `out`/labels once everything else is certain.
    """
    check_files(records, progress=progress)
    records = group_records(records, progress=progress)
    parts = make_splits(
        records, protocol=protocol, labeled=labeled, seed=seed, split_seed=split_seed, folds=folds, fold=fold
    )
    meta = {
        **about,
        "protocol": protocol,
        "labeled": labeled,
        "seed": seed,
        "split_seed": seed if split_seed is None else split_seed,
        **({} if folds is None else {"folds": folds, "fold": fold}),
        **({ALLOWED: "protocol paper"} if protocol == "paper" else {}),
    }
    _warn_of_leaks(parts)
    if drawn is not None:
        parts = place_drawn(parts, drawn, Path(out))
    return write_datalist(parts, out, meta=meta, overwrite=overwrite, progress=progress)


def place_drawn(
    parts: Mapping[str, Sequence[Record]], drawn: Path, out: Path, *, in_use: Iterable[Path] = ()
) -> dict[str, list[Record]]:
    """The parts with all masks below the folder `drawn` copied to `out`/labels.

    A file that is there is replaced only if the datalist of `out` names it, which this one replaces, and it is not
    among the masks `in_use`; else the mask gets a name of its own.
    """
    labels = Path(os.path.realpath(out)) / LABEL_FOLDER
    files = MaskFiles(named_masks(out) - set(in_use))

    def placed(record: Record) -> Record:
        if not record.masks or not record.masks[0].is_relative_to(drawn):
            return record
        target = files.write(labels / record.masks[0].relative_to(drawn), record.masks[0].read_bytes())
        return replace(record, masks=(target,))

    return {part: [placed(record) for record in records] for part, records in parts.items()}


def leaks_of_records(parts: Mapping[str, Sequence[Record]]) -> list[Leak]:
    """`find_leaks` of records that are no datalist yet."""
    return find_leaks(
        {
            part: [{"image": str(record.image), "group_id": str(record.group_id)} for record in records]
            for part, records in parts.items()
        }
    )


def _warn_of_leaks(parts: Mapping[str, Sequence[Record]]) -> None:
    """Say how many test and validation images share a scan with another side; only the protocol `paper` lets them."""
    members = {member for leak in leaks_of_records(parts) for member in leak.members}
    held_out = [image for part, image in members if part in ("validation", "test")]
    if held_out:
        total = len(parts["validation"]) + len(parts["test"])
        warnings.warn(
            f"protocol paper: {len(held_out)} of {total} validation and test images show a scan or patient that is on "
            "another side, too, so that scores are too high. The datalist says that this was allowed.",
            UserWarning,
            stacklevel=4,
        )


def check_files(records: Sequence[Record], *, progress: bool = True) -> None:
    """Read every image and mask once, so that a bad file is found now and not in the middle of a training.

    Raises:
        DecodeError: lists the files (first 3) that cannot be read, and masks whose size is not that of their image.

    Masks of more than two values (numbered regions, JPEG) and such as are all lesion are warned of.
    """
    problems, odd = [], []
    for record in tqdm(records, desc="reading", disable=None if progress else True, leave=False):
        try:
            shape = read_image(record.image).shape
            for mask in record.masks:
                values = read_values(mask)
                found = values.shape
                if found != shape:
                    problems.append(f"{mask} is {found[1]} x {found[0]}, its image is {shape[1]} x {shape[0]}.")
                if mask_kind(values) == "many values" or binarise(values).all():
                    odd.append(str(mask))
        except DecodeError as error:
            problems.append(str(error))
    if odd:
        warnings.warn(
            f"{len(odd)} masks have more than two values, or are lesion all over: {shorten(odd)}. Pixels at least half "
            "as bright as the brightest count as lesion, so that of numbered regions some are lost. `phnet audit` "
            "shows them; save masks as PNG with 0 and 255.",
            stacklevel=2,
        )
    if problems:
        more = len(problems) - _LISTED
        listed = "\n".join([*problems[:_LISTED], *([f"And {more} more; `phnet audit` lists all."] if more > 0 else [])])
        raise DecodeError(f"{len(problems)} files cannot be used; repair or remove them:\n{listed}")


def group_records(records: Sequence[Record], *, progress: bool = True) -> list[Record]:
    """Join near-duplicates, equal files, and images that share a `group_id` already (one patient), into groups.

    Returns:
        the records with every `group_id` set: "g0001" and so on, in the order of the records.
    """
    images = [record.image for record in records]
    found = near_duplicate_groups(images, progress=progress)
    # equal files without structure (blank ones) are no near-duplicates, and would be a leak all the same
    groups = _join(found, [record.group_id for record in records], same_files(images))
    largest = max(Counter(groups).values(), default=0)
    if largest > max(LARGE_GROUP, LARGE_GROUP_SHARE * len(groups)):
        warnings.warn(
            f"{largest} of {len(groups)} images count as one scan or patient and stay on one side of the split, which "
            "is then no fair sample. Are they frames of one clip, or do they agree in a printed frame? `phnet audit` "
            "shows the groups.",
            stacklevel=2,
        )
    return [replace(record, group_id=f"g{group + 1:04d}") for record, group in zip(records, groups, strict=True)]


def _join(found: Sequence[int], known: Sequence[str | None], copies: Sequence[tuple[int, int]]) -> list[int]:
    """Number the connected components of images that share either kind of group, or are copies."""
    first: dict[object, int] = {}
    pairs = list(copies)
    for index, keys in enumerate(zip(found, known, strict=True)):
        for kind, key in enumerate(keys):
            if key is not None:
                pairs.append((first.setdefault((kind, key), index), index))
    return components(len(found), pairs)
