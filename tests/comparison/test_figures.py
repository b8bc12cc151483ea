"""Pictures: which images, which colours, from which checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phnet_monai.comparison import figures
from phnet_monai.comparison.figures import BOTH, FILL, PREDICTION_ONLY, TRUTH_ONLY, Picture
from phnet_monai.data import prepare_folder, write_phantoms
from phnet_monai.networks import PHNet


def checkpoint(path: Path, seed: int = 0) -> Path:
    """What `phnet train` saves, of a tiny untrained network."""
    torch.manual_seed(seed)
    arguments = {"decoder": "plain_unet", "unet_features": [4, 4, 4, 4, 4], "head_channels": 4, "embedding_size": None}
    network = PHNet(**arguments)
    info = {"network": network.arguments, "input": {"size": 32, "pad_value": 0.33}, "method": "phnet"}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"student": network.state_dict(), "teacher": network.state_dict(), "info": info}, path)
    return path


@pytest.fixture(scope="module")
def datalist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_phantoms(tmp_path_factory.mktemp("phantoms"), 30, seed=0, size_range=(50, 70))
    return prepare_folder(folder, folder / "list", labeled=4, progress=False)


def test_cases_are_chosen_by_class_and_area_alone() -> None:
    areas = {f"b{n:02d}": 0.01 * (20 - n) for n in range(20)} | {"m1": 0.3, "m2": 0.1} | {"none": 0.0}
    groups = {case: {"b": "benign", "m": "malignant", "n": "normal"}[case[0]] for case in areas}
    # benign areas run from b19 (0.01) to b00 (0.20): places round(0.1 * 19), round(0.5 * 19), round(0.9 * 19)
    assert figures.choose_cases(areas, groups) == ["b17", "b09", "b02", "m2", "m1"]
    assert figures.choose_cases(dict(reversed(areas.items())), groups) == ["b17", "b09", "b02", "m2", "m1"]
    assert figures.choose_cases({"x": 0.1, "y": 0.1}, {}) == ["x", "y"]
    assert figures.choose_cases({}, {}) == []


def test_pictures_of_a_datalist(datalist: Path) -> None:
    pictures = figures.choose_pictures(datalist)
    assert len(pictures) == 3
    assert [picture.area for picture in pictures] == sorted(picture.area for picture in pictures)
    for picture in pictures:
        assert picture.image.shape == picture.truth.shape
        assert f"{100 * picture.truth.mean():.1f} %" in picture.caption


def test_colours_of_truth_and_prediction() -> None:
    image = np.full((1, 4), 100, np.uint8)
    truth, mask = np.array([[1, 0, 1, 0]], bool), np.array([[0, 1, 1, 0]], bool)
    drawn = figures.agreement_overlay(image, truth, mask)
    for column, colour in enumerate((TRUTH_ONLY, PREDICTION_ONLY, BOTH)):
        assert drawn[0, column] == pytest.approx(np.rint(100 + FILL * (np.array(colour) - 100)), abs=1)
    assert drawn[0, 3].tolist() == [100, 100, 100]
    assert image.tolist() == [[100] * 4]


def test_colours_differ_in_lightness_too() -> None:
    """Whoever cannot tell red from green tells them by how light they are."""
    grey = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b in (TRUTH_ONLY, PREDICTION_ONLY, BOTH)]
    assert grey[2] - max(grey[:2]) > 60
    assert abs(grey[0] - grey[1]) > 10


def test_predictions_of_checkpoints(datalist: Path, tmp_path: Path) -> None:
    pictures = figures.choose_pictures(datalist)
    (tmp_path / "broken.pt").write_bytes(b"no checkpoint")
    files = {
        "one": checkpoint(tmp_path / "a" / "last.pt"),
        "gone": tmp_path / "gone.pt",
        "broken": tmp_path / "broken.pt",
        "two": checkpoint(tmp_path / "b" / "last.pt", seed=1),
    }
    found, failed = figures.predict(pictures, files, device="cpu")
    assert list(found) == ["one", "two"]
    assert failed["gone"] == "no checkpoint"
    assert "not a readable checkpoint" in failed["broken"]
    for probs in found.values():
        assert [one.shape for one in probs] == [picture.image.shape for picture in pictures]
    assert not np.allclose(found["one"][0], found["two"][0])


def test_grids_are_drawn(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 1, 60, dtype=np.float32), (40, 1))
    truth = np.zeros((40, 60), bool)
    truth[10:30, 20:40] = True
    pictures = [
        Picture("case 1", "benign", (255 * ramp).astype(np.uint8), truth),
        Picture("2", "", truth * np.uint8(90), truth),
    ]
    predictions = {"a": [ramp, 1 - ramp], "b": [1 - ramp, truth.astype(np.float32)]}
    labels = {"a": "A", "b": "a row with a rather long name, so that it needs two lines"}
    figures.plot_masks(pictures, predictions, tmp_path / "m.png", labels=labels, title="T")
    figures.plot_probabilities(pictures, predictions, tmp_path / "p.png", labels=labels, title="T")
    for name in ("m.png", "p.png"):
        pixels = np.asarray(Image.open(tmp_path / name).convert("RGB"))
        assert pixels.std() > 20
    # surely lesion is red, surely background blue
    heat = np.asarray(Image.open(tmp_path / "p.png").convert("RGB")).astype(int)
    for colour in ([165, 0, 38], [49, 54, 149]):
        assert (np.abs(heat - colour).sum(axis=2) < 20).sum() > 20
