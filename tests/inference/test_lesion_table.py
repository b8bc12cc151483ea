"""The tables of lesions, read back as a user's programs read them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from phnet_monai.inference.lesion_table import COLUMNS, LesionRow, write_lesion_tables
from phnet_monai.inference.measure import Lesion, measure_lesions


def lesion(spacing_mm: tuple[float, float] | None = None) -> Lesion:
    mask = np.zeros((40, 50), dtype=bool)
    mask[10:13, 20:24] = True
    [found] = measure_lesions(mask, np.full(mask.shape, 1 / 3, dtype=np.float32), spacing_mm)
    return found


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def test_columns_and_values(tmp_path: Path) -> None:
    write_lesion_tables(tmp_path, [LesionRow("a/x.png", 1, lesion((0.5, 0.25))), LesionRow("b.dcm", 3, lesion())])
    first, second = read_csv(tmp_path / "lesions.csv")
    assert tuple(first) == COLUMNS
    assert COLUMNS[:4] == ("image", "frame", "number", "area_px")
    assert (first["image"], first["frame"], first["area_px"], first["area_mm2"]) == ("a/x.png", "1", "12", "1.5")
    assert first["long_axis_px"] == "5.0"
    assert first["mean_confidence"] == "0.3333"
    assert (second["frame"], second["area_mm2"], second["short_axis_mm"]) == ("3", "", "")
    objects = json.loads((tmp_path / "lesions.json").read_text())
    assert [list(one) for one in objects] == [list(COLUMNS)] * 2
    assert objects[0]["area_mm2"] == 1.5
    assert objects[1]["area_mm2"] is None
    assert objects[1]["image"] == "b.dcm"


def test_no_lesion_is_a_table_without_rows(tmp_path: Path) -> None:
    write_lesion_tables(tmp_path / "new", [])
    assert read_csv(tmp_path / "new" / "lesions.csv") == []
    assert (tmp_path / "new" / "lesions.csv").read_bytes().startswith(b"\xef\xbb\xbfimage,frame,")
    assert json.loads((tmp_path / "new" / "lesions.json").read_text()) == []


@pytest.mark.parametrize("name", ["=1+1.png", "+x.png", "-x.png", "@x.png", "\tx.png"])
def test_a_name_is_never_a_formula(name: str, tmp_path: Path) -> None:
    write_lesion_tables(tmp_path, [LesionRow(name, 1, lesion())])
    assert read_csv(tmp_path / "lesions.csv")[0]["image"] == f"'{name}"
    assert json.loads((tmp_path / "lesions.json").read_text())[0]["image"] == name


@pytest.mark.parametrize("name", ['a "b", c.png', "Größe 1.png", "a\nb.png", "it's.png", "2024", "a=b.png"])
def test_awkward_names_survive(name: str, tmp_path: Path) -> None:
    write_lesion_tables(tmp_path, [LesionRow(name, 1, lesion())])
    assert read_csv(tmp_path / "lesions.csv")[0]["image"] == name
    assert json.loads((tmp_path / "lesions.json").read_text())[0]["image"] == name


def test_a_name_that_is_no_text_survives(tmp_path: Path) -> None:
    name = b"gr\xf6sse.png".decode("utf-8", errors="surrogateescape")
    write_lesion_tables(tmp_path, [LesionRow(name, 1, lesion())])
    assert read_csv(tmp_path / "lesions.csv")[0]["image"] == "gr\\udcf6sse.png"
    assert json.loads((tmp_path / "lesions.json").read_text())[0]["image"] == name


def test_rows_may_be_drawn_one_by_one_and_a_failure_leaves_the_old_tables(tmp_path: Path) -> None:
    write_lesion_tables(tmp_path, (LesionRow(f"{n}.png", 1, lesion()) for n in range(3)))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def broken() -> Iterator[LesionRow]:
        yield LesionRow("x.png", 1, lesion())
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        write_lesion_tables(tmp_path, broken())
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert len(read_csv(tmp_path / "lesions.csv")) == 3


def test_pandas_reads_it(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    write_lesion_tables(tmp_path, [LesionRow("ä.png", 1, lesion((0.5, 0.25))), LesionRow("b.png", 1, lesion())])
    table = pandas.read_csv(tmp_path / "lesions.csv")
    assert list(table.columns) == list(COLUMNS)
    assert table["area_mm2"].isna().tolist() == [False, True]
