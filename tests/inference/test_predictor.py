"""Predictor: sizes, orientation, batches, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from phnet_monai.files import sha256_of
from phnet_monai.inference import Predictor
from phnet_monai.inference.predictor import chunks, lesion_probs, pick_device

SIZES = [(96, 96), (120, 80), (80, 120), (97, 131), (333, 41), (50, 500), (1, 64), (64, 1), (1, 1)]


def corner_image(height: int, width: int) -> np.ndarray:
    """Dark uint8 (H, W) with a bright block in the upper left quarter: no flip or turn leaves it as it is."""
    image = np.full((height, width), 20, dtype=np.uint8)
    image[: height // 2, : width // 3] = 230
    return image


def dice(first: np.ndarray, second: np.ndarray) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


@pytest.mark.parametrize("size", SIZES)
def test_probabilities_have_the_image_s_size(predictor: Predictor, size: tuple[int, int]) -> None:
    [probs] = predictor.predict([corner_image(*size)])
    assert probs.shape == size
    assert probs.dtype == np.float32
    assert 0 <= probs.min() <= probs.max() <= 1


@pytest.mark.parametrize("size", [(96, 96), (120, 80), (80, 120), (97, 131), (500, 350)])
def test_orientation_and_position_are_those_of_the_image(predictor: Predictor, size: tuple[int, int]) -> None:
    image = corner_image(*size)
    [probs] = predictor.predict([image])
    assert dice(probs >= 0.5, image > 128) > 0.97
    for turned in (image[::-1], image[:, ::-1], image[::-1, ::-1]):
        assert dice(probs >= 0.5, turned > 128) < 0.5


def test_an_image_of_the_network_s_size_comes_back_exactly(predictor: Predictor) -> None:
    image = np.random.default_rng(0).integers(0, 256, (96, 96), dtype=np.uint8)
    [probs] = predictor.predict([image])
    expected = 1 / (1 + np.exp(-20 * (image / 255 - 0.5)))
    np.testing.assert_allclose(probs, expected, atol=1e-5)


def test_padding_is_no_part_of_the_answer() -> None:
    """A bright padding, lesion to this network, must not bleed into a dark image beyond the last interpolated row."""

    class Bright(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cat([torch.zeros_like(x), 20 * (x - 0.5)], dim=1)

    dark = np.zeros((40, 96), dtype=np.uint8)
    [probs] = Predictor(Bright(), size=96, pad_value=1.0).predict([dark])
    assert probs.max() < 1e-3


def test_mixed_sizes_in_one_batch_equal_one_by_one(predictor: Predictor, network: Any) -> None:
    images = [corner_image(*size) for size in SIZES]
    together = predictor.predict(images)
    assert network.batches == [4, 4, 1]
    for image, probs in zip(images, together, strict=True):
        np.testing.assert_allclose(probs, predictor.predict([image])[0], atol=1e-6)


def test_no_image_no_answer(predictor: Predictor, network: Any) -> None:
    assert predictor.predict([]) == []
    assert network.batches == []


def test_layout_changes_rounding_only() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1))
    images = [corner_image(70, 50)]
    last = Predictor(network, size=64, pad_value=0.3, channels_last=True).predict(images)[0]
    first = Predictor(network, size=64, pad_value=0.3, channels_last=False).predict(images)[0]
    np.testing.assert_allclose(last, first, atol=1e-5)


def test_flip_is_the_mean_of_both_answers() -> None:
    class Sided(nn.Module):
        """Lesion where the image is bright, and everywhere in the left half of the input."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            lesion = 20 * (x - 0.5)
            lesion[..., : x.shape[-1] // 2] = 20
            return torch.cat([torch.zeros_like(x), lesion], dim=1)

    image = np.zeros((64, 64), dtype=np.uint8)
    [plain] = Predictor(Sided(), size=64, pad_value=0.3).predict([image])
    [both] = Predictor(Sided(), size=64, pad_value=0.3, flip=True).predict([image])
    np.testing.assert_allclose(both, (plain + plain[:, ::-1]) / 2, atol=1e-6)
    assert both.std() < 1e-6 < plain.std()


@pytest.mark.parametrize("size", [(97, 64), (96, 65), (120, 80), (300, 41), (5, 1)])
def test_the_mirror_image_is_seen_as_an_image_of_its_own(size: tuple[int, int]) -> None:
    """With an odd remainder of padding it lies a column beside the mirrored square."""

    class Sided(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            ramp = torch.linspace(-1, 1, x.shape[-1]).expand_as(x)
            return torch.cat([torch.zeros_like(x), 8 * (x - 0.5) + ramp], dim=1)

    image = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    straight, flipped = (Predictor(Sided(), size=48, pad_value=0.3, flip=flip) for flip in (False, True))
    one, other = straight.predict([image])[0], straight.predict([image[:, ::-1]])[0]
    np.testing.assert_allclose(flipped.predict([image])[0], (one + other[:, ::-1]) / 2, atol=1e-6)


def test_a_function_is_a_network_too() -> None:
    """Other runtimes are no modules."""

    def bright(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(x), 20 * (x - 0.5)], dim=1)

    [probs] = Predictor(bright, size=32, pad_value=0.3).predict([corner_image(32, 32)])
    assert dice(probs > 0.5, corner_image(32, 32) > 128) == 1


def test_dropout_and_gradients_are_off() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Dropout(0.5))
    predictor = Predictor(network, size=32, pad_value=0.3)
    first, second = predictor.predict([corner_image(32, 32)] * 2)
    np.testing.assert_array_equal(first, second)
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), dtype=np.float32),
        np.zeros((4, 4, 3), dtype=np.uint8),
        np.zeros((0, 4), dtype=np.uint8),
        [[1, 2], [3, 4]],
        torch.zeros(4, 4, dtype=torch.uint8),
    ],
)
def test_other_things_than_grey_images_are_refused(predictor: Predictor, image: Any) -> None:
    with pytest.raises(ValueError, match=r"images\[1\]: expected a uint8 array"):
        predictor.predict([corner_image(4, 4), image])


def test_a_broken_network_is_no_healthy_patient() -> None:
    logits = torch.zeros(1, 2, 4, 4)
    logits[0, 1, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN"):
        lesion_probs(logits)
    with pytest.raises(ValueError, match=r"\(1, 3, 4, 4\)"):
        lesion_probs(torch.zeros(1, 3, 4, 4))


def test_lesion_is_channel_one() -> None:
    logits = torch.tensor([0.0, 2.0]).view(1, 2, 1, 1)
    assert lesion_probs(logits).item() == pytest.approx(1 / (1 + np.exp(-2.0)))


@pytest.mark.parametrize(
    "wrong", [{"size": 0}, {"batch_size": 0}, {"pad_value": 84.0}, {"pad_value": None}, {"size": None}]
)
def test_impossible_settings_are_refused(network: nn.Module, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Predictor(network, **{"size": 8, "pad_value": 0.3, **wrong})


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match="device 'meta' cannot be used"):
        pick_device("meta")
    assert pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(ValueError, match="'gpu' cannot be used"):
        pick_device("gpu")
    with pytest.raises(ValueError, match="'cuda:99' cannot be used"):
        pick_device("cuda:99")


def test_chunks() -> None:
    assert [list(chunk) for chunk in chunks([1, 2, 3, 4, 5], 2)] == [[1, 2], [3, 4], [5]]


def test_from_model_rebuilds_network_and_input(tmp_path: Path, checkpoint: Path) -> None:
    predictor = Predictor.from_model(checkpoint, "cpu", batch_size=2)
    assert (predictor.size, predictor.pad_value, predictor.batch_size) == (32, 0.25, 2)
    assert predictor.settings == {
        "model": checkpoint.name,
        "model_sha256": sha256_of(checkpoint),
        "backend": "torch",
        "which": "teacher",
        "size": 32,
        "pad_value": 0.25,
        "flip": False,
    }
    image = corner_image(45, 61)
    [probs] = predictor.predict([image])
    again = Predictor.from_model(checkpoint, "cpu").predict([image])[0]
    np.testing.assert_array_equal(probs, again)
    assert probs.std() > 0


def test_from_model_names_the_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nope\.pt"):
        Predictor.from_model(tmp_path / "nope.pt", "cpu")


@pytest.fixture
def another(tmp_path: Path, checkpoint: Path) -> Callable[..., Path]:
    """`another(**input)`: the checkpoint with other random weights and, if asked, another input."""

    def make(**changes: Any) -> Path:
        from phnet_monai.networks import PHNet

        content = torch.load(checkpoint, weights_only=True)
        torch.manual_seed(1)
        content["teacher"] = PHNet(**content["info"]["network"]).state_dict()
        content["info"]["input"] |= changes
        torch.save(content, tmp_path / "another.pt")
        return tmp_path / "another.pt"

    return make


@pytest.mark.parametrize("changes", [{}, {"size": 48}, {"pad_value": 0.6}])
def test_several_checkpoints_give_their_mean(
    checkpoint: Path, another: Callable[..., Path], changes: dict[str, Any]
) -> None:
    """Whatever input each of them has: the mean of what they say alone, at the image's own size."""
    files = [checkpoint, another(**changes)]
    images = [corner_image(45, 61), corner_image(80, 33), corner_image(20, 20)]
    alone = [Predictor.from_model(file, "cpu").predict(images) for file in files]
    assert np.abs(alone[0][0] - alone[1][0]).max() > 1e-3
    together = Predictor.from_model(files, "cpu", batch_size=2)
    for probs, first, second in zip(together.predict(images), *alone, strict=True):
        assert probs.dtype == np.float32
        np.testing.assert_allclose(probs, (first + second) / 2, atol=1e-5)
    assert together.settings == {
        "model": ["tiny.pt", "another.pt"],
        "model_sha256": [sha256_of(file) for file in files],
        "backend": "torch",
        "which": "teacher",
        "size": None if changes else 32,
        "pad_value": None if changes else 0.25,
        "flip": False,
    }
    assert Predictor.from_model([checkpoint], "cpu").settings == Predictor.from_model(checkpoint).settings
