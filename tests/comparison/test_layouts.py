"""Which layout a data set has, and one datalist for each fraction, seed and fold."""

from __future__ import annotations

from pathlib import Path

import pytest

from phnet_monai.comparison.layouts import find_layout, make_datalist
from phnet_monai.comparison.matrix import MatrixError
from phnet_monai.data import load_datalist, write_phantoms


@pytest.mark.parametrize(
    ("made", "layout"),
    [
        (["benign"], "busi"),
        (["Dataset_BUSI_with_GT/benign"], "busi"),
        (["images", "masks"], "folder"),
        (["Images", "Masks", "bus_data.csv"], "busbra"),
    ],
)
def test_layout_is_seen(made: list[str], layout: str, tmp_path: Path) -> None:
    for name in made:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch() if "." in name else (tmp_path / name).mkdir()
    assert find_layout(tmp_path) == layout


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(MatrixError, match="found neither"):
        find_layout(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        find_layout(tmp_path / "none")


def test_seeds_share_validation_and_test_images(tmp_path: Path) -> None:
    pictures = write_phantoms(tmp_path / "phantoms", 20, size_range=(40, 60))
    lists = []
    for seed in (0, 1):
        folder = tmp_path / f"seed{seed}"
        make_datalist("folder", str(pictures), str(folder), labeled="1/4", seed=seed)
        lists.append(load_datalist(folder / "datalist.json"))

    def cases(content: dict, part: str) -> list[str]:
        return [item["case_id"] for item in content[part]]

    first, second = lists
    for part in ("validation", "test"):
        assert cases(first, part) == cases(second, part)
    assert cases(first, "labeled") != cases(second, "labeled")
    stamp = (tmp_path / "seed0" / "datalist.json").stat().st_mtime_ns
    make_datalist("folder", str(pictures), str(tmp_path / "seed0"), labeled="1/2", seed=7)
    assert (tmp_path / "seed0" / "datalist.json").stat().st_mtime_ns == stamp  # what is there is kept


def test_folds_test_every_image_once(tmp_path: Path) -> None:
    pictures = write_phantoms(tmp_path / "phantoms", 20, size_range=(40, 60))
    tested: list[str] = []
    for fold in (1, 2, 3):
        folder = tmp_path / f"fold{fold}"
        make_datalist("folder", str(pictures), str(folder), labeled="1/4", seed=0, folds=3, fold=fold)
        tested += [item["case_id"] for item in load_datalist(folder / "datalist.json")["test"]]
    assert len(tested) == len(set(tested)) == 20
