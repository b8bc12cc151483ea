"""The model that ships: what it is, that the bundle and the command give the same with it, that it segments."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from phnet_monai.cli.main import main
from phnet_monai.data import read_image, read_mask
from phnet_monai.inference import Predictor
from phnet_monai.inference.models import default_model
from phnet_monai.networks import load_checkpoint, read_checkpoint
from phnet_monai.networks.digests import read_digests
from phnet_monai.shipped import bundle_folder

ROOT = Path(__file__).parents[2]
CARD = json.loads((bundle_folder() / "docs" / "model_card.json").read_text(encoding="utf-8"))


MODELS = bundle_folder() / "models"


def test_the_files_are_small_and_those_of_the_card() -> None:
    card = (bundle_folder() / "docs" / "model_card.md").read_text(encoding="utf-8")
    assert set(CARD["files"]) == set(read_digests(MODELS)) == {"model.pt", "model.safetensors"}
    for name, told in CARD["files"].items():
        content = (MODELS / name).read_bytes()
        assert len(content) == told["bytes"] < 25_000_000
        assert hashlib.sha256(content).hexdigest() == told["sha256"] == read_digests(MODELS)[name]
        assert told["sha256"] in card


def test_it_is_plain_and_in_both_files_the_same() -> None:
    assert default_model() == MODELS / "model.safetensors"
    weights = torch.load(MODELS / "model.pt", weights_only=True)
    safe = read_checkpoint(default_model())
    assert list(safe["student"]) == sorted(weights)
    assert all(torch.equal(safe["student"][name], tensor) for name, tensor in weights.items())
    assert safe["info"]["input"] == {"size": 160, "pad_value": 0.33}
    networks = [load_checkpoint(MODELS / name)[0] for name in CARD["files"]]
    assert networks[0].arguments == networks[1].arguments  # the one from inference.json, the other from its own file
    assert all(isinstance(tensor, torch.Tensor) for tensor in weights.values())
    assert all(bool(torch.isfinite(t).all()) for t in weights.values() if t.is_floating_point())
    assert {t.dtype for t in weights.values() if t.is_floating_point()} == {torch.float16}
    assert not [name for name in weights if name.startswith("projector")]


def test_metadata_tells_the_card_s_scores() -> None:
    metadata = json.loads((bundle_folder() / "configs" / "metadata.json").read_text(encoding="utf-8"))
    for part, name in (("test", "busi_test"), ("external", "busbra")):
        for score in ("pooled_dice", "mean_dice"):
            found = CARD["scores"][part]["dice_mean" if score == "mean_dice" else score]
            assert metadata["eval_metrics"][f"{name}_{score}"] == pytest.approx(found, abs=5e-5)


def test_a_training_can_start_from_it(datalist: Path, tmp_path: Path) -> None:
    few = ["--rate", "1e-12", "--max_epochs", "1", "--epoch_length", "1", "--batch_size", "2", "--num_workers", "0"]
    words = [
        "train",
        str(datalist),
        str(tmp_path / "o"),
        "--profile",
        "cpu",
        "--init",
        "default",
        "--device",
        "cpu",
        *few,
    ]
    assert main(words) == 0
    trained, given = read_checkpoint(tmp_path / "o" / "last.pt")["student"], read_checkpoint(default_model())["student"]
    learned = [name for name in given if name.endswith((".weight", ".bias"))]
    assert len(learned) > 100
    assert all(torch.allclose(trained[name], given[name].float(), atol=1e-6) for name in learned)


@pytest.mark.slow
def test_the_bundle_and_the_command_write_the_same_masks(
    phantoms: Path, run_module: Callable[..., str], tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for picture in sorted((phantoms / "images").iterdir())[:3]:
        (folder / picture.name).write_bytes(picture.read_bytes())
    config = bundle_folder() / "configs" / "inference.json"
    words = ["monai.bundle", "run", "--config_file", str(config), "--bundle_root", str(bundle_folder())]
    run_module(
        [*words, "--dataset_dir", str(folder), "--output_dir", str(tmp_path / "b"), "--device", "cpu"], cwd=tmp_path
    )
    assert main(["infer", str(folder), str(tmp_path / "c"), "--device", "cpu", "--quiet"]) == 0
    masks = sorted((tmp_path / "c" / "masks").iterdir())
    assert len(masks) == 3
    for path in masks:
        with Image.open(path) as one, Image.open(tmp_path / "b" / f"{path.stem}_mask.png") as other:
            first, second = np.asarray(one) > 0, np.asarray(other) > 0
        assert (first != second).mean() < 1e-4  # memory layouts round differently


@pytest.fixture(scope="module")
def real() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images and masks of BUS-BRA, on which nothing was trained."""
    if not os.environ.get("PHNET_DATA"):
        pytest.skip("PHNET_DATA is not set")
    folder = Path(os.environ["PHNET_DATA"]) / "BUSBRA"
    files = sorted((folder / "Images").glob("*.png"))[::13]
    assert len(files) > 20
    masks = [folder / "Masks" / file.name.replace("bus_", "mask_") for file in files]
    return [read_image(file) for file in files], [read_mask(mask) for mask in masks]


def pooled_dice(probs: list[np.ndarray], masks: list[np.ndarray]) -> float:
    both = sum(((p > 0.5) & m).sum() for p, m in zip(probs, masks, strict=True))
    return float(2 * both / sum((p > 0.5).sum() + m.sum() for p, m in zip(probs, masks, strict=True)))


@pytest.mark.real_data
def test_it_segments_images_of_another_hospital(real: tuple[list[np.ndarray], list[np.ndarray]]) -> None:
    images, masks = real
    assert pooled_dice(Predictor.from_model(default_model(), "cpu").predict(images), masks) > 0.6


@pytest.mark.real_data
@pytest.mark.parametrize("method", ["mean_teacher", "ua_mt", "ra_ugmt"])
def test_the_noise_of_a_mean_teacher_leaves_its_answer_alive(
    real: tuple[list[np.ndarray], list[np.ndarray]], method: str
) -> None:
    """With a tenth of the grey range, as published for images of unit variance, most of each lesion is lost."""
    overlay = json.loads((bundle_folder() / "configs" / "methods" / f"{method}.json").read_text(encoding="utf-8"))
    noise = overlay["train#trainer#teacher_noise"]
    images, masks = real
    predictor = Predictor.from_model(default_model(), "cpu")
    generator = np.random.default_rng(0)

    def noisy(image: np.ndarray, deviation: float) -> np.ndarray:
        change = generator.normal(0, deviation, image.shape).clip(-2 * deviation, 2 * deviation)
        return np.rint(np.clip(image + 255 * change, 0, 255)).astype(np.uint8)

    fitted = [np.asarray(Image.fromarray(image).resize((160, 160))) for image in images[::3]]
    small = [np.asarray(Image.fromarray(mask).resize((160, 160))) for mask in masks[::3]]
    clean = pooled_dice(predictor.predict(fitted), small)
    assert pooled_dice(predictor.predict([noisy(image, noise) for image in fitted]), small) > clean - 0.1
