"""`phnet prepare`: from a dataset in its original layout to a datalist."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal


def busi(
    source: str,
    out: str,
    *,
    protocol: Literal["grouped", "paper"] = "grouped",
    labeled: str = "1/8",
    seed: int = 0,
    split_seed: int | None = None,
    folds: int | None = None,
    fold: int | None = None,
    normals: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Divide BUSI into labeled, unlabeled, validation and test images, and write OUT/datalist.json.

    Args:
        source: Dataset_BUSI_with_GT, or the folder that contains it
        out: folder for the datalist and the joined masks; the images stay where they are
        protocol: grouped keeps near-duplicates on one side; paper is the random split of the literature,
            which leaks
        labeled: share of the training images (1/8, 0.125) or number of images (32) that show their mask
        seed: draw of the labeled images
        split_seed: draw of the parts; that of --seed where it is not given
        folds: cross-validation with this many folds; needs --fold
        fold: which fold is the test part, counted from 1
        normals: include the images without lesion
        overwrite: replace a datalist that is there
        quiet: no progress bars
    """
    from phnet_monai.data import prepare_busi

    return _prepare(
        prepare_busi,
        source,
        out,
        protocol=protocol,
        labeled=labeled,
        seed=seed,
        split_seed=split_seed,
        folds=folds,
        fold=fold,
        normals=normals,
        overwrite=overwrite,
        progress=not quiet,
    )


def busbra(
    source: str,
    out: str,
    *,
    protocol: Literal["grouped", "paper"] = "grouped",
    labeled: str = "1/8",
    seed: int = 0,
    split_seed: int | None = None,
    folds: int | None = None,
    fold: int | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Divide BUS-BRA into labeled, unlabeled, validation and test images, and write OUT/datalist.json.

    Args:
        source: folder with Images, Masks and bus_data.csv, or the folder that contains BUSBRA
        out: folder for the datalist; the images stay where they are
        protocol: grouped keeps each patient, and near-duplicates, on one side; paper is the random split of the
            literature, which leaks
        labeled: share of the training images (1/8, 0.125) or number of images (32) that show their mask
        seed: draw of the labeled images
        split_seed: draw of the parts; that of --seed where it is not given
        folds: cross-validation with this many folds; needs --fold
        fold: which fold is the test part, counted from 1
        overwrite: replace a datalist that is there
        quiet: no progress bars
    """
    from phnet_monai.data import prepare_busbra

    return _prepare(
        prepare_busbra,
        source,
        out,
        protocol=protocol,
        labeled=labeled,
        seed=seed,
        split_seed=split_seed,
        folds=folds,
        fold=fold,
        overwrite=overwrite,
        progress=not quiet,
    )


def folder(
    images: str,
    out: str,
    *,
    masks: str | None = None,
    patients: str | None = None,
    protocol: Literal["grouped", "paper"] = "grouped",
    labeled: str = "1/8",
    seed: int = 0,
    split_seed: int | None = None,
    folds: int | None = None,
    fold: int | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Divide any folder of images and masks, and write OUT/datalist.json.

    The mask of x.png is x.png, x_mask.png, x_seg.png or x_label.png (any image format) below MASKS, without MASKS
    x_mask.png (x_mask_1.png ...) beside the image, or drawn from labelme's x.json there or beside the image, or from
    a COCO file. A shape labelled `hole` takes lesion away, all others add it; an annotation without shapes is an image
    without lesion. Images without mask and annotation are only ever unlabeled.

    Args:
        images: folder of images, or folder with images/ and masks/, annotations/ or annotations.json
        out: folder for the datalist and the drawn masks; the images stay where they are
        masks: folder of masks or annotation files, or a COCO file
        patients: CSV file with the columns image and patient: a patient stays on one side
        protocol: grouped keeps near-duplicates, and patients, on one side; paper is the random split of the
            literature, which leaks
        labeled: share of the training images (1/8, 0.125) or number of images (32) that show their mask
        seed: draw of the labeled images
        split_seed: draw of the parts; that of --seed where it is not given
        folds: cross-validation with this many folds; needs --fold
        fold: which fold is the test part, counted from 1
        overwrite: replace a datalist that is there
        quiet: no progress bars
    """
    from phnet_monai.data import prepare_folder

    return _prepare(
        prepare_folder,
        images,
        out,
        masks=masks,
        patients=patients,
        protocol=protocol,
        labeled=labeled,
        seed=seed,
        split_seed=split_seed,
        folds=folds,
        fold=fold,
        overwrite=overwrite,
        progress=not quiet,
    )


def add(
    datalist: str,
    images: str,
    out: str,
    *,
    masks: str | None = None,
    patients: str | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Add outlines to a datalist in use, and write OUT/datalist.json: its validation and test images stay as they are.

    IMAGES is read as by `phnet prepare folder`: what `phnet rank --export` wrote and an annotator has corrected, or
    any images with masks or annotation files. Images are recognised by their content. Unlabeled ones become labeled,
    labeled ones get the new outline, images that the datalist does not have join the labeled ones; validation and test
    images, and scans that they show, are refused.

    Args:
        datalist: the JSON file written by `phnet prepare`, or its folder; it stays as it is
        images: folder of outlined images; those without outline are passed over
        out: another folder, for the new datalist and the drawn masks
        masks: folder of masks or annotation files, or a COCO file
        patients: CSV with the columns image and patient, for images that the datalist does not have; needed where it
            was prepared with patients
        overwrite: replace a datalist that is there
        quiet: no progress bars
    """
    from phnet_monai.data import add_outlines

    return _prepare(
        partial(add_outlines, datalist),
        images,
        out,
        masks=masks,
        patients=patients,
        overwrite=overwrite,
        progress=not quiet,
    )


def _prepare(write: Callable[..., Path], source: str, out: str, **options: Any) -> int:
    """Call one of the prepare functions; its warnings as single lines on stderr, the summary on stdout."""
    from phnet_monai.data import summary
    from phnet_monai.files import terminal_lines, terminal_text

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        datalist = write(source, out, **options)
    for warning in caught:
        if issubclass(warning.category, UserWarning):
            print(terminal_text(f"phnet: warning: {warning.message}"), file=sys.stderr)
    print(terminal_lines(f"{datalist}\n{summary(datalist)}"))
    return 0


class Prepare(dict[str, Callable[..., int]]):
    """Divide a dataset into labeled, unlabeled, validation and test images.

    `phnet prepare LAYOUT --help` explains the options of a layout.
    """

    def __init__(self) -> None:
        super().__init__(busi=busi, busbra=busbra, folder=folder, add=add)
