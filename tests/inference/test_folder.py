"""Folders: what is written, what is skipped, what a bad file does to the others."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from phnet_monai.inference import Predictor, folder, infer_folder
from phnet_monai.inference.folder import RUN_FILE

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
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


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
    expected = [f"{kind}/{name}" for kind in ("masks", "overlays") for name in names]
    assert tree(tmp_path / "o") == sorted([*expected, RUN_FILE])
    assert read(tmp_path / "o" / "overlays" / "sub" / "b.png").shape == (97, 131, 3)


def test_probabilities_and_threshold(source: Path, tmp_path: Path, predictor: Predictor) -> None:
    options: dict[str, Any] = {"overlays": False, "probabilities": True, "quiet": True}
    infer_folder(source / "a.png", tmp_path / "o", predictor, threshold=0.9, **options)
    assert tree(tmp_path / "o") == ["masks/a.png", "probabilities/a.png", RUN_FILE]
    probs, mask = read(tmp_path / "o/probabilities/a.png"), read(tmp_path / "o/masks/a.png")
    np.testing.assert_array_equal(probs > 0.9 * 255 + 1, (mask > 0) & (probs > 0.9 * 255 + 1))
    assert not (mask > 0)[probs < 0.9 * 255 - 1].any()
    infer_folder(source / "a.png", tmp_path / "low", predictor, threshold=0.1, **options)
    assert (read(tmp_path / "low/masks/a.png") > 0).sum() > (mask > 0).sum()


def test_the_threshold_itself_is_no_lesion(tmp_path: Path, source: Path) -> None:
    class Half:
        batch_size = 1
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
    assert tree(tmp_path / "o") == ["masks/x.bmp.png", "masks/x.png.png", RUN_FILE]
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
    assert content["counts"] == result.counts
    by_name = {entry["image"]: entry for entry in content["files"]}
    assert "empty.png" in by_name["empty.png"]["reason"]
    assert by_name["dark.png"] == {
        "image": "dark.png",
        "status": "done",
        "mask": "masks/dark.png",
        "height": 50,
        "width": 60,
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
        infer_folder(source, tmp_path / "o", predictor, threshold=0.7, quiet=True)
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
    written: list[Path] = []
    real = folder.write_mask

    def interrupted(path: Path, mask: np.ndarray) -> None:
        if written:
            raise KeyboardInterrupt
        written.append(path)
        real(path, mask)

    monkeypatch.setattr(folder, "write_mask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        infer_folder(source, out, predictor, threshold=0.9, overwrite=True, quiet=True)
    assert [out / name for name in tree(out) if name.startswith("masks/")] == written
    assert not any(name.startswith("probabilities/") for name in tree(out))
    content = record(out)
    assert content["finished"] is False
    assert [entry["image"] for entry in content["files"]] == ["a.png"]
    monkeypatch.setattr(folder, "write_mask", real)
    assert infer_folder(source, out, predictor, threshold=0.9, quiet=True).counts == {
        "done": 3,
        "skipped": 1,
        "failed": 0,
    }
    assert record(out)["finished"] is True


def test_without_images_nothing_is_written(tmp_path: Path, predictor: Predictor) -> None:
    (tmp_path / "in").mkdir()
    result = infer_folder(tmp_path / "in", tmp_path / "o", predictor, quiet=True)
    assert result.exit_code == 4
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("threshold", [0, 1, -1, 50, float("nan")])
def test_impossible_thresholds(source: Path, tmp_path: Path, predictor: Predictor, threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold must lie"):
        infer_folder(source, tmp_path / "o", predictor, threshold=threshold)
    assert not (tmp_path / "o").exists()


def test_more_images_than_are_read_ahead_stay_in_order(tmp_path: Path, predictor: Predictor, network: Any) -> None:
    for index in range(23):
        save(tmp_path / "in" / f"{index:02d}.png", corner_image(40 + index, 50))
    result = infer_folder(tmp_path / "in", tmp_path / "o", predictor, overlays=False, quiet=True)
    assert [entry.height for entry in result.files] == [40 + index for index in range(23)]
    assert network.batches == [4, 4, 4, 4, 4, 3]
    for index in range(23):
        assert read(tmp_path / "o" / "masks" / f"{index:02d}.png").shape == (40 + index, 50)


def test_few_images_wait_in_memory(tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(40):
        save(tmp_path / "in" / f"{index:02d}.png", corner_image(20, 20))
    begun: list[Path] = []
    real = folder.read_image
    monkeypatch.setattr(folder, "read_image", lambda path: (begun.append(path), real(path))[1])
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
    assert content["settings"] == {"size": 96, "pad_value": 0.33, "threshold": 0.5}
    assert {"phnet-monai", "torch", "monai", "python"} <= set(content["versions"])
    assert "not installed" not in content["versions"].values()


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
