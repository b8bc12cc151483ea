"""Outlines for a datalist in use: what was unlabeled becomes labeled, and the parts that measure stay as they are."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path, PurePath

import numpy as np
import pytest
from PIL import Image

from phnet_monai.cli.main import main
from phnet_monai.data import (
    DecodeError,
    LeakError,
    add_outlines,
    check_leaks,
    load_datalist,
    load_meta,
    prepare_folder,
    read_image,
    read_mask,
    summary,
    write_phantoms,
)
from phnet_monai.inference.annotations import Proposal, export_proposals

Entry = dict[str, str]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantoms(tmp_path_factory.mktemp("phantoms"), 32, seed=0, size_range=(60, 90))


@pytest.fixture(scope="module")
def datalist(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_folder(phantoms, tmp_path_factory.mktemp("data"), labeled=4, progress=False)


def outline(folder: Path, entries: list[Entry], file_format: str = "labelme") -> Path:
    """The entries' true outlines, as an annotator leaves them: exported under other names, and changed."""
    proposals = [
        Proposal(Path(entry["image"]), PurePath(f"chosen {number}.png"), read_mask(truth(entry)))
        for number, entry in enumerate(entries)
    ]
    export_proposals(folder, proposals, file_format)  # type: ignore[arg-type]
    return folder


def truth(entry: Entry) -> str:
    return entry.get("label", entry.get("hidden_label", ""))


def masks_folder(folder: Path, entries: list[Entry], change: Callable[[np.ndarray], np.ndarray] = np.copy) -> Path:
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for number, entry in enumerate(entries):
        shutil.copy(entry["image"], folder / "images" / f"{number}.png")
        mask = change(read_mask(truth(entry)))
        Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{number}_mask.png")
    return folder


def cases(entries: list[Entry]) -> list[str]:
    return [entry["case_id"] for entry in entries]


@pytest.mark.parametrize("file_format", ["labelme", "coco"])
def test_outlined_images_become_labeled(datalist: Path, tmp_path: Path, file_format: str) -> None:
    before = load_datalist(datalist)
    chosen = before["unlabeled"][2:7]
    path = add_outlines(datalist, outline(tmp_path / "made", chosen, file_format), tmp_path / "new", progress=False)
    after = load_datalist(path)
    assert (after["validation"], after["test"]) == (before["validation"], before["test"])
    assert after["labeled"][:4] == before["labeled"]
    assert cases(after["unlabeled"]) == cases(before["unlabeled"][:2] + before["unlabeled"][7:])
    for entry, old in zip(after["labeled"][4:], chosen, strict=True):
        assert {key: entry[key] for key in ("image", "case_id", "group_id")} == {
            key: old[key] for key in ("image", "case_id", "group_id")
        }
        assert Path(entry["label"]).is_relative_to(tmp_path / "new" / "labels")
        drawn, true = read_mask(entry["label"]), read_mask(old["hidden_label"])
        assert (drawn & true).sum() / (drawn | true).sum() > 0.9
        assert "hidden_label" not in entry
    assert load_meta(path)["labeled"] == 9
    assert load_meta(path)["added"] == [{"from_unlabeled": 5, "replaced": 0, "new_images": 0}]
    assert "outlines added: 5 of unlabeled images" in summary(path)
    assert check_leaks(path) is None


def test_rounds_add_up_and_labeled_images_get_the_new_outline(datalist: Path, tmp_path: Path) -> None:
    before = load_datalist(datalist)
    first = add_outlines(
        datalist, masks_folder(tmp_path / "1", before["unlabeled"][:3]), tmp_path / "a", progress=False
    )
    again = [before["unlabeled"][1], before["labeled"][0], before["unlabeled"][5]]
    made = masks_folder(tmp_path / "2", again, np.zeros_like)  # "no lesion here"
    second = add_outlines(first, made, tmp_path / "b", progress=False)
    after = load_datalist(second)
    by_case = {entry["case_id"]: entry["label"] for entry in after["labeled"]}
    assert len(by_case) == 4 + 3 + 1
    assert not any(read_mask(by_case[entry["case_id"]]).any() for entry in again)
    kept = before["unlabeled"][0]
    assert np.array_equal(read_mask(by_case[kept["case_id"]]), read_mask(kept["hidden_label"]))
    assert load_meta(second)["added"][1] == {"from_unlabeled": 1, "replaced": 2, "new_images": 0}
    assert "outlines added: 1 of unlabeled images, 2 anew" in summary(second)
    assert load_datalist(first)["labeled"][0] == before["labeled"][0]


@pytest.mark.parametrize("part", ["validation", "test"])
def test_images_that_measure_are_refused(datalist: Path, tmp_path: Path, part: str) -> None:
    parts = load_datalist(datalist)
    made = masks_folder(tmp_path / "made", [parts["unlabeled"][0], parts[part][0]])
    with pytest.raises(ValueError, match=rf"outlines 1 images that measure .*: 1\.png \({part}\)"):
        add_outlines(datalist, made, tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


def test_further_images_join_the_labeled_ones(datalist: Path, tmp_path: Path) -> None:
    before = load_datalist(datalist)
    made = write_phantoms(tmp_path / "made", 3, seed=99, size_range=(60, 90))  # named as images of the datalist are
    path = add_outlines(datalist, made, tmp_path / "new", progress=False)
    after = load_datalist(path)
    added = after["labeled"][4:]
    assert cases(added) == [f"phantom_{number:04d} (2)" for number in (1, 2, 3)]
    assert [Path(entry["image"]).parent for entry in added] == [tmp_path / "made" / "images"] * 3
    assert len({entry["group_id"] for part in after.values() for entry in part}) == 35
    for part in ("validation", "test", "unlabeled"):
        assert cases(after[part]) == cases(before[part])
    assert check_leaks(path) is None


def near_copy(entry: Entry, folder: Path) -> Path:
    """The same scan in another file, with one brightness changed."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    image = read_image(entry["image"]).copy()
    image[0, 0] ^= 1
    Image.fromarray(image).save(folder / "images" / "copy.png")
    shutil.copy(truth(entry), folder / "masks" / "copy.png")
    return folder


def test_further_images_of_a_held_out_scan_are_refused(datalist: Path, tmp_path: Path) -> None:
    parts = load_datalist(datalist)
    made = near_copy(parts["test"][0], tmp_path / "made")
    with pytest.raises(LeakError, match=r"1 of its scans are held out: copy\.png \(labeled\) and .*take these images"):
        add_outlines(datalist, made, tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()
    allowed = add_outlines(datalist, near_copy(parts["labeled"][0], tmp_path / "own"), tmp_path / "new", progress=False)
    labeled = load_datalist(allowed)["labeled"]
    assert labeled[-1]["group_id"] == labeled[0]["group_id"]  # with what it shows


@pytest.fixture(scope="module")
def with_patients(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A datalist of 16 patients, two images each."""
    folder = tmp_path_factory.mktemp("patients")
    lines = [f"phantom_{number:04d},{number % 16}" for number in range(1, 33)]
    table = folder / "patients.csv"
    table.write_text("\n".join(["image,patient", *lines]))
    return prepare_folder(phantoms, folder / "data", patients=table, labeled=4, progress=False)


def new_images(folder: Path, *patients: str, seed: int = 77) -> tuple[Path, Path]:
    """Further scans, 0.png and so on, and the table of their patients."""
    made = write_phantoms(folder / "made", len(patients), seed=seed, size_range=(60, 90))
    table = folder / "table.csv"
    names = sorted(path.stem for path in (made / "images").iterdir())
    table.write_text("\n".join(["image,patient", *(f"{n},{p}" for n, p in zip(names, patients, strict=True))]))
    return made, table


def test_further_images_join_the_group_of_their_patient(with_patients: Path, tmp_path: Path) -> None:
    before = load_datalist(with_patients)
    trained = before["labeled"][0]
    made, table = new_images(tmp_path, trained["patient"], "new", "new")
    path = add_outlines(with_patients, made, tmp_path / "new", patients=table, progress=False)
    after = load_datalist(path)
    first, second, third = after["labeled"][-3:]
    assert [entry["patient"] for entry in (first, second, third)] == [trained["patient"], "new", "new"]
    groups = {entry["patient"]: entry["group_id"] for entries in after.values() for entry in entries}
    assert len(set(groups.values())) == len(groups) == 17
    assert first["group_id"] == groups[trained["patient"]]
    assert second["group_id"] == third["group_id"]
    check_leaks(path)
    # the next round knows the new patient, too
    more, table = new_images(tmp_path / "more", "new", seed=78)
    shutil.copy(next((made / "images").iterdir()), more / "images" / "again.png")  # no row, since it is known
    shutil.copy(next((made / "masks").iterdir()), more / "masks" / "again.png")
    again = load_datalist(add_outlines(path, more, tmp_path / "again", patients=table, progress=False))
    assert len({entry["group_id"] for entry in again["labeled"] if entry["patient"] == "new"}) == 1


def test_further_images_of_a_held_out_patient_are_refused(with_patients: Path, tmp_path: Path) -> None:
    held_out = load_datalist(with_patients)["validation"][0]["patient"]
    made, table = new_images(tmp_path, "new", held_out)
    with pytest.raises(LeakError, match="1 of its scans are held out"):
        add_outlines(with_patients, made, tmp_path / "new", patients=table, progress=False)
    assert not (tmp_path / "new").exists()


def test_patients_must_be_told_by_both_or_neither(datalist: Path, with_patients: Path, tmp_path: Path) -> None:
    made, table = new_images(tmp_path, "new")
    with pytest.raises(ValueError, match=r"has 1 images that it does not have: .*Tell their patients by a table"):
        add_outlines(with_patients, made, tmp_path / "new", progress=False)
    with pytest.raises(ValueError, match=r"tells patients, but the datalist does not for 32 of its 32 images"):
        add_outlines(datalist, made, tmp_path / "new", patients=table, progress=False)
    with pytest.raises(FileNotFoundError, match=r"gone\.csv"):
        add_outlines(with_patients, made, tmp_path / "new", patients=tmp_path / "gone.csv", progress=False)
    assert not (tmp_path / "new").exists()
    # images that it has need no patient
    known = masks_folder(tmp_path / "known", load_datalist(with_patients)["unlabeled"][:2])
    assert add_outlines(with_patients, known, tmp_path / "new", progress=False).is_file()


def test_patients_are_called_the_same_in_both(with_patients: Path, tmp_path: Path) -> None:
    known = load_datalist(with_patients)["unlabeled"][0]
    made, table = new_images(tmp_path, "new")
    shutil.copy(known["image"], made / "images" / "known.png")
    Image.fromarray(read_mask(truth(known)).astype(np.uint8) * 255).save(made / "masks" / "known.png")
    rows = table.read_text()
    table.write_text(f"{rows}\nknown,0{known['patient']}")
    with pytest.raises(
        ValueError, match=rf"known\.png is of patient 0{known['patient']}, but the datalist says patient"
    ):
        add_outlines(with_patients, made, tmp_path / "out", patients=table, progress=False)
    table.write_text(f"{rows}\nknown, {known['patient']} ")
    assert add_outlines(with_patients, made, tmp_path / "out", patients=table, progress=False).is_file()


@pytest.mark.parametrize("kind", [int, lambda text: f" {text} "])
def test_patients_of_a_datalist_made_by_hand(
    kind: Callable[[str], object], with_patients: Path, tmp_path: Path
) -> None:
    content = json.loads(with_patients.read_text())
    own = tmp_path / "own"
    shutil.copytree(with_patients.parent, own)
    for part in ("labeled", "unlabeled", "validation", "test"):
        for entry in content[part]:
            entry["patient"] = kind(entry["patient"])
            for key in ("image", "label", "hidden_label"):
                if key in entry:
                    entry[key] = str((with_patients.parent / entry[key]).resolve())
    (own / "datalist.json").write_text(json.dumps(content))
    held_out = str(content["test"][0]["patient"]).strip()
    made, table = new_images(tmp_path / "new", held_out)
    with pytest.raises(LeakError, match="1 of its scans are held out"):
        add_outlines(own, made, tmp_path / "out", patients=table, progress=False)


def test_where_the_split_leaks_by_protocol_it_is_a_warning(phantoms: Path, tmp_path: Path) -> None:
    random = prepare_folder(phantoms, tmp_path / "paper", labeled=4, protocol="paper", progress=False)
    made = near_copy(load_datalist(random)["test"][0], tmp_path / "made")
    with pytest.warns(UserWarning, match="Allowed by protocol paper"):
        add_outlines(random, made, tmp_path / "new", progress=False)


def test_one_image_has_one_outline(datalist: Path, tmp_path: Path) -> None:
    entry = load_datalist(datalist)["unlabeled"][0]
    with pytest.raises(ValueError, match=r"outlines one image twice: 0\.png and 1\.png"):
        add_outlines(datalist, masks_folder(tmp_path / "made", [entry, entry]), tmp_path / "new", progress=False)


def test_nothing_outlined(phantoms: Path, datalist: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no outlined image"):
        add_outlines(datalist, phantoms / "images", tmp_path / "new", progress=False)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        add_outlines(datalist, tmp_path / "gone", tmp_path / "new", progress=False)
    with pytest.raises(FileNotFoundError, match="There is no datalist"):
        add_outlines(tmp_path / "gone", phantoms, tmp_path / "new", progress=False)


def test_masks_of_another_size_are_refused(datalist: Path, tmp_path: Path) -> None:
    entry = load_datalist(datalist)["unlabeled"][0]
    made = masks_folder(tmp_path / "made", [entry], lambda mask: mask[1:])
    with pytest.raises(DecodeError, match=r"0_mask\.png is \d+ x \d+, its image is"):
        add_outlines(datalist, made, tmp_path / "new", progress=False)


def test_the_datalist_itself_is_never_replaced(datalist: Path, tmp_path: Path) -> None:
    made, before = masks_folder(tmp_path / "made", load_datalist(datalist)["unlabeled"][:1]), datalist.read_bytes()
    with pytest.raises(ValueError, match="is the folder of .* itself"):
        add_outlines(datalist.parent, made, datalist.parent, overwrite=True, progress=False)
    assert datalist.read_bytes() == before
    add_outlines(datalist.parent, made, tmp_path / "new", progress=False)
    with pytest.raises(FileExistsError, match="overwrite"):
        add_outlines(datalist, made, tmp_path / "new", progress=False)
    add_outlines(datalist, made, tmp_path / "new", overwrite=True, progress=False)


def named(folder: Path, entries: list[Entry], names: list[str]) -> Path:
    proposals = [
        Proposal(Path(entry["image"]), PurePath(name), read_mask(truth(entry)))
        for entry, name in zip(entries, names, strict=True)
    ]
    export_proposals(folder, proposals, "labelme")
    return folder


def masks_of(path: Path) -> dict[str, np.ndarray]:
    return {entry["case_id"]: read_mask(entry["label"]) for entry in load_datalist(path)["labeled"]}


@pytest.mark.filterwarnings("ignore:.*have the outlines that the model proposed")
def test_masks_that_a_datalist_names_are_never_replaced(datalist: Path, tmp_path: Path) -> None:
    """Images of two rounds have copies of one name, and the third round goes where the first one was."""
    images = load_datalist(datalist)["unlabeled"]
    first = add_outlines(datalist, named(tmp_path / "1", images[:1], ["x.png"]), tmp_path / "a", progress=False)
    second = add_outlines(first, named(tmp_path / "2", images[1:2], ["y.png"]), tmp_path / "b", progress=False)
    third = add_outlines(
        second, named(tmp_path / "3", images[2:3], ["x.png"]), first.parent, overwrite=True, progress=False
    )
    found = masks_of(third)
    for entry in images[:3]:
        drawn, true = found[entry["case_id"]], read_mask(truth(entry))
        assert drawn.shape == true.shape
        assert (drawn & true).sum() / (drawn | true).sum() > 0.9
    # the older list lies beside the one that is replaced, and its image gets another outline
    older = second.with_name("older.json")
    shutil.copy(second, older)
    before = masks_of(older)
    made = masks_folder(tmp_path / "4", images[1:2], np.zeros_like)
    (made / "masks" / "0_mask.png").rename(made / "masks" / "y.png")
    (made / "images" / "0.png").rename(made / "images" / "y.png")
    add_outlines(older, made, second.parent, overwrite=True, progress=False)
    assert all(np.array_equal(mask, before[case]) for case, mask in masks_of(older).items())


@pytest.mark.filterwarnings("ignore:.*have the outlines that the model proposed")
def test_files_in_labels_that_no_datalist_names_are_kept(datalist: Path, tmp_path: Path) -> None:
    entry = load_datalist(datalist)["unlabeled"][0]
    own = tmp_path / "out" / "labels" / "x.png"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"drawn by hand")
    path = add_outlines(datalist, named(tmp_path / "1", [entry], ["x.png"]), tmp_path / "out", progress=False)
    assert own.read_bytes() == b"drawn by hand"
    assert Path(load_datalist(path)["labeled"][-1]["label"]).name == "x (2).png"
    again = add_outlines(datalist, tmp_path / "1", tmp_path / "out", overwrite=True, progress=False)
    assert Path(load_datalist(again)["labeled"][-1]["label"]).name == "x (2).png"  # of the list that was replaced
    assert sorted(file.name for file in own.parent.iterdir()) == ["x (2).png", "x.png"]


def test_a_leak_of_the_old_datalist_is_not_hidden(datalist: Path, tmp_path: Path) -> None:
    """The new datalist records its images as compared; one that was written by hand has not been."""
    parts = load_datalist(datalist)
    twin = near_copy(parts["labeled"][0], tmp_path / "twin")
    parts["test"].append({"image": str(twin / "images" / "copy.png"), "label": str(twin / "masks" / "copy.png")})
    by_hand = tmp_path / "by_hand.json"
    by_hand.write_text(json.dumps(parts), encoding="utf-8")
    made = masks_folder(tmp_path / "made", parts["unlabeled"][:1])
    with pytest.raises(
        LeakError, match=r"near-duplicates.*one side; outlines are added to a list without leaks only\.$"
    ):
        add_outlines(by_hand, made, tmp_path / "new", progress=False)
    assert not (tmp_path / "new").exists()


def test_the_command(datalist: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = load_datalist(datalist)["unlabeled"][:2]
    made = outline(tmp_path / "made", chosen)
    file = made / "chosen 0.json"
    document = json.loads(file.read_text(encoding="utf-8"))
    document["shapes"] = document["shapes"][:1]
    document["shapes"][0]["points"][0][0] += 1.5  # the annotator moved a point of the first image only
    file.write_text(json.dumps(document), encoding="utf-8")
    assert main(["prepare", "add", str(datalist), str(made), str(tmp_path / "new"), "--quiet"]) == 0
    captured = capsys.readouterr()
    assert "outlines added: 2 of unlabeled images" in captured.out
    assert "chosen 1" in captured.err  # nobody has touched the model's outline
    assert "chosen 0" not in captured.err
    assert main(["prepare", "add", str(datalist), str(made), str(datalist.parent), "--overwrite"]) == 2
    assert "Choose another" in capsys.readouterr().err
