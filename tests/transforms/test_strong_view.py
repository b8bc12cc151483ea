"""The strong view: what is drawn, what is done with it, and that padding stays as it is."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from torch import Tensor

from phnet_monai.transforms import OPERATIONS, StrongView, photometric

SIDE = 24


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(batch: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images of bright and dark halves in [0.1, 0.8], with padding on most of them."""
    image = 0.1 + 0.7 * torch.rand(batch, 1, SIDE, SIDE, generator=generator(seed))
    valid = torch.ones(batch, SIDE, SIDE, dtype=torch.bool)
    for index in range(1, batch):
        valid[index, :, : index % 7] = False
    return image.masked_fill(~valid.unsqueeze(1), 0.33), valid


@pytest.mark.parametrize("mode", ["random_ops", "jitter"])
@pytest.mark.parametrize("seed", range(10))
def test_padding_is_kept_and_values_stay_in_range(mode, seed):
    image, valid = pictures(16, seed)
    before = image.clone()
    strong = StrongView(mode)(image, valid, generator(seed))
    assert torch.equal(image, before)
    assert strong.shape == image.shape
    assert strong.dtype == torch.float32
    assert torch.equal(strong[~valid.unsqueeze(1)], image[~valid.unsqueeze(1)])
    assert strong.min() >= 0
    assert strong.max() <= 1
    assert not torch.equal(strong, image)


@pytest.mark.parametrize("mode", ["random_ops", "jitter"])
def test_the_generator_decides_alone(mode):
    image, valid = pictures()
    view = StrongView(mode)
    torch.manual_seed(1)
    first = view(image, valid, generator(3))
    torch.manual_seed(2)
    assert torch.equal(first, view(image, valid, generator(3)))
    assert not torch.equal(first, view(image, valid, generator(4)))


@pytest.mark.parametrize("mode", ["random_ops", "jitter"])
def test_as_many_numbers_are_drawn_whatever_the_images(mode):
    view, states = StrongView(mode), []
    for seed in range(2):
        source = generator()
        view(*pictures(seed=seed), source)
        states.append(source.get_state())
    assert torch.equal(*states)


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_operation_by_name_and_in_its_range(name, monkeypatch):
    amounts = []
    operation = getattr(photometric, name)

    def spy(image, valid, amount):
        amounts.extend(amount.flatten().tolist())
        return operation(image, valid, amount)

    monkeypatch.setattr(photometric, name, spy)
    image, valid = pictures(300)
    StrongView(operations=[name], max_operations=1)(image, valid, generator())
    if name == "identity":
        assert amounts == []
        return
    assert len(amounts) == 300
    ranges = {"blur": (0.1, 2.0), "posterise": (4, 9), "solarise": (1 / 256, 1.0)}
    low, high = ranges.get(name, (0.0, 0.0) if name in ("autocontrast", "equalise") else (0.05, 0.95))
    assert low - 1e-6 <= min(amounts) <= low + 0.1 * (high - low)
    assert high - 0.1 * (high - low) <= max(amounts) <= high + 1e-6


def recorded(monkeypatch, view: StrongView, batch: int) -> list[list[tuple[str, float]]]:
    """Per image, the operations that were done on it, in order; images carry their index in their only pixel."""
    done: list[list[tuple[str, float]]] = [[] for _ in range(batch)]
    for name in OPERATIONS:

        def spy(image, valid, amount, name=name):
            for index, value in zip(image.flatten().tolist(), amount.flatten().tolist(), strict=True):
                done[round(index * batch)].append((name, value))
            return image

        monkeypatch.setattr(photometric, name, spy)
    image = torch.arange(batch).view(-1, 1, 1, 1) / batch
    strong = view(image, torch.ones(batch, 1, 1, dtype=torch.bool), generator())
    assert torch.equal(strong, image)
    return done


def test_random_operations_are_drawn_evenly(monkeypatch):
    """1 to 3 of them with equal chances, with replacement, each independently of the others."""
    names = [name for name in OPERATIONS if name != "identity"]
    done = recorded(monkeypatch, StrongView(operations=names), 6000)
    counts = Counter(len(row) for row in done)
    assert set(counts) == {1, 2, 3}
    assert all(abs(value - 2000) < 150 for value in counts.values())
    used = Counter(name for row in done for name, _ in row)
    assert set(used) == set(names)
    assert all(abs(value - 12000 / 8) < 150 for value in used.values())
    pairs = Counter(tuple(name for name, _ in row) for row in done if len(row) == 2)
    assert {(a, b) for a, b in itertools.product(names, names)} == set(pairs)  # both orders, and twice the same


def test_jitter(monkeypatch):
    done = recorded(monkeypatch, StrongView("jitter"), 6000)
    counts = Counter(tuple(name for name, _ in row) for row in done)
    shares = {row: count / 6000 for row, count in counts.items()}
    both, swapped = ("brightness", "contrast"), ("contrast", "brightness")
    expected = {(): 0.1, ("blur",): 0.1, both: 0.2, swapped: 0.2, (*both, "blur"): 0.2, (*swapped, "blur"): 0.2}
    assert shares == pytest.approx(expected, abs=0.02)
    amounts = {name: [value for row in done for other, value in row if other == name] for name in (*both, "blur")}
    for name, (low, high) in {"brightness": (0.5, 1.5), "contrast": (0.5, 1.5), "blur": (0.1, 2.0)}.items():
        assert low <= min(amounts[name]) < low + 0.02
        assert high - 0.02 < max(amounts[name]) <= high


def test_operations_follow_one_another():
    """Brightness then contrast differs from the other order; both occur, and nothing else."""
    image, valid = pictures(200)
    image, valid = image[:1].expand(200, -1, -1, -1), valid[:1].expand(200, -1, -1)
    view = StrongView("jitter", jitter_probability=1.0, blur_probability=0.0)
    view.ranges = {"brightness": (1.4, 1.4), "contrast": (0.6, 0.6)}
    strong = view(image, valid, generator())
    mask, (up, down) = valid.unsqueeze(1), torch.tensor([1.4, 0.6]).view(2, 1, 1, 1, 1)
    one = photometric.contrast(photometric.brightness(image, mask, up), mask, down)
    other = photometric.brightness(photometric.contrast(image, mask, down), mask, up)
    first = (strong - one).abs().amax(dim=(1, 2, 3)) < 1e-6
    second = (strong - other).abs().amax(dim=(1, 2, 3)) < 1e-6
    assert (first ^ second).all()
    assert 70 < first.sum() < 130


def test_without_a_mask_everything_is_valid():
    image, valid = pictures()
    view = StrongView()
    assert torch.equal(view(image, None, generator()), view(image, torch.ones_like(valid), generator()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "colour"}, "mode is 'colour'"),
        ({"operations": ["hue"]}, r"operations \['hue'\]"),
        ({"operations": []}, "operations"),
        ({"max_operations": 0}, "max_operations is 0"),
        ({"factors": (0.9, 0.1)}, "factors is"),
        ({"bits": (4, 9)}, "bits is"),
        ({"sigma": (2.0, 1.0)}, "sigma is"),
        ({"sigma": (0.0, 1.0)}, "sigma is"),
        ({"jitter": 1.5}, "jitter is 1.5"),
        ({"blur_probability": -0.1}, "blur_probability is -0.1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        StrongView(**arguments)


@pytest.mark.parametrize("image", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 8, 8), torch.zeros(3, 1, 8, 8)])
def test_shapes_that_do_not_fit_are_refused(image):
    with pytest.raises(ValueError, match="expected"):
        StrongView()(image, torch.ones(2, 8, 8, dtype=torch.bool), generator())
