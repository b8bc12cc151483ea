"""From a folder to a datalist, in one call."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phnet_monai.data import (
    DecodeError,
    Record,
    load_datalist,
    load_meta,
    prepare_busbra,
    prepare_busi,
    prepare_folder,
    read_image,
    summary,
    write_phantoms,
)
from phnet_monai.data.prepare import group_records


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 scans; 1 and 2 are one scan, and so are 3 and 4."""
    folder = write_phantoms(tmp_path_factory.mktemp("phantoms"), 40, seed=0, size_range=(60, 90))
    for copy, original in ((2, 1), (4, 3)):
        for kind in ("images", "masks"):
            content = (folder / kind / f"phantom_{original:04d}.png").read_bytes()
            (folder / kind / f"phantom_{copy:04d}.png").write_bytes(content)
    return folder


def _sides(path: Path) -> dict[str, set[str]]:
    sides = defaultdict(set)
    for part, entries in load_datalist(path).items():
        for entry in entries:
            sides[entry["group_id"]].add("training" if part in ("labeled", "unlabeled") else part)
    return sides


@pytest.mark.parametrize("seed", range(3))
def test_folder(phantoms: Path, tmp_path: Path, seed: int) -> None:
    path = prepare_folder(phantoms, tmp_path, labeled=6, seed=seed, progress=False)
    counts = {part: len(entries) for part, entries in load_datalist(path).items()}
    assert counts == {"labeled": 6, "unlabeled": 26, "validation": 4, "test": 4}
    assert all(len(sides) == 1 for sides in _sides(path).values())
    assert len(_sides(path)) == 38
    meta = load_meta(path)
    assert (meta["seed"], meta["split_seed"], meta["protocol"]) == (seed, seed, "grouped")


def test_masks_may_lie_elsewhere(phantoms: Path, tmp_path: Path) -> None:
    first = prepare_folder(phantoms, tmp_path / "a", progress=False)
    second = prepare_folder(phantoms / "images", tmp_path / "b", masks=phantoms / "masks", progress=False)
    assert load_datalist(first) == load_datalist(second)


def test_two_runs_write_equal_bytes(phantoms: Path, tmp_path: Path) -> None:
    first, again = (prepare_folder(phantoms, tmp_path / name, progress=False).read_bytes() for name in "ab")
    assert first == again


def test_images_without_any_mask_cannot_be_divided(phantoms: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="every part needs one image"):
        prepare_folder(phantoms / "images", tmp_path, progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options", [{"labeled": "lots"}, {"protocol": "none"}, {"seed": 1.5}, {"split_seed": "x"}, {"folds": 3}]
)
def test_arguments_are_checked_first(tmp_path: Path, options: dict) -> None:
    for prepare in (prepare_folder, prepare_busi, prepare_busbra):
        with pytest.raises(ValueError, match=next(iter(options))):
            prepare(tmp_path / "not there", tmp_path / "out", **options)


def test_existing_list_is_noticed_before_any_reading(phantoms: Path, tmp_path: Path) -> None:
    prepare_folder(phantoms, tmp_path, progress=False)
    with pytest.raises(FileExistsError):
        prepare_folder(tmp_path / "not there", tmp_path)


def test_of_many_bad_files_the_first_are_told(tmp_path: Path) -> None:
    folder = write_phantoms(tmp_path / "made", 12, size_range=(40, 50))
    for image in (folder / "images").iterdir():
        image.write_bytes(b"")
    with pytest.raises(DecodeError, match=r"(?s)^12 files .* is empty.*And 9 more; `phnet audit` lists all\.$"):
        prepare_folder(folder, tmp_path / "out", progress=False)


def test_bad_files_are_listed_together(tmp_path: Path) -> None:
    folder = write_phantoms(tmp_path / "made", 12, size_range=(40, 50))
    (folder / "images" / "phantom_0003.png").write_bytes(b"")
    (folder / "masks" / "phantom_0005.png").write_text("text")
    Image.new("L", (7, 9)).save(folder / "masks" / "phantom_0008.png")
    with pytest.raises(DecodeError) as caught:
        prepare_folder(folder, tmp_path / "out", progress=False)
    message = str(caught.value)
    assert message.startswith("3 files cannot be used")
    for text in (
        "phantom_0003.png is empty",
        "phantom_0005.png cannot be read",
        "phantom_0008.png is 7 x 9, its image is",
    ):
        assert text in message
    assert not (tmp_path / "out").exists()


def test_patients_and_near_duplicates_are_joined(phantoms: Path) -> None:
    def record(number: int, patient: str | None) -> Record:
        return Record(phantoms / "images" / f"phantom_{number:04d}.png", (), str(number), patient)

    # 1 and 2 are one scan, 2 and 5 one patient, so all three belong together
    records = [record(1, None), record(2, "p"), record(5, "p"), record(6, "q"), record(7, None)]
    groups = [grouped.group_id for grouped in group_records(records, progress=False)]
    assert groups == ["g0001", "g0001", "g0001", "g0002", "g0003"]


def test_made_up_busi(phantoms: Path, tmp_path: Path) -> None:
    for number in range(1, 41):
        name = "benign" if number <= 25 else "malignant"
        (tmp_path / "busi" / name).mkdir(parents=True, exist_ok=True)
        for kind, ending in (("images", ""), ("masks", "_mask")):
            content = (phantoms / kind / f"phantom_{number:04d}.png").read_bytes()
            (tmp_path / "busi" / name / f"{name} ({number}){ending}.png").write_bytes(content)
    path = prepare_busi(tmp_path / "busi", tmp_path / "out", labeled="1/4", protocol="paper", progress=False)
    parts = load_datalist(path)
    assert Counter(entry["class"] for entry in parts["labeled"]) == {"benign": 5, "malignant": 3}
    assert load_meta(path)["normals"] is False


def test_folds_are_written_and_told(phantoms: Path, tmp_path: Path) -> None:
    tested = []
    for fold in range(1, 5):
        path = prepare_folder(phantoms, tmp_path / str(fold), folds=4, fold=fold, labeled=6, progress=False)
        assert all(len(sides) == 1 for sides in _sides(path).values())
        assert (load_meta(path)["folds"], load_meta(path)["fold"]) == (4, fold)
        assert f"fold {fold} of 4" in summary(path)
        tested += [entry["case_id"] for entry in load_datalist(path)["test"]]
    assert sorted(tested) == [f"phantom_{number:04d}" for number in range(1, 41)]
    assert "folds" not in load_meta(prepare_folder(phantoms, tmp_path / "plain", progress=False))


def test_made_up_busbra(phantoms: Path, tmp_path: Path) -> None:
    root = tmp_path / "BUSBRA"
    lines = ["ID,Case,Histology,Pathology,BIRADS,Device,Width,Height,Side,BBOX"]
    for kind, folder, prefix in (("images", "Images", "bus"), ("masks", "Masks", "mask")):
        (root / folder).mkdir(parents=True)
        for number in range(40):
            patient, side = number // 2, "lr"[number % 2]
            content = (phantoms / kind / f"phantom_{number + 1:04d}.png").read_bytes()
            (root / folder / f"{prefix}_{patient:04d}-{side}.png").write_bytes(content)
            if kind == "images":
                pathology = "benign" if patient < 12 else "malignant"
                lines.append(f"bus_{patient:04d}-{side},{patient},,{pathology},4,scanner {patient % 2},80,80,left,")
    (root / "bus_data.csv").write_text("\n".join(lines))
    path = prepare_busbra(root, tmp_path / "out", labeled="1/4", progress=False)
    parts = load_datalist(path)
    sides: dict[str, set[str]] = defaultdict(set)
    for part, entries in parts.items():
        for entry in entries:
            patient = entry["case_id"].split("-")[0]
            sides[patient].add("training" if part in ("labeled", "unlabeled") else part)
    assert len(sides) == 20
    assert all(len(found) == 1 for found in sides.values())
    assert {entry["device"] for entry in parts["labeled"]} <= {"scanner 0", "scanner 1"}
    assert "histology" not in parts["labeled"][0]
    assert load_meta(path)["dataset"] == "BUS-BRA"


@pytest.fixture(scope="module")
def real() -> str:
    folder = os.environ.get("PHNET_DATA")
    if not folder:
        pytest.skip("PHNET_DATA names no folder with real data")
    return folder


@pytest.fixture(scope="module")
def real_list(real: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_busi(real, tmp_path_factory.mktemp("busi"), normals=True, progress=False)


@pytest.mark.real_data
def test_real_busi_keeps_groups_on_one_side(real_list: Path) -> None:
    assert all(len(sides) == 1 for sides in _sides(real_list).values())
    parts = load_datalist(real_list)
    sizes = [len(parts[part]) for part in ("labeled", "unlabeled", "validation", "test")]
    assert sum(sizes) == 702
    assert sizes == [70, 492, 70, 70]
    images = [entry["image"] for entries in parts.values() for entry in entries]
    assert len(set(images)) == 702


@pytest.mark.real_data
def test_real_busi_groups(real_list: Path) -> None:
    entries = {entry["case_id"]: entry for part in load_datalist(real_list).values() for entry in part}
    sizes = Counter(entry["group_id"] for entry in entries.values())
    assert sum(size > 1 for size in sizes.values()) > 100
    assert max(sizes.values()) <= 10

    def together(*names: str) -> bool:
        return len({entries[name]["group_id"] for name in names}) == 1

    assert together("benign (61)", "benign (94)", "benign (108)")  # frames of one sweep
    assert together("benign (238)", "benign (300)")  # with and without calipers, cropped
    assert together("malignant (98)", "malignant (99)")  # one of them without the sides of the fan
    assert together("benign (406)", "malignant (94)")  # one lesion in two classes
    assert not together("benign (109)", "benign (326)")  # two cysts that look alike


@pytest.mark.real_data
def test_real_busi_mean_grey(real: str) -> None:
    folder = Path(real) / "Dataset_BUSI_with_GT" / "benign"
    images = sorted(file for file in folder.iterdir() if "_mask" not in file.name)[::5]
    means = [read_image(file).mean() / 255 for file in images]
    assert np.mean(means) == pytest.approx(0.33, abs=0.05)


@pytest.mark.real_data
def test_real_busbra_keeps_patients_on_one_side(real: str, tmp_path: Path) -> None:
    path = prepare_busbra(real, tmp_path, folds=5, fold=1, progress=False)
    assert all(len(sides) == 1 for sides in _sides(path).values())
    parts = load_datalist(path)
    patients = defaultdict(set)
    for part, entries in parts.items():
        for entry in entries:
            patients[entry["case_id"].split("-")[0]].add("training" if part in ("labeled", "unlabeled") else part)
    assert len(patients) == 220
    assert all(len(sides) == 1 for sides in patients.values())
    assert (len(parts["validation"]), len(parts["test"])) == (39, 78)
    for part in ("labeled", "validation", "test"):
        share = np.mean([entry["class"] == "malignant" for entry in parts[part]])
        assert share == pytest.approx(116 / 389, abs=0.05)


def test_masks_of_numbered_regions_and_all_lesion_are_warned_of(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "in", 12, size_range=(60, 90))
    masks = sorted((tmp_path / "in" / "masks").iterdir())
    numbered = np.zeros(np.asarray(Image.open(masks[0])).shape, np.uint8)
    numbered[5:20, 5:20], numbered[5:20, 25:40], numbered[5:20, 45:60] = 1, 2, 3
    Image.fromarray(numbered).save(masks[0])
    Image.fromarray(np.full_like(np.asarray(Image.open(masks[1])), 255)).save(masks[1])
    with pytest.warns(UserWarning, match="2 masks have more than two values, or are lesion all over"):
        prepare_folder(tmp_path / "in", tmp_path / "out", labeled=2, progress=False)


def test_a_group_of_many_images_is_warned_of(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "in", 30, size_range=(60, 90))
    images = sorted((tmp_path / "in" / "images").iterdir())
    for number, image in enumerate(images[1:12]):
        Image.open(images[0]).point(lambda value, n=number: min(255, value + n)).save(image)
    for mask in sorted((tmp_path / "in" / "masks").iterdir())[1:12]:
        mask.unlink()
    with pytest.warns(UserWarning, match="12 of 30 images count as one scan or patient"):
        prepare_folder(tmp_path / "in", tmp_path / "out", labeled=2, progress=False)
