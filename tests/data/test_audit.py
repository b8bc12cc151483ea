"""`audit` on datasets with one flaw of each kind, and on the real ones where they are present."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from phnet_monai.data import (
    CHECKS,
    Audit,
    audit,
    audit_text,
    make_phantom,
    near_duplicate_groups,
    prepare_busbra,
    prepare_folder,
)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 different scans with masks, all of one size."""
    folder = tmp_path_factory.mktemp("phantoms")
    for number in range(1, 17):
        image, mask = make_phantom((150, 200), seed=number)
        for path, values in ((_image(folder, number), image), (_mask(folder, number), mask.astype(np.uint8) * 255)):
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(values).save(path)
    return folder


@pytest.fixture
def folder(phantoms: Path, tmp_path: Path) -> Path:
    return shutil.copytree(phantoms, tmp_path / "data")


def _found(folder: Path, **options: object) -> Audit:
    return audit(folder, progress=False, **options)


def _checks(found: Audit) -> dict[str, int]:
    return dict(Counter(finding.check for finding in found.findings))


def _image(folder: Path, number: int) -> Path:
    return folder / "images" / f"phantom_{number:04d}.png"


def _mask(folder: Path, number: int) -> Path:
    return folder / "masks" / f"phantom_{number:04d}.png"


def test_nothing_is_found_where_nothing_is_wrong(folder: Path) -> None:
    found = _found(folder)
    assert (found.images, found.masks, found.layout, found.findings) == (16, 16, "folder", ())
    assert not found.refused
    assert audit_text(found).endswith("Nothing was found.")


def _broken(folder: Path) -> None:
    _image(folder, 3).write_bytes(_image(folder, 3).read_bytes()[:100])


def _broken_mask(folder: Path) -> None:
    _mask(folder, 3).write_text("no picture")


def _orphan(folder: Path) -> None:
    shutil.copy(_mask(folder, 3), folder / "masks" / "nobody.png")


def _second_mask(folder: Path) -> None:
    shutil.copy(_mask(folder, 3), folder / "masks" / "phantom_0003_mask.png")


def _other_size(folder: Path) -> None:
    Image.new("L", (30, 40), 255).save(_mask(folder, 3))


def _same_name(folder: Path) -> None:
    Image.open(_image(folder, 3)).save(folder / "images" / "phantom_0003.jpg")


def _no_mask(folder: Path) -> None:
    _mask(folder, 3).unlink()


def _empty(folder: Path) -> None:
    mask = Image.open(_mask(folder, 3))
    Image.new("L", mask.size).save(_mask(folder, 3))


def _full(folder: Path) -> None:
    mask = Image.open(_mask(folder, 3))
    Image.new("L", mask.size, 255).save(_mask(folder, 3))


def _without_black(folder: Path) -> None:
    """Two values, both at least half of the brightest: all of it is read as lesion."""
    mask = np.asarray(Image.open(_mask(folder, 3)))
    Image.fromarray(np.where(mask > 0, 255, 128).astype(np.uint8)).save(_mask(folder, 3))


def _inverted(folder: Path) -> None:
    mask = np.asarray(Image.open(_mask(folder, 3)))
    Image.fromarray(255 - mask).save(_mask(folder, 3))


def _numbered(folder: Path) -> None:
    values = np.asarray(Image.open(_mask(folder, 3))) // 255
    values = values.copy()
    values[:20, :20] = 2
    Image.fromarray(values).save(_mask(folder, 3))


def _smooth(folder: Path) -> None:
    mask = Image.open(_mask(folder, 3))
    small = mask.resize((mask.width // 2, mask.height // 2))
    small.resize(mask.size, Image.Resampling.BILINEAR).save(_mask(folder, 3))


def _speck(folder: Path) -> None:
    values = np.asarray(Image.open(_mask(folder, 3))).copy()
    corner = (values[0, 0] == 0) and (values[:3, :3] == 0).all()
    values[(0, 0) if corner else (-1, -1)] = 255
    Image.fromarray(values).save(_mask(folder, 3))


def _caliper(folder: Path) -> None:
    picture = Image.open(_image(folder, 3)).point(lambda value: value // 2)
    pen = ImageDraw.Draw(picture)
    x, y = picture.width // 2, picture.height // 2
    pen.line((x - 6, y, x + 6, y), fill=235, width=2)
    pen.line((x, y - 6, x, y + 6), fill=235, width=2)
    picture.save(_image(folder, 3))


def _doppler(folder: Path) -> None:
    picture = Image.open(_image(folder, 3)).convert("RGB")
    ImageDraw.Draw(picture).ellipse((60, 60, 70, 70), fill=(90, 60, 30))
    picture.save(_image(folder, 3))


def _letter_box(folder: Path) -> None:
    values = np.asarray(Image.open(_image(folder, 3))).copy()
    values[:10] = 0
    Image.fromarray(values).save(_image(folder, 3))


def _blank(folder: Path) -> None:
    Image.new("L", Image.open(_image(folder, 3)).size, 30).save(_image(folder, 3))


def _tiny(folder: Path) -> None:
    for path in (_image(folder, 3), _mask(folder, 3)):
        picture = Image.open(path)
        picture.crop((0, 0, 70, 60)).resize((60, 50), Image.Resampling.NEAREST).save(path)


def _copy(folder: Path) -> None:
    shutil.copy(_image(folder, 3), _image(folder, 9))


def _darker(folder: Path) -> None:
    Image.open(_image(folder, 3)).point(lambda value: int(0.7 * value)).save(_image(folder, 9))


FLAWS: list[tuple[Callable[[Path], None], str, bool]] = [
    (_broken, "broken", True),
    (_broken_mask, "broken", True),
    (_orphan, "orphan-masks", True),
    (_second_mask, "several-masks", True),
    (_other_size, "size-mismatch", True),
    (_same_name, "layout", True),
    (_no_mask, "no-mask", False),
    (_empty, "empty-masks", False),
    (_full, "full-masks", False),
    (_without_black, "full-masks", False),
    (_inverted, "inverted-masks", False),
    (_numbered, "mask-values", False),
    (_smooth, "anti-aliased", False),
    (_speck, "specks", False),
    (_caliper, "marks", False),
    (_doppler, "colour", False),
    (_letter_box, "borders", False),
    (_blank, "blank", False),
    (_tiny, "sizes", False),
    (_copy, "duplicates", False),
    (_darker, "duplicates", False),
]


@pytest.mark.parametrize(("spoil", "check", "refused"), FLAWS, ids=[spoil.__name__ for spoil, _, _ in FLAWS])
def test_each_flaw_is_found(folder: Path, spoil: Callable[[Path], None], check: str, refused: bool) -> None:
    spoil(folder)
    found = _found(folder)
    assert found.of(check), _checks(found)
    assert found.refused is refused
    (finding, *more) = found.of(check)
    assert not more
    assert "nobody" in str(finding) or "0003" in str(finding)
    text = audit_text(found)
    assert CHECKS[check].title in text
    assert finding.text in text


@pytest.mark.parametrize(("spoil", "check", "refused"), FLAWS, ids=[spoil.__name__ for spoil, _, _ in FLAWS])
def test_what_is_called_refused_is_refused_by_prepare(
    folder: Path, spoil: Callable[[Path], None], check: str, refused: bool
) -> None:
    spoil(folder)
    if refused:
        with pytest.raises(ValueError, match=r"phantom_0003|nobody"):
            prepare_folder(folder, folder.parent / "out", progress=False)
    else:
        assert prepare_folder(folder, folder.parent / "out", labeled=2, progress=False).is_file()


def test_boxes_lie_where_the_mark_is(folder: Path) -> None:
    _caliper(folder)
    (finding,) = _found(folder).of("marks")
    height, width = np.asarray(Image.open(_image(folder, 3))).shape
    ((top, left, bottom, right),) = finding.data["boxes"]
    assert top < height // 2 < bottom
    assert left < width // 2 < right


def test_json_is_plain_and_complete(folder: Path) -> None:
    _darker(folder)
    _speck(folder)
    found = _found(folder, near_misses=True)
    data = json.loads(json.dumps(found.as_data()))
    assert data["checks"]["duplicates"]["count"] == 1
    (group,) = [finding for finding in data["findings"] if finding["check"] == "duplicates"]
    assert group["files"] == ["images/phantom_0003.png", "images/phantom_0009.png"]
    assert group["pairs"][0]["similarity"] >= 0.34
    assert set(data["checks"]) == set(CHECKS)


def test_all_are_named_only_where_asked_for(folder: Path) -> None:
    for number in range(1, 9):
        _mask(folder, number).unlink()
    found = _found(folder)
    assert "... and 3 more" in audit_text(found)
    assert audit_text(found).count("phantom_") == 5
    assert audit_text(found, limit=0).count("phantom_") == 8


def _labelme(folder: Path, number: int, *polygons: list[list[float]]) -> None:
    """The outlines of an image in a file of labelme, instead of its mask."""
    shapes = [{"label": "lesion", "shape_type": "polygon", "points": points} for points in polygons]
    content = {"imagePath": _image(folder, number).name, "imageHeight": 150, "imageWidth": 200, "shapes": shapes}
    _mask(folder, number).with_suffix(".json").write_text(json.dumps(content))
    _mask(folder, number).unlink()


def test_outlines_of_annotation_files_are_looked_at_as_masks_are(folder: Path) -> None:
    lesion, speck = [[50, 40], [120, 40], [120, 90], [50, 90]], [[5, 5], [8, 5], [8, 8], [5, 8]]
    _labelme(folder, 1, lesion)
    _labelme(folder, 2)
    _labelme(folder, 3, [[0, 0], [200, 0], [200, 150], [0, 150]])
    _labelme(folder, 4, [[0, 0], [200, 0], [200, 60], [0, 60]], [[0, 60], [200, 60], [199, 150], [0, 150]])
    _labelme(folder, 5, lesion, speck)
    found = _found(folder)
    told = {finding.check: (finding.files, finding.text) for finding in found.findings}
    images = {number: (f"images/phantom_{number:04d}.png",) for number in range(2, 6)}
    assert told == {
        "empty-masks": (images[2], "no outline in masks/phantom_0002.json"),
        "full-masks": (images[3], "all of it is outlined in masks/phantom_0003.json"),
        "inverted-masks": (images[4], "most of the border is outlined in masks/phantom_0004.json"),
        "specks": (images[5], "1, of 9 px"),
    }
    assert found.of("specks")[0].data["boxes"] == [[5, 5, 8, 8]]
    assert not found.refused


def test_masks_may_lie_elsewhere(folder: Path) -> None:
    (folder / "masks").rename(folder.parent / "outlines")
    assert _found(folder / "images").of("no-mask")
    assert _found(folder / "images", masks=folder.parent / "outlines").findings == ()


def test_busi_classes(phantoms: Path, tmp_path: Path) -> None:
    names = ["benign"] * 5 + ["malignant"] * 5 + ["normal"] * 4
    for number, name in enumerate(names, start=1):
        (tmp_path / name).mkdir(exist_ok=True)
        shutil.copy(_image(phantoms, number), tmp_path / name / f"{name} ({number}).png")
        mask = Image.open(_mask(phantoms, number))
        (Image.new("L", mask.size) if name == "normal" else mask).save(tmp_path / name / f"{name} ({number})_mask.png")
    assert _found(tmp_path).findings == ()  # masks of normal images are empty, as they should be
    shutil.copy(tmp_path / "benign" / "benign (2).png", tmp_path / "malignant" / "malignant (7).png")
    shutil.copy(tmp_path / "benign" / "benign (1)_mask.png", tmp_path / "benign" / "benign (1)_mask_1.png")
    shutil.copy(tmp_path / "benign" / "benign (1)_mask.png", tmp_path / "normal" / "normal (11)_mask.png")
    shutil.copy(tmp_path / "benign" / "benign (1)_mask.png", tmp_path / "benign" / "benign (99)_mask.png")
    found = _found(tmp_path)
    assert found.layout == "busi"
    assert found.classes == {"benign": 5, "malignant": 5, "normal": 4}
    assert _checks(found) == {
        "orphan-masks": 1,
        "duplicates-across-classes": 1,
        "normal-with-lesion": 1,
        "extra-masks": 1,
    }
    assert found.of("duplicates-across-classes")[0].files == ("benign/benign (2).png", "malignant/malignant (7).png")
    assert found.of("extra-masks")[0].files == ("benign/benign (1)_mask_1.png",)
    assert found.of("orphan-masks")[0].files == ("benign/benign (99)_mask.png",)


def test_busbra_table(phantoms: Path, tmp_path: Path) -> None:
    lines = ["ID,Case,Pathology"]
    for number in range(1, 7):
        for kind, place, prefix in (("images", "Images", "bus"), ("masks", "Masks", "mask")):
            (tmp_path / place).mkdir(exist_ok=True)
            source = phantoms / kind / f"phantom_{number:04d}.png"
            shutil.copy(source, tmp_path / place / f"{prefix}_{number:04d}-l.png")
        lines.append(f"bus_{number:04d}-l,{number},benign")
    lines[-1] = "bus_0099-l,99,benign"
    (tmp_path / "bus_data.csv").write_text("\n".join(lines))
    found = _found(tmp_path)
    assert found.layout == "busbra"
    assert [finding.text for finding in found.findings] == [
        "Images/bus_0006-l.png has no row in bus_data.csv, so its patient is unknown",
        "bus_data.csv names bus_0099-l, which is not in Images/",
    ]
    with pytest.raises(FileNotFoundError, match="bus_0099-l"):
        prepare_busbra(tmp_path, tmp_path / "out", progress=False)


def _listed(folder: Path, change: Callable[[dict], None]) -> Path:
    """A datalist of the folder, changed by hand."""
    path = prepare_folder(folder, folder.parent / "list", labeled=4, progress=False)
    content = json.loads(path.read_text())
    content["meta"].pop("sha256")
    change(content)
    path.write_text(json.dumps(content))
    return path


def test_a_prepared_datalist_is_clean(folder: Path) -> None:
    _copy(folder)
    found = _found(_listed(folder, lambda content: None))
    assert (found.layout, found.root) == ("datalist", str(folder / "images"))
    assert sum(found.parts.values()) == 16
    assert _checks(found) == {"duplicates": 1}


def test_leaks_of_a_datalist(folder: Path) -> None:
    """Equal files, one patient, and near-duplicates that only the pictures tell."""

    def spoil(content: dict) -> None:
        by_part = {part: content[part] for part in ("labeled", "validation", "test")}
        originals = folder / "images"
        first, second = by_part["labeled"][0], by_part["labeled"][1]
        test, validation = by_part["test"][0], by_part["validation"][0]
        shutil.copy(originals / Path(first["image"]).name, originals / Path(test["image"]).name)
        picture = Image.open(originals / Path(second["image"]).name)
        picture.point(lambda value: int(0.7 * value)).save(originals / Path(validation["image"]).name)
        by_part["test"][1]["group_id"] = by_part["labeled"][2]["group_id"]

    found = _found(_listed(folder, spoil))
    kinds = sorted((finding.data.get("kind", "picture"), len(finding.files)) for finding in found.of("leak"))
    assert kinds == [("file", 2), ("group", 2), ("picture", 2)]
    assert found.refused
    assert "near-duplicates" in next(f.text for f in found.of("leak") if "kind" not in f.data)


def test_a_leak_that_the_protocol_allows_is_not_refused(folder: Path) -> None:
    _copy(folder)

    def spoil(content: dict) -> None:
        content["meta"]["protocol"] = "paper"
        content["test"][0]["group_id"] = content["labeled"][0]["group_id"]

    found = _found(_listed(folder, spoil))
    assert not found.refused
    (finding,) = found.of("leak-allowed")
    assert finding.text.endswith("(allowed by protocol paper)")


def test_an_image_that_stands_twice_in_a_datalist(folder: Path) -> None:
    found = _found(_listed(folder, lambda content: content["unlabeled"].append(dict(content["labeled"][0]))))
    (finding,) = found.of("layout")
    assert finding.text.endswith("stands 2 times: labeled, unlabeled")
    assert found.images == 16
    assert not found.of("leak")


def test_nothing_there(tmp_path: Path) -> None:
    assert _found(tmp_path).images == 0
    with pytest.raises(FileNotFoundError, match="expected the folder of a dataset"):
        _found(tmp_path / "none")
    with pytest.raises(ValueError, match="layout is 'other'"):
        _found(tmp_path, layout="other")
    with pytest.raises(ValueError, match="masks are given for the layout busi"):
        _found(tmp_path, layout="busi", masks=tmp_path)


@pytest.fixture(scope="module")
def measured() -> tuple[Audit, float]:
    """The audit of BUSI, and the seconds of processor time that it took."""
    if not os.environ.get("PHNET_DATA"):
        pytest.skip("PHNET_DATA names no folder with real data")
    begun = time.process_time()
    found = audit(Path(os.environ["PHNET_DATA"], "Dataset_BUSI_with_GT"), near_misses=True, progress=False)
    return found, time.process_time() - begun


@pytest.fixture(scope="module")
def busi(measured: tuple[Audit, float]) -> Audit:
    return measured[0]


@pytest.mark.real_data
@pytest.mark.slow
def test_seven_hundred_images_take_less_than_a_minute(measured: tuple[Audit, float]) -> None:
    """Of processor time, so that a busy machine does not count."""
    assert measured[0].images == 702
    assert measured[1] < 60


@pytest.mark.real_data
@pytest.mark.slow
def test_real_busi(busi: Audit) -> None:
    groups = [finding.files for finding in (*busi.of("duplicates-across-classes"), *busi.of("duplicates"))]
    assert len(groups) == len(set(groups)) == 129
    assert max(map(len, groups)) == 7
    across = {finding.files for finding in busi.of("duplicates-across-classes")}
    assert ("benign/benign (406).png", "malignant/malignant (94).png") in across
    assert len(across) == 5
    assert all(0 < pair.data["threshold"] - pair.data["similarity"] <= 0.06 for pair in busi.near_misses)
    assert not busi.refused
    assert {name: len(busi.of(name)) for name in ("specks", "colour", "broken", "size-mismatch", "orphan-masks")} == {
        "specks": 20,
        "colour": 13,
        "broken": 0,
        "size-mismatch": 0,
        "orphan-masks": 0,
    }
    marked = {finding.files[0] for finding in busi.of("marks")}
    assert {"benign/benign (238).png", "normal/normal (121).png", "benign/benign (22).png"} <= marked
    assert not {"benign/benign (92).png", "normal/normal (7).png", "benign/benign (42).png"} & marked


@pytest.mark.real_data
@pytest.mark.slow
def test_real_busi_groups_are_those_of_prepare(busi: Audit) -> None:
    root = Path(busi.root)
    names = [str(path.relative_to(root)) for path in sorted(root.rglob("*.png")) if "_mask" not in path.name]
    numbers = near_duplicate_groups([root / name for name in names], progress=False)
    by_number: dict[int, list[str]] = {}
    for name, number in zip(names, numbers, strict=True):
        by_number.setdefault(number, []).append(name)
    expected = {frozenset(group) for group in by_number.values() if len(group) > 1}
    found = (*busi.of("duplicates-across-classes"), *busi.of("duplicates"))
    assert {frozenset(finding.files) for finding in found} == expected
