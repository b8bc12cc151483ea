"""The sheet of `phnet rank`: captions that tell images apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phnet_monai.inference.contact_sheet import TILE, write_contact_sheet

GREY, NOTHING = np.full((40, 60), 90, np.uint8), np.zeros((40, 60), bool)


def caption(folder: Path, text: str) -> np.ndarray:
    """Pixels (h, w, 3) below the only tile of a sheet."""
    (path,) = write_contact_sheet(folder, [(text, GREY, NOTHING)])
    with Image.open(path) as sheet:
        return np.asarray(sheet)[TILE:]


@pytest.mark.parametrize(
    ("first", "second"), [("scan 1", "scan 2"), ("1. " + "x" * 80 + "1.png", "1. " + "x" * 80 + "2.png")]
)
def test_names_that_end_otherwise_look_otherwise(first: str, second: str, tmp_path: Path) -> None:
    assert not np.array_equal(caption(tmp_path, first), caption(tmp_path, second))


def test_the_place_in_the_order_stays(tmp_path: Path) -> None:
    one, two = (caption(tmp_path, f"{number}. {'x' * 80}.png") for number in (1, 2))
    assert not np.array_equal(one, two)


def test_a_long_name_stays_within_its_tile(tmp_path: Path) -> None:
    found = caption(tmp_path, "w" * 300)
    assert found.shape[1] <= TILE + 40
    assert (found[:, -5:] == found[0, 0]).all()  # nothing is cut off at the edge
