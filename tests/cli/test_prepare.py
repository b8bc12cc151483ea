"""`phnet prepare` on folders made here, and on BUSI where it is present."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phnet_monai.cli.main import main


def make_dataset(root: Path, count: int) -> Path:
    """`images/` with smoothed noise, so that no two are alike, and `masks/` with a square."""
    generator = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for index in range(count):
        noise = Image.fromarray(generator.integers(0, 256, (6, 8), dtype=np.uint8))
        noise.resize((64, 48)).save(root / "images" / f"{index}.png")
        mask = np.zeros((48, 64), dtype=np.uint8)
        mask[10:20, 5:30] = 255
        Image.fromarray(mask).save(root / "masks" / f"{index}_mask.png")
    return root


def test_prepare_folder_writes_a_datalist_and_prints_its_summary(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "my data", 30)
    out = tmp_path / "1e3"
    words = ["prepare", "folder", str(data / "images"), str(out), "--masks", str(data / "masks")]
    assert main([*words, "--labeled", "1/4", "--seed", "2", "--split-seed=1", "--quiet"]) == 0
    content = json.loads((out / "datalist.json").read_text())
    sizes = {part: len(content[part]) for part in ("labeled", "unlabeled", "validation", "test")}
    assert sizes == {"labeled": 6, "unlabeled": 18, "validation": 3, "test": 3}
    assert (content["meta"]["seed"], content["meta"]["split_seed"]) == (2, 1)
    captured = capsys.readouterr()
    assert str(out / "datalist.json") in captured.out
    assert "labeled" in captured.out
    assert captured.err == ""


def test_prepare_does_not_replace_a_datalist_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_dataset(tmp_path / "d", 20)
    words = ["prepare", "folder", str(data), str(tmp_path / "o"), "--quiet"]
    assert main(words) == 0
    before = (tmp_path / "o" / "datalist.json").read_bytes()
    capsys.readouterr()
    assert main([*words, "--seed", "5"]) == 2
    assert "exists" in capsys.readouterr().err
    assert (tmp_path / "o" / "datalist.json").read_bytes() == before
    assert main([*words, "--seed", "5", "--overwrite"]) == 0
    assert (tmp_path / "o" / "datalist.json").read_bytes() != before


def test_prepare_says_what_is_wrong_with_a_fraction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_dataset(tmp_path / "d", 20)
    assert main(["prepare", "folder", str(data), str(tmp_path / "o"), "--labeled", "one eighth"]) == 2
    assert "one eighth" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


@pytest.mark.real_data
@pytest.mark.slow
def test_prepare_busi(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not os.environ.get("PHNET_DATA"):
        pytest.skip("PHNET_DATA is not set")
    classes = Path(os.environ["PHNET_DATA"], "Dataset_BUSI_with_GT")
    lesions = [*classes.glob("benign/*.png"), *classes.glob("malignant/*.png")]
    count = sum("_mask" not in file.name for file in lesions)
    words = ["prepare", "busi", os.environ["PHNET_DATA"], str(tmp_path), "--labeled=32", "--quiet"]
    assert main(words) == 0
    content = json.loads((tmp_path / "datalist.json").read_text())
    assert len(content["labeled"]) == 32
    assert sum(len(content[part]) for part in ("labeled", "unlabeled", "validation", "test")) == count
    assert f"BUSI: {count} images" in capsys.readouterr().out
