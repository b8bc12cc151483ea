"""Datasets with mistakes through `phnet prepare`, and parts that are empty or tiny through `phnet train`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

PREPARE = ("--labeled", "4", "--quiet")


@pytest.fixture
def prepare(phnet: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    return lambda folder, *options: phnet("prepare", "folder", folder, tmp_path / "list", *PREPARE, *options)


def parts_of(folder: Path) -> dict[str, list[dict[str, str]]]:
    from phnet_monai.data import load_datalist

    return load_datalist(folder)


# --- masks


def test_a_mask_of_another_size_is_refused(prepare: Any, labeled_folder: Any, tmp_path: Path) -> None:
    folder = labeled_folder(12)
    Image.new("L", (55, 40)).save(folder / "masks" / "case04.png")
    outcome = prepare(folder)
    assert outcome.code == 2
    assert "masks/case04.png is 55 x 40, its image is 56 x 40." in outcome.line
    assert not (tmp_path / "list").exists()


@pytest.mark.parametrize("kind", ["0/1", "0/255", "16-bit", "colour", "palette", "1-bit", "alpha", "background 3"])
def test_values_of_masks_mean_the_same(kind: str, prepare: Any, labeled_folder: Any, tmp_path: Path) -> None:
    from phnet_monai.data import read_mask

    folder = labeled_folder(12)
    wanted = np.zeros((40, 56), bool)
    wanted[5:20, 10:44] = True
    grey = wanted.astype(np.uint8)
    picture = {
        "0/1": Image.fromarray(grey),
        "0/255": Image.fromarray(grey * 255),
        "16-bit": Image.fromarray(grey.astype(np.uint16) * 40_000),
        "colour": Image.fromarray(grey * 255).convert("RGB"),
        "palette": Image.fromarray(grey * 255).convert("P"),
        "1-bit": Image.fromarray(grey * 255).convert("1"),
        "alpha": Image.merge("LA", (Image.fromarray(grey * 255), Image.new("L", (56, 40), 255))),
        "background 3": Image.fromarray(np.where(wanted, 200, 3).astype(np.uint8)),
    }[kind]
    picture.save(folder / "masks" / "case00.png")
    assert prepare(folder).code == 0
    [entry] = [e for part in parts_of(tmp_path / "list").values() for e in part if e["case_id"] == "case00"]
    np.testing.assert_array_equal(read_mask(entry.get("label", entry.get("hidden_label"))), wanted)


def test_orphan_masks_are_refused_by_name(prepare: Any, labeled_folder: Any, tmp_path: Path) -> None:
    folder = labeled_folder(12)
    Image.new("L", (56, 40)).save(folder / "masks" / "somebody.png")
    outcome = prepare(folder)
    assert outcome.code == 2
    assert "1 masks have no image" in outcome.line
    assert "somebody.png" in outcome.line
    assert not (tmp_path / "list").exists()


def test_images_of_one_stem_are_refused(prepare: Any, labeled_folder: Any, tmp_path: Path) -> None:
    folder = labeled_folder(12)
    Image.new("L", (56, 40)).save(folder / "images" / "case03.jpg")
    outcome = prepare(folder)
    assert outcome.code == 2
    assert "case03.jpg and case03.png" in outcome.line
    assert not (tmp_path / "list").exists()


def test_two_masks_of_one_image_are_refused(prepare: Any, labeled_folder: Any) -> None:
    folder = labeled_folder(12)
    Image.new("L", (56, 40)).save(folder / "masks" / "case03_mask.png")
    outcome = prepare(folder)
    assert outcome.code == 2
    assert "1 images have several masks: case03 (case03.png, case03_mask.png)" in outcome.line


def test_images_of_one_stem_keep_apart_in_infer(infer: Any, tmp_path: Path, speckle: Any, mask_of: Any) -> None:
    (tmp_path / "in").mkdir()
    for number, (name, width) in enumerate((("x.png", 30), ("x.jpg", 40), ("X.bmp", 50))):
        Image.fromarray(speckle(20, width, number)).save(tmp_path / "in" / name)
    assert infer(tmp_path / "in", tmp_path / "out", "--quiet").code == 0
    masks = {path.name: mask_of(path).shape[1] for path in (tmp_path / "out" / "masks").iterdir()}
    assert masks == {"x.png.png": 30, "x.jpg.png": 40, "X.bmp.png": 50}


def test_empty_folders(phnet: Any, infer: Any, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    outcome = phnet("prepare", "folder", tmp_path / "none", tmp_path / "list", "--quiet")
    assert (outcome.code, "holds no image" in outcome.line) == (2, True)
    outcome = infer(tmp_path / "none", tmp_path / "out")
    assert (outcome.code, "nothing to do" in outcome.line) == (4, True)


def test_too_few_images_to_divide(prepare: Any, labeled_folder: Any) -> None:
    outcome = prepare(labeled_folder(2))
    assert outcome.code == 2
    assert "2 images with a mask cannot be divided" in outcome.line


# --- training on little


@pytest.fixture
def datalist(labeled_folder: Any, phnet: Any, tmp_path: Path) -> Callable[..., Path]:
    """`datalist(part=entries, ...)`: a datalist of 12 images, 4 of them labeled, in which parts are cut to a length."""

    def make(*, empty: Any = (), **lengths: int) -> Path:
        folder = labeled_folder(14, empty=empty)
        outcome = phnet("prepare", "folder", folder, tmp_path / "list", *PREPARE)
        assert outcome.code == 0, outcome.err
        file = tmp_path / "list" / "datalist.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        for part, length in lengths.items():
            assert len(content[part]) >= length
            content[part] = content[part][:length]
        file.write_text(json.dumps(content), encoding="utf-8")
        return file

    return make


@pytest.fixture
def train(phnet: Any, tmp_path: Path) -> Callable[..., Any]:
    """`train(datalist, ...)`: `phnet train` by the `smoke` profile, one epoch."""
    words = ("--profile", "smoke", "--device", "cpu", "--max_epochs", "2", "--pretrain_epochs", "1")
    return lambda datalist, *options: phnet("train", datalist, tmp_path / "run", *words, *options)


def checkpoint_is_finite(folder: Path) -> bool:
    import torch

    content = torch.load(folder / "last.pt", weights_only=True)
    return all(torch.isfinite(t).all() for t in content["teacher"].values() if t.is_floating_point())


def test_no_labeled_image(datalist: Any, train: Any, tmp_path: Path) -> None:
    outcome = train(datalist(labeled=0))
    assert outcome.code == 2
    assert "labeled list of the datalist is empty; prepare it again with more labeled images" in outcome.err
    assert not (tmp_path / "run").exists()


def test_fewer_labeled_images_than_a_batch(
    datalist: Any, train: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """They are repeated in the batch."""
    outcome = train(datalist(labeled=1))
    assert outcome.code == 0, outcome.err
    assert "phnet: warning: 1 labeled images for batches of" in caplog.text
    assert checkpoint_is_finite(tmp_path / "run")


def test_no_unlabeled_image(datalist: Any, train: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Then there is nothing but the labeled images to learn from."""
    outcome = train(datalist(unlabeled=0))
    assert outcome.code == 0, outcome.err
    assert "phnet: warning: no unlabeled image" in caplog.text
    assert checkpoint_is_finite(tmp_path / "run")


def test_one_unlabeled_image(datalist: Any, train: Any, tmp_path: Path) -> None:
    outcome = train(datalist(unlabeled=1))
    assert outcome.code == 0, outcome.err
    assert checkpoint_is_finite(tmp_path / "run")


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (60, 2)])
def test_images_smaller_than_a_patch(size: tuple[int, int], labeled_folder: Any, phnet: Any, train: Any) -> None:
    """They are enlarged and padded like all others, in training as in scoring."""
    folder = labeled_folder(14)
    for number in range(0, 14, 2):
        for part, grey in (("images", 90), ("masks", 255)):
            Image.new("L", size, grey + (number if part == "images" else 0)).save(
                folder / part / f"case{number:02d}.png"
            )
    outcome = phnet("prepare", "folder", folder, folder.parent / "list", *PREPARE)
    assert outcome.code == 0, outcome.err
    outcome = train(folder.parent / "list")
    assert outcome.code == 0, outcome.err
    assert checkpoint_is_finite(folder.parent / "run")


def test_no_image_to_validate_on(datalist: Any, train: Any, tmp_path: Path) -> None:
    """The last weights are kept; none are called the best."""
    outcome = train(datalist(validation=0))
    assert outcome.code == 0, outcome.err
    assert "best.pt: not written, since no validation gave a score (no image in that part" in outcome.out
    assert "last.pt (epoch 2): not validated\n" in outcome.out
    assert checkpoint_is_finite(tmp_path / "run")
    assert not (tmp_path / "run" / "best.pt").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["best"]["score"] is None


def test_no_image_to_evaluate(datalist: Any, model: Path, phnet: Any, tmp_path: Path) -> None:
    outcome = phnet("evaluate", model, datalist(test=0), tmp_path / "scores", "--device", "cpu")
    assert outcome.code == 2
    assert "its part 'test' holds no image to score" in outcome.line


@pytest.mark.parametrize("empty", [range(14), range(0, 14, 2)])
def test_masks_without_lesion(
    empty: Any, datalist: Any, train: Any, phnet: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Images without lesion are background to learn from; where there is nothing else, no score is made up."""
    file = datalist(empty=empty)
    outcome = train(file)
    assert outcome.code == 0, outcome.err
    assert ("no labeled image has a lesion" in caplog.text) == (len(empty) == 14)
    assert checkpoint_is_finite(tmp_path / "run")
    scored = phnet("evaluate", tmp_path / "run" / "last.pt", file, tmp_path / "scores", "--device", "cpu")
    assert scored.code == 0, scored.err
    summary = json.loads((tmp_path / "scores" / "summary.json").read_text(encoding="utf-8"))
    text = json.dumps(summary)
    assert "NaN" not in text
    assert "Infinity" not in text


@pytest.mark.parametrize(
    ("shared", "told"), [("file", "are one file"), ("group", "are of group"), ("scan", "are near-duplicates")]
)
def test_one_scan_on_two_sides_of_a_split(
    shared: str, told: str, datalist: Any, train: Any, model: Path, phnet: Any, tmp_path: Path
) -> None:
    """An image of the test part is trained on, too: as a copy, as another view of the patient, darker and cut."""
    file = datalist()
    content = json.loads(file.read_text(encoding="utf-8"))
    tested, trained = content["test"][0], content["labeled"][0]
    if shared == "group":
        trained["group_id"] = tested["group_id"]
    else:
        with Image.open(file.parent / tested["image"]) as image:
            pixels = np.asarray(image)
        copy = tmp_path / "dataset" / "images" / "another.png"
        Image.fromarray(pixels if shared == "file" else (pixels[1:] * 0.9).astype(np.uint8)).save(copy)
        mask = tmp_path / "dataset" / "masks" / "another.png"
        Image.fromarray(np.zeros((40 - (shared == "scan"), 56), np.uint8)).save(mask)
        if shared == "file":
            copy.write_bytes((file.parent / tested["image"]).read_bytes())
        names = {"image": str(copy), "label": str(mask), "case_id": "another", "group_id": "another"}
        content["labeled"][0] = {**trained, **names}
    file.write_text(json.dumps(content), encoding="utf-8")
    outcome = train(file)
    assert outcome.code == 2
    assert told in outcome.line
    assert "--allow-leak" in outcome.line
    assert not (tmp_path / "run").exists()
    scored = phnet("evaluate", model, file, tmp_path / "scores", "--device", "cpu")
    assert (scored.code, told in scored.line) == (2, True)
    assert not (tmp_path / "scores").exists()
    assert train(file, "--allow-leak").code == 0


def test_an_image_that_is_gone_after_preparing(datalist: Any, train: Any, tmp_path: Path) -> None:
    file = datalist()
    (tmp_path / "dataset" / "images" / "case05.png").unlink()
    outcome = train(file)
    assert outcome.code == 2
    assert "names 1 files that are not there" in outcome.line
    assert not (tmp_path / "run").exists()


EMPTY = '{"labeled": [], "unlabeled": [], "validation": [], "test": [], "meta": %s}'
ONE = '{"labeled": [{%s}], "unlabeled": [], "validation": [], "test": []}'


def test_a_datalist_that_is_none(phnet: Any, tmp_path: Path) -> None:
    for content, reason in [
        ("{", "is no JSON"),
        ("[]", "is no datalist"),
        ('{"labeled": 3}', "is no datalist"),
        ('{"labeled": [{}], "unlabeled": [], "validation": [], "test": []}', "entry 0 of labeled lacks image or label"),
        ('{"labeled": [], "unlabeled": [], "validation": [], "test": [], "meta": 3}', "is no datalist"),
        (
            '{"labeled": [{"image": 1, "label": 2}], "unlabeled": [], "validation": [], "test": []}',
            "entry 0 of labeled",
        ),
        ("[" * 200_000, "is no JSON"),
        ('{"a":' * 200_000, "is no JSON"),
        (EMPTY % '{"sha256": ["a"]}', "meta.sha256 is a list, expected an object"),
        (EMPTY % '{"sha256": 7}', "meta.sha256 is a int, expected an object"),
        (EMPTY % '{"sha256": {"a": 7}}', "labeled list of the datalist is empty"),
        (EMPTY % '{"version": [1]}', "is a datalist of version [1]"),
        (EMPTY % '{"leak_allowed": 1}', "labeled list of the datalist is empty"),
        (ONE % '"class": ["benign"], "image": "a.png", "label": "a.png"', "has a path or a name that is no text"),
        (ONE % '"image": "a\\u0000.png", "label": "a.png"', "names 2 files that are not there"),
    ]:
        (tmp_path / "datalist.json").write_text(content)
        outcome = phnet("train", tmp_path, tmp_path / "run", "--profile", "smoke", "--device", "cpu")
        assert outcome.code == 2
        assert reason in outcome.line
        assert not (tmp_path / "run").exists()
