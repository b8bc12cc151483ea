"""Folders: what is written, what is skipped, what a bad file does to the others."""

from __future__ import annotations

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from phnet_monai.inference import FrameSettings, Postprocess, Predictor, infer_folder, pipeline
from phnet_monai.inference.folder import preview
from phnet_monai.inference.summary import RUN_FILE

EXIF_ORIENTATION = 0x0112


def corner_image(height: int, width: int) -> np.ndarray:
    """Dark uint8 (H, W) with a bright block in the upper left quarter: no flip or turn leaves it as it is."""
    image = np.full((height, width), 20, dtype=np.uint8)
    image[: height // 2, : width // 3] = 230
    return image


def save(path: Path, image: np.ndarray, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **options)
    return path


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def tree(root: Path) -> list[str]:
    """Files below `root`; those that begin with a dot must be the lock alone."""
    found = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    assert [name for name in found if Path(name).name.startswith(".")] in ([], [".lock"])
    return [name for name in found if name != ".lock"]


WHOLE = ["lesions.csv", "lesions.json", "report.html", RUN_FILE]
"""What tells of the whole folder."""


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / RUN_FILE).read_text())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    save(tmp_path / "in" / "a.png", corner_image(120, 80))
    save(tmp_path / "in" / "sub" / "b.tif", corner_image(97, 131))
    save(tmp_path / "in" / "sub" / "c.bmp", corner_image(333, 41))
    save(tmp_path / "in" / "dark.png", np.full((50, 60), 10, dtype=np.uint8))
    return tmp_path / "in"


def test_masks_of_the_image_s_size_position_and_values(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    result = infer_folder(source, tmp_path / "o", predictor, quiet=True)
    assert result.exit_code == 0
    assert result.counts == {"done": 4, "skipped": 0, "failed": 0}
    for image, mask in [("a.png", "a.png"), ("sub/b.tif", "sub/b.png"), ("sub/c.bmp", "sub/c.png")]:
        picture, found = read(source / image), read(tmp_path / "o" / "masks" / mask)
        assert found.shape == picture.shape
        assert set(np.unique(found)) == {0, 255}
        assert dice(found > 0, picture > 128) > 0.95
    assert not read(tmp_path / "o" / "masks" / "dark.png").any()
    names = ["a.png", "dark.png", "sub/b.png", "sub/c.png"]
    expected = [
        f"{kind}/{Path(name).with_suffix(ending)}"
        for kind, ending in {"masks": ".png", "overlays": ".jpg"}.items()
        for name in names
    ]
    records = [f"records/{name}".replace(".png", ".json") for name in names]
    assert tree(tmp_path / "o") == sorted([*expected, *records, *WHOLE])
    assert read(tmp_path / "o" / "overlays" / "sub" / "b.jpg").shape == (97, 131, 3)


def test_probabilities_and_threshold(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    options: dict[str, Any] = {"overlays": False, "probabilities": True, "report": False, "quiet": True}
    infer_folder(source / "a.png", tmp_path / "o", predictor, settings=FrameSettings(0.9), **options)
    names = ["lesions.csv", "lesions.json", "masks/a.png", "probabilities/a.png", "records/a.json", RUN_FILE]
    assert tree(tmp_path / "o") == names
    probs, mask = read(tmp_path / "o/probabilities/a.png"), read(tmp_path / "o/masks/a.png")
    np.testing.assert_array_equal(probs > 0.9 * 255 + 1, (mask > 0) & (probs > 0.9 * 255 + 1))
    assert not (mask > 0)[probs < 0.9 * 255 - 1].any()
    infer_folder(source / "a.png", tmp_path / "low", predictor, settings=FrameSettings(0.1), **options)
    assert (read(tmp_path / "low/masks/a.png") > 0).sum() > (mask > 0).sum()


def test_the_threshold_itself_is_no_lesion(tmp_path: Path, source: Path) -> None:
    class Half:
        batch_size = 1
        device = "cpu"
        network = None
        settings: dict[str, Any] = {}  # noqa: RUF012

        def predict(self, images: list[np.ndarray]) -> list[np.ndarray]:
            return [np.full(image.shape, 0.5, dtype=np.float32) for image in images]

    infer_folder(source / "a.png", tmp_path / "o", Half(), quiet=True)  # type: ignore[arg-type]
    assert not read(tmp_path / "o/masks/a.png").any()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_photograph_gets_its_mask_as_displayed(orientation: int, tmp_path: Path, predictor: Predictor) -> None:
    shown = corner_image(120, 80)
    stored = {  # what a camera stores so that viewers, by the EXIF tag, show `shown`
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.T,
        6: np.rot90(shown, 1),
        7: shown[::-1, ::-1].T,
        8: np.rot90(shown, -1),
    }[orientation]
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    file = save(tmp_path / "turned.jpg", np.ascontiguousarray(stored), exif=exif, quality=95)
    infer_folder(file, tmp_path / "o", predictor, quiet=True)
    mask = read(tmp_path / "o" / "masks" / "turned.png")
    assert mask.shape == shown.shape
    assert dice(mask > 0, shown > 128) > 0.95
    with Image.open(tmp_path / "o" / "masks" / "turned.png") as image:
        assert image.getexif().get(EXIF_ORIENTATION, 1) == 1


def test_same_stem_never_collides(tmp_path: Path, predictor: Predictor) -> None:
    save(tmp_path / "in" / "x.png", corner_image(60, 60))
    save(tmp_path / "in" / "x.bmp", np.zeros((40, 50), dtype=np.uint8))
    infer_folder(tmp_path / "in", tmp_path / "o", predictor, overlays=False, quiet=True)
    assert [n for n in tree(tmp_path / "o") if "/" in n] == [
        "masks/x.bmp.png",
        "masks/x.png.png",
        "records/x.bmp.json",
        "records/x.png.json",
    ]
    assert read(tmp_path / "o/masks/x.bmp.png").shape == (40, 50)
    assert read(tmp_path / "o/masks/x.png.png").shape == (60, 60)
    files = {entry["image"]: entry["mask"] for entry in record(tmp_path / "o")["files"]}
    assert files == {"x.bmp": "masks/x.bmp.png", "x.png": "masks/x.png.png"}


def test_bad_files_do_not_stop_the_others(
    source: Path, tmp_path: Path, predictor: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = (source / "a.png").read_bytes()
    (source / "empty.png").write_bytes(b"")
    (source / "half.png").write_bytes(whole[: len(whole) // 2])
    (source / "text.jpg").write_text("no image")
    result = infer_folder(source, tmp_path / "o", predictor)
    assert result.exit_code == 3
    assert result.counts == {"done": 4, "skipped": 0, "failed": 3}
    captured = capsys.readouterr()
    listed = [line for line in captured.err.splitlines() if line.startswith("failed: ")]
    assert [line.split(": ")[1] for line in listed] == ["empty.png", "half.png", "text.jpg"]
    assert all(len(line.split(": ", 2)[2]) > 10 for line in listed)
    assert "4 segmented (1 without lesion), 0 finished earlier, 3 failed" in captured.out
    content = record(tmp_path / "o")
    assert content["finished"] is True
    assert content["counts"] == {**result.counts, "pending": 0}
    by_name = {entry["image"]: entry for entry in content["files"]}
    assert "empty.png" in by_name["empty.png"]["reason"]
    assert by_name["dark.png"] == {
        "image": "dark.png",
        "status": "done",
        "mask": "masks/dark.png",
        "frames": 1,
        "height": 50,
        "width": 60,
        "lesions": 0,
        "lesion_pixels": 0,
    }
    assert by_name["a.png"]["lesion_pixels"] == (read(tmp_path / "o/masks/a.png") > 0).sum()
    assert not (tmp_path / "o" / "masks" / "half.png").exists()


def test_an_image_that_breaks_the_network_fails_alone(
    source: Path, tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = predictor.predict

    def fragile(images: list[np.ndarray]) -> list[np.ndarray]:
        if any(image.shape == (97, 131) for image in images):
            raise RuntimeError("out of memory")
        return real(images)

    monkeypatch.setattr(predictor, "predict", fragile)
    result = infer_folder(source, tmp_path / "o", predictor, quiet=True)
    assert [(entry.image, entry.reason) for entry in result.with_status("failed")] == [("sub/b.tif", "out of memory")]
    assert result.counts["done"] == 3


def test_finished_images_are_skipped(source: Path, tmp_path: Path, predictor: Predictor, network: Any) -> None:
    out = tmp_path / "o"
    infer_folder(source, out, predictor, quiet=True)
    (out / "masks" / "a.png").unlink()
    times = {name: (out / name).stat().st_mtime_ns for name in tree(out) if name.startswith("masks")}
    network.batches.clear()
    result = infer_folder(source, out, predictor, quiet=True)
    assert network.batches == [1]
    assert {entry.image: entry.status for entry in result.files} == {
        "a.png": "done",
        "dark.png": "skipped",
        "sub/b.tif": "skipped",
        "sub/c.bmp": "skipped",
    }
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times
    assert result.exit_code == 0


def test_a_newly_asked_result_is_not_taken_for_finished(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    infer_folder(source, tmp_path / "o", predictor, quiet=True)
    result = infer_folder(source, tmp_path / "o", predictor, probabilities=True, quiet=True)
    assert result.counts == {"done": 4, "skipped": 0, "failed": 0}
    assert (tmp_path / "o" / "probabilities" / "sub" / "b.png").is_file()


def test_results_of_two_settings_are_not_mixed(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    infer_folder(source, tmp_path / "o", predictor, quiet=True)
    with pytest.raises(ValueError, match=r"threshold 0\.5 then, 0\.7 now"):
        infer_folder(source, tmp_path / "o", predictor, settings=FrameSettings(0.7), quiet=True)
    predictor.settings["model_sha256"] = "another"
    with pytest.raises(ValueError, match="model_sha256"):
        infer_folder(source, tmp_path / "o", predictor, quiet=True)
    assert infer_folder(source, tmp_path / "o", predictor, quiet=True, overwrite=True).counts["done"] == 4
    assert record(tmp_path / "o")["settings"]["model_sha256"] == "another"


def test_overwrite_cut_short_leaves_no_old_mask_behind(
    source: Path, tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o"
    infer_folder(source, out, predictor, probabilities=True, quiet=True)
    predictor.batch_size = 1
    real, calls = predictor.predict, []

    def interrupted(images: list[np.ndarray]) -> list[np.ndarray]:
        calls.append(len(images))
        if len(calls) > 2:
            raise KeyboardInterrupt
        return real(images)

    monkeypatch.setattr(predictor, "predict", interrupted)
    again: dict[str, Any] = {"settings": FrameSettings(0.9), "quiet": True}
    with pytest.raises(KeyboardInterrupt):
        infer_folder(source, out, predictor, overwrite=True, **again)
    finished = [name.removeprefix("records/") for name in tree(out) if name.startswith("records/")]
    assert 0 < len(finished) <= 2  # what was with the writers is complete, all else is gone
    masks = [name.removeprefix("masks/") for name in tree(out) if name.startswith("masks/")]
    assert [name.replace(".png", ".json") for name in masks] == finished
    assert not any(name.startswith("probabilities/") for name in tree(out))
    assert record(out)["finished"] is False
    monkeypatch.setattr(predictor, "predict", real)
    counts = infer_folder(source, out, predictor, **again).counts
    assert counts == {"done": 4 - len(finished), "skipped": len(finished), "failed": 0}
    assert record(out)["finished"] is True


def test_overwrite_of_a_part_leaves_no_old_mask_behind(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    out = tmp_path / "o"
    infer_folder(source, out, predictor, quiet=True)
    again: dict[str, Any] = {"settings": FrameSettings(0.9), "quiet": True}
    infer_folder(source, out, predictor, overwrite=True, limit=1, **again)
    assert [name for name in tree(out) if name.startswith("masks/")] == ["masks/a.png"]
    lines = preview(source, out, kinds=["masks", "overlays"])
    assert [line.split(":")[0] for line in lines] == ["finished", "to do", "to do", "to do"]
    assert infer_folder(source, out, predictor, **again).counts["done"] == 3


def test_overwrite_with_the_same_settings_keeps_what_it_has_not_reached(
    source: Path, tmp_path: Path, predictor: Predictor
) -> None:
    out = tmp_path / "o"
    infer_folder(source, out, predictor, quiet=True)
    infer_folder(source, out, predictor, overwrite=True, limit=1, quiet=True)
    assert sum(name.startswith("masks/") for name in tree(out)) == 4


@pytest.mark.parametrize("change", ["damaged", "newer"])
def test_what_was_asked_before_is_made_again_with_the_rest(
    source: Path, tmp_path: Path, predictor: Predictor, change: str
) -> None:
    out = tmp_path / "o"
    infer_folder(source, out, predictor, hardness=True, probabilities=True, quiet=True)
    if change == "damaged":
        (out / "overlays" / "a.jpg").unlink()
    else:
        os.utime(source / "a.png", (1, 1))
    assert infer_folder(source, out, predictor, quiet=True).counts["done"] == 1
    expected = {"masks/a.png", "overlays/a.jpg", "hardness/a.jpg", "probabilities/a.png"}
    assert expected <= set(tree(out))


@pytest.mark.parametrize("damage", ["truncated", "emptied", "removed", "record"])
def test_damaged_results_are_made_again(source: Path, tmp_path: Path, predictor: Predictor, damage: str) -> None:
    out = tmp_path / "o"
    infer_folder(source, out, predictor, quiet=True)
    overlay, kept = out / "overlays" / "sub" / "b.jpg", (out / "masks" / "sub" / "b.png").read_bytes()
    if damage == "record":
        (out / "records" / "sub" / "b.json").write_text('{"version": 1, "image"')
    elif damage == "removed":
        overlay.unlink()
    else:
        overlay.write_bytes(overlay.read_bytes()[:50] if damage == "truncated" else b"")
    result = infer_folder(source, out, predictor, quiet=True)
    assert {entry.image for entry in result.with_status("done")} == {"sub/b.tif"}
    assert read(overlay).shape == (97, 131, 3)
    assert (out / "masks" / "sub" / "b.png").read_bytes() == kept


def test_a_changed_image_is_done_again(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    infer_folder(source, tmp_path / "o", predictor, quiet=True)
    save(source / "a.png", corner_image(60, 60))
    result = infer_folder(source, tmp_path / "o", predictor, quiet=True)
    assert [entry.image for entry in result.with_status("done")] == ["a.png"]
    assert read(tmp_path / "o" / "masks" / "a.png").shape == (60, 60)


def test_a_part_done_again_with_another_model_makes_the_rest_unfinished(
    source: Path, tmp_path: Path, predictor: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "o"
    infer_folder(source, out, predictor, quiet=True)
    predictor.settings["model_sha256"] = "another"
    infer_folder(source / "a.png", out, predictor, overwrite=True, quiet=True)
    assert f"3 results of another model or setting are left in {out}" in capsys.readouterr().err
    assert json.loads((out / RUN_FILE).read_text())["results_of_other_settings"] == 3
    result = infer_folder(source, out, predictor, quiet=True)
    assert "another model or setting" not in capsys.readouterr().err
    assert "results_of_other_settings" not in json.loads((out / RUN_FILE).read_text())
    assert {entry.image: entry.status for entry in result.files} == {
        "a.png": "skipped",
        "dark.png": "done",
        "sub/b.tif": "done",
        "sub/c.bmp": "done",
    }
    (out / RUN_FILE).unlink()
    predictor.settings["model_sha256"] = "third"
    before = tree(out)
    with pytest.raises(ValueError, match=r"results of 'a\.png' made with another model or other settings"):
        infer_folder(source, out, predictor, quiet=True)
    assert tree(out) == before
    assert infer_folder(source, out, predictor, overwrite=True, quiet=True).counts["done"] == 4


def test_the_same_name_from_another_folder_is_refused(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    other = save(tmp_path / "day2" / "a.png", corner_image(60, 60))
    out = tmp_path / "o"
    infer_folder(source, out, predictor, quiet=True)
    kept = (out / "masks" / "a.png").read_bytes()
    with pytest.raises(ValueError, match=r"under the name 'a' of another file, 'a\.png'"):
        infer_folder(other.parent, out, predictor, quiet=True)
    assert (out / "masks" / "a.png").read_bytes() == kept
    assert infer_folder(other.parent, out, predictor, overwrite=True, quiet=True).counts["done"] == 1
    assert read(out / "masks" / "a.png").shape == (60, 60)


def test_tables_and_report_tell_of_all_in_the_folder(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    out = tmp_path / "o"
    infer_folder(source, out, predictor, quiet=True)
    before = (out / "lesions.csv").read_bytes()
    result = infer_folder(source / "a.png", out, predictor, quiet=True)  # one of them again, by itself
    assert result.counts == {"done": 0, "skipped": 1, "failed": 0}
    assert (out / "lesions.csv").read_bytes() == before
    assert "sub/c.bmp" in (out / "report.html").read_text(encoding="utf-8")


def test_a_file_that_changes_while_it_is_segmented_fails(
    source: Path, tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = predictor.predict

    def slow(images: list[np.ndarray]) -> list[np.ndarray]:
        (source / "a.png").write_bytes((source / "dark.png").read_bytes())
        return real(images)

    monkeypatch.setattr(predictor, "predict", slow)
    result = infer_folder(source, tmp_path / "o", predictor, quiet=True)
    [failed] = result.with_status("failed")
    assert failed.image == "a.png"
    assert "changed while it was segmented" in str(failed.reason)
    assert not (tmp_path / "o" / "masks" / "a.png").exists()


def test_a_file_that_vanishes_fails_alone_and_does_not_take_the_tables_along(
    source: Path, tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "IM1").write_bytes(bytes(128) + b"DICM")  # its kind shows in its content only
    real = pipeline._read

    def vanishing(job: Any) -> Any:
        if job.name == "IM1":
            (source / "IM1").unlink()
        return real(job)

    monkeypatch.setattr(pipeline, "_read", vanishing)
    result = infer_folder(source, tmp_path / "o", predictor, quiet=True)
    assert [(entry.image, entry.reason) for entry in result.with_status("failed")] == [
        ("IM1", "IM1: No such file or directory")
    ]
    monkeypatch.setattr(pipeline, "_read", real)
    (source / "a.png").unlink()  # an inbox that is emptied
    assert infer_folder(source, tmp_path / "o", predictor, quiet=True).counts["skipped"] == 3
    assert "a.png" in (tmp_path / "o" / "lesions.csv").read_text(encoding="utf-8")


def test_nothing_of_an_earlier_picture_stays(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    out = tmp_path / "o"
    infer_folder(source, out, predictor, hardness=True, quiet=True)
    (source / "a.png").write_bytes(b"broken now")
    save(source / "sub" / "b.tif", corner_image(50, 50))
    infer_folder(source, out, predictor, quiet=True)
    left = [name for name in tree(out) if Path(name).stem == "a" and "/" in name]
    assert left == []
    assert read(out / "hardness" / "sub" / "b.jpg").shape[:2] == (50, 50)  # made anew, of the new picture
    assert (out / "hardness" / "sub" / "c.jpg").is_file()  # untouched scans keep what they have


def test_further_kinds_keep_the_earlier_ones(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    out = tmp_path / "o"
    infer_folder(source / "a.png", out, predictor, hardness=True, quiet=True)
    infer_folder(source / "a.png", out, predictor, overlays=False, probabilities=True, quiet=True)
    kinds = [name.split("/")[0] for name in tree(out) if "/" in name]
    assert kinds == ["hardness", "masks", "overlays", "probabilities", "records"]
    assert infer_folder(source / "a.png", out, predictor, hardness=True, quiet=True).counts["skipped"] == 1


def test_a_scan_that_goes_by_another_name_now_leaves_no_second_mask(
    source: Path, tmp_path: Path, predictor: Predictor
) -> None:
    out = tmp_path / "o"
    infer_folder(source, out, predictor, quiet=True)
    save(source / "a.bmp", corner_image(30, 30))
    infer_folder(source, out, predictor, quiet=True)
    masks = [name for name in tree(out) if name.startswith("masks/a")]
    assert masks == ["masks/a.bmp.png", "masks/a.png.png"]


def test_files_of_others_are_never_overwritten(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    """A data set has `images/` and `masks/`, and OUT is given as the folder above."""
    out = tmp_path / "o"
    truth = save(out / "masks" / "sub" / "b.png", corner_image(97, 131))
    before = truth.read_bytes()
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"b\.png is there and no result of `phnet infer` \(1 such files\)"):
            infer_folder(source, out, predictor, overwrite=overwrite, quiet=True)
        with pytest.raises(ValueError, match="no result of `phnet infer`"):
            preview(source, out, kinds=["masks"], overwrite=overwrite)
    assert truth.read_bytes() == before
    assert tree(out) == ["masks/sub/b.png"]


def test_files_of_others_are_not_overwritten_once_an_earlier_run_has_made_others(
    source: Path, tmp_path: Path, predictor: Predictor
) -> None:
    out = tmp_path / "o"
    truth = save(out / "masks" / "a.png", corner_image(97, 131))
    before = truth.read_bytes()
    away = (source / "a.png").rename(tmp_path / "a.png")
    assert infer_folder(source, out, predictor, quiet=True).exit_code == 0
    away.rename(source / "a.png")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"masks/a\.png is there and no result"):
            infer_folder(source, out, predictor, overwrite=overwrite, quiet=True)
    assert truth.read_bytes() == before


def test_what_a_cut_short_run_has_left_is_no_file_of_others(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    out = tmp_path / "o"
    infer_folder(source, out, predictor, quiet=True)
    (out / "records" / "a.json").unlink()  # as a kill between result and record leaves it
    run = record(out)
    (out / "run.json").write_text(json.dumps({**run, "finished": False}), encoding="utf-8")
    assert infer_folder(source, out, predictor, quiet=True).counts["done"] == 1


@pytest.mark.parametrize("name", ["report.html", "lesions.csv", "lesions.json", "run.json"])
def test_another_program_s_tables_and_report_are_not_replaced(
    source: Path, tmp_path: Path, predictor: Predictor, name: str
) -> None:
    out = tmp_path / "o"
    out.mkdir()
    (out / name).write_text("[]")
    with pytest.raises(ValueError, match=f"{name} is there and no result"):
        infer_folder(source, out, predictor, report=False, quiet=True)
    assert tree(out) == [name]


def test_a_link_to_a_scan_is_a_scan_of_its_own(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    (source / "link.png").symlink_to("a.png")
    out = tmp_path / "o"
    infer_folder(source, out, predictor, quiet=True)
    assert infer_folder(source / "a.png", out, predictor, quiet=True).counts["skipped"] == 1
    assert {"masks/a.png", "masks/link.png"} <= set(tree(out))


def test_folders_of_results_among_the_images_are_named(
    source: Path, tmp_path: Path, predictor: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    save(source / "frames" / "mine.png", corner_image(40, 40))
    infer_folder(source / "a.png", source, predictor, quiet=True)
    note = "passed over: frames: holds results of an earlier run"
    assert note in preview(source, tmp_path / "o", kinds=["masks"])
    capsys.readouterr()
    infer_folder(source, tmp_path / "o", predictor, quiet=True)
    assert note in capsys.readouterr().err.splitlines()
    infer_folder(source, tmp_path / "hashed", predictor, anonymize=True, quiet=True)
    assert "frames" not in capsys.readouterr().err


def test_pictures_of_kinds_that_are_not_read_are_told_of(
    source: Path, tmp_path: Path, predictor: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.webp", "sub/b.WEBP", "sub/c.gif", "notes.txt", ".hidden.gif"):
        (source / name).touch()
    note = "passed over: pictures of kinds that are not read: 1 .gif, 2 .webp; convert them to PNG"
    assert infer_folder(source, tmp_path / "o", predictor, quiet=True).counts["done"] == 4
    assert capsys.readouterr().err.splitlines() == [note]
    assert note in preview(source, tmp_path / "o2", kinds=["masks"])


def test_masks_among_the_images_are_passed_over_and_counted(
    source: Path, tmp_path: Path, predictor: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(infer_folder(source, tmp_path / "bare", predictor, quiet=True).files)
    save(source / "a_mask.png", corner_image(40, 40))
    note = "passed over: masks of images by their names: 1"
    assert f"{note} (such as a_mask.png)" in preview(source, tmp_path / "o", kinds=["masks"])
    capsys.readouterr()
    for out, anonymize, told in ((tmp_path / "o", False, f"{note} (such as a_mask.png)"), (tmp_path / "h", True, note)):
        result = infer_folder(source, out, predictor, anonymize=anonymize, quiet=True)
        assert told in capsys.readouterr().err.splitlines()
        assert len(result.files) == before
        assert json.loads((out / "run.json").read_text())["masks_passed_over"] == 1
    assert "masks/a_mask.png" not in tree(tmp_path / "o")


def test_names_that_no_record_tells_of_are_not_left_beside_hashes(
    source: Path, tmp_path: Path, predictor: Predictor
) -> None:
    out = tmp_path / "o"
    infer_folder(source, out, predictor, quiet=True)
    (out / "records" / "a.json").unlink()
    for call in (
        lambda: infer_folder(source, out, predictor, anonymize=True, overwrite=True, quiet=True),
        lambda: preview(source, out, kinds=["masks"], anonymize=True, overwrite=True),
    ):
        with pytest.raises(ValueError, match=r"masks/a\.png is there and named in no record"):
            call()
    for kind in ("masks/a.png", "overlays/a.jpg"):
        (out / kind).unlink()
    infer_folder(source, out, predictor, anonymize=True, overwrite=True, quiet=True)
    assert not [path for path in out.rglob("*") if path.name == "sub"]  # folders have names, too
    killed = next((out / "records").iterdir())
    killed.unlink()
    run = record(out)
    (out / "run.json").write_text(json.dumps({**run, "finished": False}), encoding="utf-8")
    assert infer_folder(source, out, predictor, anonymize=True, quiet=True).counts["done"] == 1


def test_named_results_go_when_they_are_made_again_without_names(
    source: Path, tmp_path: Path, predictor: Predictor
) -> None:
    out = tmp_path / "o"
    named = infer_folder(source, out, predictor, quiet=True)
    hashed = infer_folder(source, out, predictor, anonymize=True, overwrite=True, quiet=True)
    stems = {str(Path(entry.image).with_suffix("")) for entry in named.files}
    assert not stems & {name.split("/", 1)[1].split(".")[0] for name in tree(out) if "/" in name}
    assert hashed.counts["done"] == 4
    infer_folder(source, out, predictor, overwrite=True, quiet=True)
    assert not any(entry.image in name for entry in hashed.files for name in tree(out))
    assert len([name for name in tree(out) if name.startswith("masks/")]) == 4


def test_a_part_of_the_input_takes_nothing_from_the_rest(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    """The folder `sub` alone has other names in it; what is not made under these stays under the old ones."""
    out = tmp_path / "o"
    infer_folder(source, out, predictor, quiet=True)
    result = infer_folder(source / "sub", out, predictor, limit=1, quiet=True)
    assert (result.counts["done"], result.pending) == (1, 1)
    masks = [name for name in tree(out) if name.startswith("masks/")]
    assert masks == ["masks/a.png", "masks/b.png", "masks/dark.png", "masks/sub/c.png"]
    assert infer_folder(source / "sub", out, predictor, quiet=True).counts == {"done": 1, "skipped": 1, "failed": 0}
    assert "masks/sub/c.png" not in tree(out)


def test_an_earlier_name_goes_although_a_run_was_cut_short(
    source: Path, tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o"
    infer_folder(source, out, predictor, quiet=True)
    monkeypatch.setattr(pipeline, "discard", lambda *_: None)  # killed between the new record and the old results
    infer_folder(source / "sub", out, predictor, quiet=True)
    assert {"masks/c.png", "masks/sub/c.png"} <= set(tree(out))
    monkeypatch.undo()
    assert infer_folder(source / "sub", out, predictor, quiet=True).counts["skipped"] == 2
    assert "masks/sub/c.png" not in tree(out)


def test_an_earlier_name_goes_although_the_image_fails_now(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    out = tmp_path / "o"
    infer_folder(source, out, predictor, quiet=True)
    (source / "a.png").write_bytes(b"broken")
    save(source / "a.bmp", corner_image(60, 60))  # from now on both keep their endings
    result = infer_folder(source, out, predictor, quiet=True)
    assert [entry.image for entry in result.with_status("failed")] == ["a.png"]
    assert "records/a.json" not in tree(out)
    assert "a.png" not in (out / "lesions.csv").read_text()


@pytest.mark.parametrize("change", ["another image of that name", "part of the input", "another content"])
def test_names_and_hashes_are_never_side_by_side(
    source: Path, tmp_path: Path, predictor: Predictor, change: str
) -> None:
    out = tmp_path / "o"
    for anonymize in (True, False):
        infer_folder(source, out, predictor, anonymize=not anonymize, overwrite=True, quiet=True)
        if change == "another image of that name":
            save(source / f"a.{'bmp' if anonymize else 'tif'}", corner_image(60, 60 + anonymize))
        elif change == "another content":
            save(source / "a.png", corner_image(70, 60 + anonymize))
        part = source / "sub" if change == "part of the input" else source
        infer_folder(part, out, predictor, anonymize=anonymize, overwrite=True, quiet=True)
        stems = {Path(name).name.split(".")[0] for name in tree(out) if "/" in name}
        assert all((len(stem) == 16) is anonymize for stem in stems), stems


def test_results_that_cannot_be_removed_fail_alone(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    out = tmp_path / "o"
    (out / "records" / "a.json").mkdir(parents=True)
    result = infer_folder(source, out, predictor, quiet=True)
    assert [entry.image for entry in result.with_status("failed")] == ["a.png"]
    assert result.counts["done"] == 3


def test_a_disk_that_becomes_read_only_ends_the_run(
    source: Path, tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(pipeline, "discard", refused)
    with pytest.raises(OSError, match="Read-only file system"):
        infer_folder(source, tmp_path / "o", predictor, quiet=True)


def test_a_link_to_an_image_is_an_image_of_its_own(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    (source / "zlink.png").symlink_to("a.png")
    infer_folder(source, tmp_path / "o", predictor, quiet=True)
    assert infer_folder(source, tmp_path / "o", predictor, quiet=True).counts["skipped"] == 5


def test_results_that_were_not_come_to_stay_and_do_not_count(
    source: Path, tmp_path: Path, predictor: Predictor
) -> None:
    out = tmp_path / "o"
    infer_folder(source, out, predictor, quiet=True)
    (source / "a.png").write_bytes(b"broken")
    before = tree(out)
    result = infer_folder(source, out, predictor, overwrite=True, fail_fast=True, quiet=True)
    assert (result.counts["done"], result.counts["failed"]) == (0, 1)
    assert result.pending == 3
    gone = {name for name in before if name.split(".")[0] in ("masks/a", "overlays/a", "records/a")}
    assert set(before) - set(tree(out)) == gone
    assert record(out)["counts"] == {"done": 0, "skipped": 0, "failed": 1, "pending": 3}
    assert record(out)["finished"] is False


@pytest.mark.parametrize("damage", ["other image", "cut short"])
def test_results_that_no_longer_fit_are_gone_where_a_limit_comes_first(
    source: Path, tmp_path: Path, predictor: Predictor, damage: str
) -> None:
    out = tmp_path / "o"
    infer_folder(source, out, predictor, quiet=True)
    for name in ("a.png", "sub/c.bmp"):
        if damage == "other image":
            save(source / name, corner_image(60, 60))
        else:
            (out / "masks" / name).with_suffix(".png").write_bytes(b"")
    result = infer_folder(source, out, predictor, limit=1, quiet=True)
    assert (result.counts, result.pending) == ({"done": 1, "skipped": 2, "failed": 0}, 1)
    assert record(out)["finished"] is False
    assert "masks/sub/c.png" not in tree(out)
    assert "sub/c.bmp" not in (out / "lesions.csv").read_text()


def test_images_that_fail_do_not_keep_a_limit_from_the_others(
    source: Path, tmp_path: Path, predictor: Predictor
) -> None:
    for name in ("0.png", "1.png"):
        (source / name).write_bytes(b"broken")
    counts = [infer_folder(source, tmp_path / "o", predictor, limit=2, quiet=True).counts for _ in range(3)]
    assert [count["done"] + count["skipped"] for count in counts] == [0, 2, 4]
    assert record(tmp_path / "o")["failed_earlier"] == ["0.png", "1.png"]
    lines = preview(source, tmp_path / "o", kinds=["masks"], limit=1)
    assert [line.split(":")[0] for line in lines] == ["finished"] * 4 + ["to do", "later"]


def test_equal_settings_are_equal_as_int_and_float(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    for number in (1, 1.0):
        settings = FrameSettings(0.5, Postprocess(min_area_px=number, min_area_mm2=0 * number), number)
        result = infer_folder(source, tmp_path / "o", predictor, settings=settings, quiet=True)
    assert result.counts["skipped"] == 4


def test_a_report_of_an_earlier_run_does_not_stay(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    infer_folder(source, tmp_path / "o", predictor, limit=1, quiet=True)
    infer_folder(source, tmp_path / "o", predictor, report=False, quiet=True)
    assert "report.html" not in tree(tmp_path / "o")


def test_preview_refuses_what_a_run_refuses(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    out = tmp_path / "o"
    infer_folder(source, out, predictor, quiet=True)
    other = FrameSettings(0.3).as_settings()
    with pytest.raises(ValueError, match=r"threshold 0\.5 then, 0\.3 now"):
        preview(source, out, kinds=["masks"], settings=other)
    with pytest.raises(ValueError, match="anonymize False then, True now"):
        preview(source, out, kinds=["masks"], anonymize=True)
    assert len(preview(source, out, kinds=["masks"], settings=other, overwrite=True)) == 4
    day2 = save(tmp_path / "day2" / "a.png", corner_image(60, 60))
    with pytest.raises(ValueError, match="of another file"):
        preview(day2.parent, out, kinds=["masks"])


def test_memory_that_the_network_held_is_free_for_the_smaller_batch(
    source: Path, tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that needs as many units as images, of which there are two, each held by its local variables."""

    class Unit:
        held = 0

        def __init__(self) -> None:
            Unit.held += 1
            if Unit.held > 2:
                raise RuntimeError("out of memory")

        def __del__(self) -> None:
            Unit.held -= 1

    real = predictor.predict

    def needy(images: list[np.ndarray]) -> list[np.ndarray]:
        units = [Unit() for _ in images]
        answers = real(images)
        del units
        return answers

    monkeypatch.setattr(predictor, "predict", needy)
    assert infer_folder(source, tmp_path / "o", predictor, quiet=True).counts == {"done": 4, "skipped": 0, "failed": 0}


def test_too_little_memory_for_one_scan_fails_that_scan(
    source: Path, tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = np.zeros

    def small(shape: Any, *args: Any, **options: Any) -> np.ndarray:
        if shape == (1, 97, 131):
            raise MemoryError("no room")
        return real(shape, *args, **options)

    monkeypatch.setattr(pipeline.np, "zeros", small)
    result = infer_folder(source, tmp_path / "o", predictor, quiet=True)
    assert [entry.image for entry in result.with_status("failed")] == ["sub/b.tif"]
    assert result.counts["done"] == 3


def test_batches_side_by_side_give_what_one_at_a_time_gives(
    tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from phnet_monai.inference import cores

    for index in range(40):
        save(tmp_path / "in" / f"{index:02d}.png", corner_image(40 + index, 50 + 2 * index))
    (tmp_path / "in" / "broken.png").write_bytes(b"no image")
    before, real = torch.get_num_threads(), predictor.predict
    used: set[str] = set()

    def predict(images: list[np.ndarray]) -> list[np.ndarray]:
        used.add(threading.current_thread().name.rpartition("_")[0])
        return real(images)

    monkeypatch.setattr(predictor, "predict", predict)
    torch.set_num_threads(3)
    try:
        for name, limit, where in [("one", 0.0, {""}), ("several", float("inf"), {"", "network"})]:
            monkeypatch.setattr(cores, "HEAVY", limit)
            used.clear()
            result = infer_folder(tmp_path / "in", tmp_path / name, predictor, quiet=True)
            assert result.counts == {"done": 40, "skipped": 0, "failed": 1}
            assert record(tmp_path / name)["timing"]["frames"] == 40
            assert used == where
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert tree(tmp_path / "one") == tree(tmp_path / "several")
    for path in sorted((tmp_path / "one" / "masks").iterdir()):
        assert path.read_bytes() == (tmp_path / "several" / "masks" / path.name).read_bytes()
    assert (tmp_path / "one" / "lesions.csv").read_bytes() == (tmp_path / "several" / "lesions.csv").read_bytes()


@pytest.mark.parametrize("room", [1, 3, 6])
def test_memory_that_suffices_for_one_batch_only(
    room: int, tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No image may fail that one batch at a time can do."""
    import torch

    from phnet_monai.inference import cores

    for index in range(60):
        save(tmp_path / "in" / f"{index:02d}.png", corner_image(40 + index, 50))
    before, real, lock, inside = torch.get_num_threads(), predictor.predict, threading.Lock(), [0]

    def predict(images: list[np.ndarray]) -> list[np.ndarray]:
        with lock:
            inside[0] += len(images)
            full = inside[0] > room
        try:
            if full:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return real(images)
        finally:
            with lock:
                inside[0] -= len(images)

    monkeypatch.setattr(predictor, "predict", predict)
    monkeypatch.setattr(cores, "HEAVY", float("inf"))
    torch.set_num_threads(4)
    try:
        result = infer_folder(tmp_path / "in", tmp_path / "o", predictor, quiet=True)
    finally:
        torch.set_num_threads(before)
    assert result.counts == {"done": 60, "skipped": 0, "failed": 0}
    assert [entry.height for entry in result.files] == [40 + index for index in range(60)]
    assert record(tmp_path / "o")["timing"]["frames"] == 60


def test_scans_do_not_pile_up_behind_a_slow_batch(
    tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from phnet_monai.inference import cores

    for index in range(120):
        save(tmp_path / "in" / f"{index:03d}.png", corner_image(20, 20))
    before, real, real_read = torch.get_num_threads(), predictor.predict, pipeline.read_scan
    read, calls, waited = [0], [0], threading.Event()

    def read_scan(path: Path) -> Any:
        read[0] += 1
        return real_read(path)

    def answered(self: Any, limit: int, pool: Any) -> None:
        if limit == 0:  # it waits for all batches: for the slow one, or at the end of the images
            waited.set()
        real_answered(self, limit, pool)

    def predict(images: list[np.ndarray]) -> list[np.ndarray]:
        calls[0] += 1
        if calls[0] == 2:
            waited.wait()
            most.append(read[0])
        return real(images)

    most: list[int] = []
    real_answered = pipeline.Pipeline._answered
    monkeypatch.setattr(pipeline.Pipeline, "_answered", answered)
    monkeypatch.setattr(pipeline, "read_scan", read_scan)
    monkeypatch.setattr(predictor, "predict", predict)
    monkeypatch.setattr(cores, "HEAVY", float("inf"))
    torch.set_num_threads(2)
    try:
        assert infer_folder(tmp_path / "in", tmp_path / "o", predictor, quiet=True).counts["done"] == 120
    finally:
        torch.set_num_threads(before)
    assert most[0] <= (4 + 2 + 4) * predictor.batch_size


def test_frames_of_a_long_clip_do_not_pile_up(
    tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nibabel

    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(np.zeros((20, 30, 100), dtype=np.uint8), np.eye(4)), tmp_path / "in" / "c.nii")
    asked, finished, most = [0], [0], [0]
    real_predict, real_find = predictor.predict, pipeline.find_lesions

    def predict(images: list[np.ndarray]) -> list[np.ndarray]:
        most[0] = max(most[0], asked[0] - finished[0])
        asked[0] += len(images)
        return real_predict(images)

    def find(*args: Any, **options: Any) -> Any:
        found = real_find(*args, **options)
        finished[0] += 1
        return found

    monkeypatch.setattr(predictor, "predict", predict)
    monkeypatch.setattr(pipeline, "find_lesions", find)
    infer_folder(tmp_path / "in", tmp_path / "o", predictor, overlays=False, quiet=True)
    assert finished[0] == 100
    assert most[0] <= 5 * predictor.batch_size


def test_half_written_files_of_a_killed_run_are_removed(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    left = tmp_path / "o" / "masks" / f".{'0' * 32}.part"
    own = tmp_path / "o" / "masks" / ".mine.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    own.write_bytes(b"not ours")
    infer_folder(source, tmp_path / "o", predictor, quiet=True)
    assert not left.exists()
    assert own.exists()


def test_two_runs_in_one_folder_are_refused(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    from phnet_monai.files import locked

    with locked(tmp_path / "o", "test"), pytest.raises(BlockingIOError, match="at work"):
        infer_folder(source, tmp_path / "o", predictor, quiet=True)


def test_limit_and_the_rest_later(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    first = infer_folder(source, tmp_path / "o", predictor, limit=3, quiet=True)
    assert (first.counts["done"], first.pending, first.exit_code) == (3, 1, 0)
    assert record(tmp_path / "o")["finished"] is False
    second = infer_folder(source, tmp_path / "o", predictor, limit=3, quiet=True)
    assert second.counts == {"done": 1, "skipped": 3, "failed": 0}
    assert record(tmp_path / "o")["finished"] is True


def test_fail_fast_stops_at_the_first_failure(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    (source / "b.png").write_bytes(b"no image")
    predictor.batch_size = 1
    for index in range(40):
        save(source / f"c{index:02d}.png", corner_image(20, 20))
    result = infer_folder(source, tmp_path / "o", predictor, fail_fast=True, quiet=True)
    assert [(entry.image, entry.status) for entry in result.files[:2]] == [("a.png", "done"), ("b.png", "failed")]
    assert result.pending > 20  # what was with the writers is completed
    assert result.exit_code == 3
    assert record(tmp_path / "o")["counts"]["pending"] == result.pending


def test_the_batch_shrinks_where_memory_does_not_suffice(
    source: Path, tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, sizes = predictor.predict, []

    def small(images: list[np.ndarray]) -> list[np.ndarray]:
        sizes.append(len(images))
        if len(images) > 1:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return real(images)

    for index in range(8):
        save(source / f"more{index}.png", corner_image(30, 30))
    monkeypatch.setattr(predictor, "predict", small)
    assert infer_folder(source, tmp_path / "o", predictor, quiet=True).counts["done"] == 12
    assert sizes[:3] == [4, 2, 1]
    assert set(sizes[7:]) == {1}  # after the first batch nothing larger is tried


def test_several_frames(tmp_path: Path, predictor: Predictor) -> None:
    import nibabel

    frames = [corner_image(40, 64), np.zeros((40, 64), dtype=np.uint8), corner_image(40, 64)[::-1]]
    (tmp_path / "in").mkdir()
    affine = np.diag([-0.2, -0.1, 1, 1])
    volume = nibabel.Nifti1Image(np.stack([frame.T for frame in frames], axis=-1), affine)
    volume.header.set_xyzt_units("mm")
    nibabel.save(volume, tmp_path / "in" / "stack.nii.gz")
    save(tmp_path / "in" / "single.png", corner_image(40, 64))
    out = tmp_path / "o"
    result = infer_folder(tmp_path / "in", out, predictor, hardness=True, probabilities=True, quiet=True)
    assert result.counts["done"] == 2
    written = nibabel.load(out / "masks" / "stack.nii.gz")
    np.testing.assert_allclose(written.affine, affine, rtol=1e-6)
    masks = np.asarray(written.dataobj)
    for index, frame in enumerate(frames):
        if (frame > 128).any():
            assert dice(masks[:, :, index].T > 0, frame > 128) > 0.95
    assert not masks[:, :, 1].any()
    drawn = [f"frames/stack/{kind}/{index:04d}.jpg" for kind in ("hardness", "overlays") for index in (1, 2, 3)]
    assert [name for name in tree(out) if name.startswith("frames/")] == drawn
    assert {"overlays/single.jpg", "hardness/single.jpg", "probabilities/stack.nii.gz"} <= set(tree(out))
    kept = json.loads((out / "records" / "stack.json").read_text())
    assert [frame["frame"] for frame in kept["frames"]] == [1, 2, 3]
    assert [len(frame["lesions"]) for frame in kept["frames"]] == [1, 0, 1]
    lesion = kept["frames"][0]["lesions"][0]
    assert lesion["area_mm2"] == pytest.approx(lesion["area_px"] * 0.2 * 0.1)
    assert lesion["area_px"] == pytest.approx(20 * 21, rel=0.1)
    rows = json.loads((out / "lesions.json").read_text())
    assert len(rows["lesions"] if isinstance(rows, dict) else rows) == 3


def test_a_stack_with_one_bad_frame_fails_as_a_whole(
    tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nibabel

    (tmp_path / "in").mkdir()
    volume = np.zeros((30, 20, 5), dtype=np.uint8)
    volume[:, :, 3] = 255
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), tmp_path / "in" / "s.nii")
    real = predictor.predict

    def fragile(images: list[np.ndarray]) -> list[np.ndarray]:
        if any(image.max() == 255 for image in images):
            raise RuntimeError("the fourth")
        return real(images)

    monkeypatch.setattr(predictor, "predict", fragile)
    result = infer_folder(tmp_path / "in", tmp_path / "o", predictor, quiet=True)
    assert [entry.reason for entry in result.with_status("failed")] == ["the fourth"]
    assert tree(tmp_path / "o") == WHOLE


def test_postprocessing_and_spacing_reach_mask_and_table(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    image = corner_image(120, 80)
    image[100:104, 60:64] = 230
    save(source / "a.png", image)
    options: dict[str, Any] = {"overlays": False, "report": False, "quiet": True}
    infer_folder(source / "a.png", tmp_path / "all", predictor, **options)
    settings = FrameSettings(postprocess=Postprocess(min_area_px=100), spacing_mm=0.5)
    infer_folder(source / "a.png", tmp_path / "clean", predictor, settings=settings, **options)
    both, one = read(tmp_path / "all/masks/a.png"), read(tmp_path / "clean/masks/a.png")
    assert both[98:106, 58:66].any()
    assert not one[98:106, 58:66].any()
    kept = json.loads((tmp_path / "clean/records/a.json").read_text())["frames"][0]
    assert kept["spacing_mm"] == [0.5, 0.5]
    assert [lesion["area_mm2"] / lesion["area_px"] for lesion in kept["lesions"]] == pytest.approx([0.25])
    assert record(tmp_path / "clean")["settings"]["min_area_px"] == 100


def test_anonymous_results_hold_no_name(
    source: Path, tmp_path: Path, predictor: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = source.rename(tmp_path / "Mueller")
    for path in [*secret.rglob("*.*")]:
        path.rename(path.with_name("Anna " + path.name))
    (secret / "Anna Zwilling.png").write_bytes((secret / "Anna a.png").read_bytes())
    (secret / "Anna broken.png").write_bytes(b"no image")
    out = tmp_path / "o"
    result = infer_folder(secret, out, predictor, anonymize=True)
    assert result.counts == {"done": 5, "skipped": 0, "failed": 1}
    said = capsys.readouterr()
    texts = [said.out, said.err, *tree(out)]
    texts += [(out / name).read_bytes().decode("latin-1") for name in tree(out)]
    assert not any(word in text for text in texts for word in ("Anna", "Mueller", "Zwilling", "broken.png"))
    names = sorted(entry.image for entry in result.files)
    assert len(set(names)) == 6
    assert sum(name.endswith("-2") for name in names) == 1
    assert {len(name.removesuffix("-2")) for name in names} == {16}
    assert infer_folder(secret, out, predictor, anonymize=True, quiet=True).counts["skipped"] == 5


def test_preview_writes_nothing(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    infer_folder(source, tmp_path / "o", predictor, limit=1, quiet=True)
    before = tree(tmp_path / "o")
    lines = preview(source, tmp_path / "o", kinds=("masks", "overlays"), limit=2)
    assert lines[0].startswith("finished: a.png")
    assert [line.split(":")[0] for line in lines] == ["finished", "to do", "to do", "later"]
    assert tree(tmp_path / "o") == before


def test_run_json_tells_times(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    infer_folder(source, tmp_path / "o", predictor, quiet=True)
    timing = record(tmp_path / "o")["timing"]
    assert timing["frames"] == 4
    assert timing["seconds"] > 0
    assert timing["frames_per_second"] == pytest.approx(4 / timing["seconds"], rel=0.05)
    assert timing["started"] <= timing["written"]
    assert (timing["device"], timing["batch_size"], timing["processes"]) == ("cpu", 4, 1)


def test_without_images_nothing_is_written(tmp_path: Path, predictor: Predictor) -> None:
    (tmp_path / "in").mkdir()
    result = infer_folder(tmp_path / "in", tmp_path / "o", predictor, quiet=True)
    assert result.exit_code == 4
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("threshold", [0, 1, -1, 50, float("nan")])
def test_impossible_thresholds(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold must lie"):
        FrameSettings(threshold)


@pytest.mark.parametrize("spacing", [0, -1, float("inf"), float("nan")])
def test_impossible_spacings(spacing: float) -> None:
    with pytest.raises(ValueError, match="spacing_mm"):
        FrameSettings(spacing_mm=spacing)


def test_a_run_that_is_cut_short_leaves_no_reader_behind(
    source: Path, tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The garbage collector would end it in whatever thread it runs, and wait there for ever."""

    def interrupted(images: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(predictor, "predict", interrupted)
    with pytest.raises(KeyboardInterrupt) as kept:  # with its traceback, and so with all that its frames hold
        infer_folder(source, tmp_path / "o", predictor, quiet=True)
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("read_")]
    assert kept.traceback


def test_more_images_than_are_read_ahead_stay_in_order(tmp_path: Path, predictor: Predictor, network: Any) -> None:
    for index in range(23):
        save(tmp_path / "in" / f"{index:02d}.png", corner_image(40 + index, 50))
    result = infer_folder(tmp_path / "in", tmp_path / "o", predictor, overlays=False, quiet=True)
    assert [entry.height for entry in result.files] == [40 + index for index in range(23)]
    assert sorted(network.batches) == [3, 4, 4, 4, 4, 4]  # two may be in the network at once
    for index in range(23):
        assert read(tmp_path / "o" / "masks" / f"{index:02d}.png").shape == (40 + index, 50)


def test_few_images_wait_in_memory(tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(40):
        save(tmp_path / "in" / f"{index:02d}.png", corner_image(20, 20))
    begun: list[Path] = []
    real = pipeline.read_scan
    monkeypatch.setattr(pipeline, "read_scan", lambda path: (begun.append(path), real(path))[1])
    seen: list[int] = []
    monkeypatch.setattr(predictor, "predict", _counting(predictor.predict, begun, seen))
    infer_folder(tmp_path / "in", tmp_path / "o", predictor, quiet=True)
    assert seen[0] <= 3 * predictor.batch_size
    assert len(begun) == 40


def _counting(real: Any, begun: list[Path], seen: list[int]) -> Any:
    def predict(images: list[np.ndarray]) -> list[np.ndarray]:
        seen.append(len(begun))
        return real(images)

    return predict


def test_run_json_tells_how_it_was_made(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    infer_folder(source, tmp_path / "o", predictor, quiet=True)
    content = record(tmp_path / "o")
    assert content["input"] == str(source)
    assert content["settings"] == {
        "size": 96,
        "pad_value": 0.33,
        "flip": False,
        "threshold": 0.5,
        "min_area_px": 0,
        "min_area_mm2": 0,
        "fill_holes": False,
        "largest_only": False,
        "spacing_mm": None,
        "anonymize": False,
    }
    assert {"phnet-monai", "torch", "monai", "python"} <= set(content["versions"])


def test_quiet_says_nothing_but_failures(
    source: Path, tmp_path: Path, predictor: Predictor, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "empty.png").write_bytes(b"")
    infer_folder(source, tmp_path / "o", predictor, quiet=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("failed: empty.png: ")


@pytest.mark.real_data
def test_real_images_keep_their_size(tmp_path: Path, predictor: Predictor) -> None:
    if not os.environ.get("PHNET_DATA"):
        pytest.skip("PHNET_DATA is not set")
    images = sorted(Path(os.environ["PHNET_DATA"]).glob("Dataset_BUSI_with_GT/malignant/*).png"))[:6]
    assert images
    for image in images:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / image.name).write_bytes(image.read_bytes())
    assert infer_folder(tmp_path / "in", tmp_path / "o", predictor, quiet=True).exit_code == 0
    for image in images:
        with Image.open(image) as picture, Image.open(tmp_path / "o" / "masks" / image.name) as mask:
            assert mask.size == picture.size
