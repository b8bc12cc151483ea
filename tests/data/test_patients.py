"""Patients of one's own images, from a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from phnet_monai.cli.main import main
from phnet_monai.data import LeakError, check_leaks, load_datalist, prepare_folder, write_phantoms
from phnet_monai.data.patients import with_patients
from phnet_monai.data.records import Record
from phnet_monai.data.splits import PARTS, SIDES


def records(*cases: str) -> list[Record]:
    return [Record(Path("images") / f"{case}.png", (), case) for case in cases]


def table(folder: Path, *lines: str, encoding: str = "utf-8") -> Path:
    path = folder / "patients.csv"
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


@pytest.mark.parametrize("name", ["a/x", "a/x.png", "./a/x.PNG", "a\\x.tif", "x", "x.png"])
def test_an_image_is_told_by_path_or_name(name: str, tmp_path: Path) -> None:
    file = table(tmp_path, "Patient,Image,age", f"7,{name},50", "8, y ,60", encoding="utf-8-sig")
    assert [record.group_id for record in with_patients(records("a/x", "y"), file)] == ["patient 7", "patient 8"]


def test_a_name_that_two_images_have_tells_nothing(tmp_path: Path) -> None:
    file = table(tmp_path, "image,patient", "x,7", "b/x,8")
    with pytest.raises(ValueError, match=r"patients\.csv tells no patient for 1 of 2 images: a/x\. Expected a row for"):
        with_patients(records("a/x", "b/x"), file)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["image;patient", "x;7"],
            r"lacks the column image and patient; its columns are image;patient\. Expected a CSV",
        ),
        (["image,age", "x,7"], "lacks the column patient"),
        ([""], "lacks the column image and patient; its columns are none"),
        (["image,patient", "x,7", "x.png,8"], "gives x to two patients, 7 and 8"),
        (["image,patient", "x,", "y,8"], "tells no patient for 1 of 2 images: x"),
        (["image,patient", "x"], "tells no patient for 2 of 2 images: x, y"),
    ],
)
def test_tables_that_are_refused(lines: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        with_patients(records("x", "y"), table(tmp_path, *lines))


def test_a_patient_stays_on_one_side(tmp_path: Path) -> None:
    folder = write_phantoms(tmp_path / "made", 24, size_range=(40, 60))
    patients = {f"phantom_{number:04d}": str(number % 12) for number in range(1, 25)}
    file = table(tmp_path, "image,patient", *(f"{image}.png,{patient}" for image, patient in patients.items()))
    for seed in range(3):
        out = tmp_path / f"out{seed}"
        words = ["prepare", "folder", str(folder), str(out), "--patients", str(file), "--seed", str(seed), "--quiet"]
        assert main([*words, "--labeled", "4"]) == 0
        parts = load_datalist(out / "datalist.json")
        sides = {(patients[entry["case_id"]], SIDES[part]) for part in PARTS for entry in parts[part]}
        assert len(sides) == 12
    # without the table they are divided, and the datalist that knows them is refused
    alone = prepare_folder(folder, tmp_path / "alone", labeled=4, progress=False)
    parts = load_datalist(alone)
    sides = {(patients[entry["case_id"]], SIDES[part]) for part in PARTS for entry in parts[part]}
    assert len(sides) > 12
    check_leaks(alone)
    text = alone.read_text()
    for entry in (entry for part in PARTS for entry in parts[part]):
        text = text.replace(f'"group_id": "{entry["group_id"]}"', f'"group_id": "p{patients[entry["case_id"]]}"')
    alone.write_text(text)
    with pytest.raises(LeakError, match="are of group p"):
        check_leaks(alone)


def test_a_missing_table_is_named_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_phantoms(tmp_path / "made", 12, size_range=(40, 50))
    gone = tmp_path / "gone.csv"
    assert main(["prepare", "folder", str(folder), str(tmp_path / "out"), "--patients", str(gone), "--quiet"]) == 2
    assert capsys.readouterr().err == f"phnet: {gone}: No such file or directory\n"
    assert not (tmp_path / "out").exists()
