"""Files that can be read back, written whole or not at all."""

from __future__ import annotations

import csv
import json
import math
import os

import numpy as np
import pytest

from phnet_monai.metrics import SegmentationScores, format_summary, read_per_image, write_scores


@pytest.fixture
def scores(square) -> SegmentationScores:
    result = SegmentationScores()
    empty, mask = np.zeros((30, 40), dtype=bool), square((30, 40), 4, 4, 7)
    third = np.float32(1 / 3)
    result.update("007", np.where(mask, 0.9, 0.2), mask, class_name="benign", hardness=third)
    result.update('a, "b" ü', np.where(mask, 0.1, 0.2), mask, class_name="malignant")
    result.update("normal (1)", empty.astype(float), empty, note="no outline")
    return result


def test_csv_round_trip(scores, tmp_path):
    write_scores(scores, tmp_path / "new" / "folder")
    written, read = scores.rows(), read_per_image(tmp_path / "new" / "folder" / "per_image.csv")
    assert [row["case_id"] for row in read] == ["007", 'a, "b" ü', "normal (1)"]
    assert [row["class"] for row in read] == ["benign", "malignant", None]
    for before, after in zip(written, read, strict=True):
        for key, value in before.items():
            assert after[key] == value or (math.isnan(value) and math.isnan(after[key])), key
    assert math.isnan(read[1]["hardness"])
    assert read[2]["note"] == "no outline"


@pytest.mark.parametrize("name", ["=1+1", "-b", "@c,d", "'=x", "'plain", "\udcff.png", "two\nlines"])
def test_names_that_are_formulas_or_no_text_come_back(square, tmp_path, name):
    result = SegmentationScores()
    mask = square((30, 40), 4, 4, 7)
    result.update(name, np.where(mask, 0.9, 0.2), mask, class_name=name, note=name)
    write_scores(result, tmp_path)
    [row] = read_per_image(tmp_path / "per_image.csv")
    assert (row["case_id"], row["class"], row["note"]) == (name, name, name)
    with open(tmp_path / "per_image.csv", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        assert next(iter(csv.DictReader(stream)))["case_id"][0] not in "=+-@"


def test_nan_is_an_empty_cell_and_null(scores, tmp_path):
    summary = write_scores(scores, tmp_path, bootstrap=100)
    with open(tmp_path / "per_image.csv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert (rows[2]["dice"], rows[2]["hd95"], rows[2]["false_positive"], rows[2]["tp"]) == ("", "", "0", "0")
    text = (tmp_path / "summary.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    stored = json.loads(text)
    assert stored["by_class"]["benign"]["dice_std"] is None  # one image has no spread
    assert math.isnan(summary["by_class"]["benign"]["dice_std"])
    assert stored["pooled_dice"] == summary["pooled_dice"]
    assert stored["dice_ci"] == list(summary["dice_ci"])


def test_a_failed_write_keeps_the_old_files(scores, tmp_path, monkeypatch):
    write_scores(scores, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {"per_image.csv", "summary.json"}

    def full_disk(source, target):
        raise OSError("no space left")

    scores.update("another", np.zeros((4, 4)), np.ones((4, 4)))
    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_scores(scores, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    monkeypatch.undo()
    write_scores(scores, tmp_path)
    assert len(read_per_image(tmp_path / "per_image.csv")) == 4


def test_nothing_is_written_without_images(tmp_path):
    with pytest.raises(ValueError, match="no image was scored"):
        write_scores(SegmentationScores(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_table_has_the_figures_with_and_without_json(scores, tmp_path):
    summary = write_scores(scores, tmp_path, bootstrap=100)
    text = format_summary(summary)
    # one lesion outlined exactly, one missed: tp 49, fn 49
    assert "pooled Dice              0.6667 [0.0000, 1.0000]" in text
    assert "3 (2 with lesion)" in text
    assert "missed                   1 of 2 (50.0 %)" in text
    assert "25.00 px (median 25.00)" in text
    assert "0.0 % of 1 images without lesion" in text
    assert [line.split()[0] for line in text.splitlines()[-4:]] == ["all", "benign", "malignant", "small"]
    assert "nan" not in text.lower().replace("malignant", "")
    assert format_summary(json.loads((tmp_path / "summary.json").read_text())) == text


def test_table_without_distances(square):
    scores = SegmentationScores(distances=False)
    scores.update("x", np.zeros((5, 5)), np.zeros((5, 5), dtype=bool))
    text = format_summary(scores.summary())
    assert "HD95  " in text  # the column stays, with a dash
    assert "median" not in text
    assert "nan" not in text.lower()


def test_reading_another_table_says_so(tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("name,score\nx,1\n")
    with pytest.raises(ValueError, match=r"other\.csv: expected a table with a column case_id"):
        read_per_image(other)
    with pytest.raises(FileNotFoundError):
        read_per_image(tmp_path / "none.csv")
