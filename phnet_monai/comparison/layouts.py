"""Data sets that a comparison prepares itself, one datalist per fraction and seed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from phnet_monai import data
from phnet_monai.comparison.matrix import MatrixError

NAMES = {"busi": "BUSI", "busbra": "BUS-BRA"}
SPLIT_SEED = 0  # validation and test part are the same for all seeds; a seed draws labeled images, weights and views


def find_layout(source: str | Path) -> str:
    """The layout of a data set, by what lies in its folder.

    Raises:
        FileNotFoundError: no such folder; MatrixError: it looks like none of them.
    """
    source = Path(source)
    if not source.is_dir():
        raise FileNotFoundError(f"{source}: no such folder; give the data set in its original layout")
    found = data.find_layout(source)
    if found in NAMES or (found == "folder" and (source / "images").is_dir() and (source / "masks").is_dir()):
        return found
    raise MatrixError(
        f"{source}: found neither bus_data.csv (BUS-BRA) nor benign/ (BUSI) nor images/ and masks/; give another "
        "folder, or say what it is with the layout"
    )


def dataset_name(layout: str, source: str | Path) -> str:
    """Name for the report: that of the data set, or of the folder."""
    return NAMES.get(layout, Path(source).resolve().name)


def make_datalist(
    layout: str, source: str, folder: str, *, labeled: str, seed: int, folds: int | None = None, fold: int | None = None
) -> None:
    """`folder`/datalist.json of one fraction and seed (and fold); does nothing if it is there.

    Raises:
        MatrixError: the one that is there is of images elsewhere.
    """
    if (Path(folder) / "datalist.json").is_file():
        images = [Path(entry["image"]) for part in data.load_datalist(folder).values() for entry in part]
        strange = next((path for path in images if not path.resolve().is_relative_to(Path(source).resolve())), None)
        if strange is not None:
            raise MatrixError(
                f"{folder}: its datalist is of other images ({strange}) than those of {source}; give another folder "
                "for --work, or remove this one"
            )
        return
    functions: dict[str, Callable[..., Path]] = {
        "busi": data.prepare_busi,
        "busbra": data.prepare_busbra,
        "folder": data.prepare_folder,
    }
    functions[layout](
        source,
        folder,
        labeled=labeled,
        seed=seed,
        split_seed=SPLIT_SEED,
        overwrite=True,
        progress=False,
        **({} if folds is None else {"folds": folds, "fold": fold}),
    )
